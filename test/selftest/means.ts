/** What some instances of the self-test need of the machine, and how they are handled if the machine lacks it. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import type { Outcome } from './program.ts';

export interface Means {
  /** The words to put before the command, so that it has the capabilities that the self-test expects of root. */
  readonly through: readonly string[];
  /** Why CAP_SYS_RESOURCE (to choose the account of pins) or CAP_IPC_LOCK (to pin much) is missing; undefined: both exist. */
  readonly noCapability: string | undefined;
  /** Why there are no huge pages; undefined: there are. */
  readonly noHugePages: string | undefined;
  /** Gives the reserved pages back. */
  readonly giveBack: () => void;
}

/** The huge pages of a machine, of 2 MiB each. */
export interface HugePages {
  /** The number of unused ones. */
  free(): number;
  total(): number;
  setTotal(count: number): void;
}

const file = '/proc/sys/vm/nr_hugepages';
const ofThisMachine: HugePages = {
  free: () => Number(/^HugePages_Free:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0),
  total: () => Number(readFileSync(file, 'utf8')),
  setTotal: (count) => writeFileSync(file, String(count)),
};

/** The largest instance maps 128 MiB, and one more buffer. */
export const wantedPages = 66;

/** Has the kernel reserve the huge pages that are missing. */
export function reserve(pages: HugePages): Pick<Means, 'noHugePages' | 'giveBack'> {
  const free = pages.free();
  if (free >= wantedPages) return { noHugePages: undefined, giveBack: () => {} };
  const before = pages.total();
  const needed = `it needs ${wantedPages} huge pages of 2 MiB`;
  try {
    // The kernel reports no error if it finds memory for fewer pages only.
    pages.setTotal(before + wantedPages - free);
  } catch (error) {
    const noHugePages = `${needed}, of which ${free} are free, and no more can be reserved: ${error}`;
    return { noHugePages, giveBack: () => {} };
  }
  const found = pages.free();
  return {
    noHugePages:
      found < wantedPages ? `${needed} and the kernel found memory for ${found} of them` : undefined,
    giveBack: () => pages.setTotal(before),
  };
}

function capabilities(): Pick<Means, 'through' | 'noCapability'> {
  const effective = BigInt(
    `0x${/^CapEff:\s*(\w+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`,
  );
  const needed = (1n << 14n) | (1n << 24n); // CAP_IPC_LOCK, CAP_SYS_RESOURCE
  if ((effective & needed) === needed) return { through: [], noCapability: undefined };
  // The root user of a user namespace has them there. The software host makes no other check.
  const through = ['unshare', '--user', '--map-root-user', '--'];
  const [command = '', ...rest] = through;
  const tried = spawnSync(command, [...rest, 'true'], { encoding: 'utf8' });
  if (tried.status === 0) return { through, noCapability: undefined };
  const why = tried.error?.message ?? tried.stderr.trim();
  return {
    through: [],
    noCapability: `it needs CAP_SYS_RESOURCE or CAP_IPC_LOCK, which this user hasn't, nor a user namespace: ${why}`,
  };
}

export const means = (): Means => ({ ...capabilities(), ...reserve(ofThisMachine) });

const privileged = /^iommufd\.global_options$|_dirty(64|128)M/;
const huge = /_huge\.|hugepage\.(basic|all_aligns|all_aligns_copy)$|\.(access_domain_destory|huge_map)$/;

/** Why an instance can't pass on this machine; undefined: the machine has what the instance needs. */
export function unable(instance: string, machine: Omit<Means, 'giveBack'>): string | undefined {
  if (machine.noCapability !== undefined && privileged.test(instance)) return machine.noCapability;
  return huge.test(instance) ? machine.noHugePages : undefined;
}

/** Why an instance is skipped; undefined: it is not, so it must have passed. */
export function skipped(
  instance: string,
  outcome: Outcome | undefined,
  machine: Omit<Means, 'giveBack'>,
): string | undefined {
  return outcome?.passed === true ? undefined : unable(instance, machine);
}
