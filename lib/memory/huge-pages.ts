/** Why no huge pages could be had: the system's pool of them, as sysfs shows it. */
import { readFileSync } from 'node:fs';
import type { VfioError, Words } from '../base/errors.ts';

const PATH = '/sys/kernel/mm/hugepages';

/** A number of a pool; undefined: the kernel has no pages of that size, or sysfs can't be read. */
function numberOf(folder: string, name: string): number | undefined {
  try {
    return Number(readFileSync(`${folder}/${name}`, 'utf8'));
  } catch {
    return undefined;
  }
}

/** Why `size` bytes of huge pages of 2^`shift` bytes, of that NUMA node or of any, could not be had. */
export function wordsForHugePages(
  error: VfioError,
  size: bigint,
  shift: number,
  node: number | undefined,
): Words | undefined {
  if (error.code !== 'ENOMEM' && error.code !== 'EINVAL') return undefined;
  const pool = `hugepages-${2 ** (shift - 10)}kB`;
  const folder =
    node === undefined ? `${PATH}/${pool}` : `/sys/devices/system/node/node${node}/hugepages/${pool}`;
  const free = numberOf(folder, 'free_hugepages');
  const all = numberOf(folder, 'nr_hugepages');
  if (free === undefined || all === undefined) {
    if (node !== undefined) return undefined;
    return { reason: `possible: the kernel has no huge pages of this size (there is no ${folder})` };
  }
  const page = 1n << BigInt(shift);
  const wanted = Number((size + page - 1n) / page);
  // Pages that others have reserved but not touched are free, and can't be had. The pool of a node does not count them.
  const reserved = numberOf(folder, 'resv_hugepages') ?? 0;
  const left = Math.max(0, free - reserved);
  const held = `the pool ${folder} has ${all}, of which ${left} can be had`;
  if (left >= wanted)
    return { reason: `possible: a limit of the control group (hugetlb): ${wanted} are needed, and ${held}` };
  return {
    reason: `${wanted} huge pages are needed, and ${held}`,
    hint: `As root: echo ${all + wanted - left} > ${folder}/nr_hugepages (large pages are best reserved when the machine starts: hugepagesz= and hugepages= on the kernel's command line)`,
  };
}
