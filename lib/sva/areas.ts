/** The areas of this process's memory, as /proc/self/maps shows them: where memory is, and what the process may do with it. */
import { readFileSync } from 'node:fs';
import type { IovaRange } from '../addon/records.ts';
import { VfioError } from '../base/errors.ts';
import { span } from '../base/hex.ts';

/** An area: `last` is the address of its last byte. */
export interface Area extends IovaRange {
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  /** A file behind it, or a name such as '[stack]'; '': none. */
  readonly name: string;
}

/** All areas, by ascending address. @throws {VfioError} the error of the read: without /proc, nothing is known. */
export function areas(): Area[] {
  let text: string;
  try {
    text = readFileSync('/proc/self/maps', 'utf8');
  } catch (error) {
    const { errno = 0 } = error as { errno?: number };
    throw new VfioError(errno, {
      syscall: 'open',
      path: '/proc/self/maps',
      reason: "the process's areas of memory are unknown without it",
      cause: error,
    });
  }
  return areasOf(text);
}

/** The areas that the text of such a file lists. */
export function areasOf(text: string): Area[] {
  const lines = text.matchAll(/^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])([x-])[ps] \S+ \S+ \d+ *(.*)$/gm);
  return Array.from(lines, ([, start, end, read, write, execute, name = '']) => ({
    start: BigInt(`0x${start}`),
    last: BigInt(`0x${end}`) - 1n,
    read: read === 'r',
    write: write === 'w',
    execute: execute === 'x',
    name,
  }));
}

/** The area that an address lies in. */
export const areaAt = (list: readonly Area[], address: bigint): Area | undefined =>
  list.find(({ start, last }) => start <= address && address <= last);

/** Why a device can't be given these bytes to read and write; undefined: nothing that the areas show forbids it. */
export function forbids(list: readonly Area[], start: bigint, last: bigint): string | undefined {
  for (let at = start; at <= last; ) {
    const area = areaAt(list, at);
    if (area === undefined) {
      const next = list.find((each) => each.start > at)?.start ?? last + 1n;
      return `nothing is mapped in ${span(at, next > last ? last : next - 1n)}`;
    }
    if (!area.read || !area.write)
      return `the process may ${area.read ? 'only read' : 'not read'} ${span(area.start, area.last)}${area.name && ` (${area.name})`}`;
    at = area.last + 1n;
  }
  return undefined;
}
