/** What the machine has to have for some instances of the self-test, and what becomes of them where it is missing. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import type { Outcome } from './program.ts';

export interface Means {
  /** Put before the command, to have the capabilities that the self-test expects of root. */
  readonly through: readonly string[];
  /** Why there is no CAP_SYS_RESOURCE (to choose who pays for pins) or CAP_IPC_LOCK (to pin much); undefined: there is. */
  readonly noCapability: string | undefined;
  /** Why there are no huge pages, or undefined when there are. */
  readonly noHugePages: string | undefined;
  /** Gives back what was taken. */
  readonly giveBack: () => void;
}

/** The huge pages of a machine, of 2 MiB each. */
export interface HugePages {
  /** How many nobody uses. */
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

/** What the largest instance maps, 128 MiB, and one buffer more. */
export const wantedPages = 66;

/** Has the kernel reserve the huge pages that are missing. */
export function reserve(pages: HugePages): Pick<Means, 'noHugePages' | 'giveBack'> {
  const free = pages.free();
  if (free >= wantedPages) return { noHugePages: undefined, giveBack: () => {} };
  const before = pages.total();
  const needed = `it needs ${wantedPages} huge pages of 2 MiB`;
  try {
    // The kernel reports no error where it finds memory for fewer.
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
  // Root of a user namespace has them there, and the software host asks no further.
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

/** Why an instance can't pass on this machine, or undefined: it has what the instance needs. */
export function unable(instance: string, machine: Omit<Means, 'giveBack'>): string | undefined {
  if (machine.noCapability !== undefined && privileged.test(instance)) return machine.noCapability;
  return huge.test(instance) ? machine.noHugePages : undefined;
}

/** Why an instance is skipped, or undefined: then it has to have passed. */
export function skipped(
  instance: string,
  outcome: Outcome | undefined,
  machine: Omit<Means, 'giveBack'>,
): string | undefined {
  return outcome?.passed === true ? undefined : unable(instance, machine);
}
