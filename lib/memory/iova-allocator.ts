/**
 * Where the next mapping goes, for spaces whose kernel side chooses no addresses: type1.
 *
 * Life: made of what is usable and what is mapped, then told of each range that is taken and given back. It may fall
 * behind (others map too, and what is usable changes as groups come and go): the kernel has the last word, and a
 * place that it refuses is reason to make a new allocator.
 */

import type { IovaRange } from '../addon/records.ts';
import { SortedList } from '../base/sorted-list.ts';

const MEBIBYTE = 1n << 20n;
/** The page sizes that IOMMUs have above the smallest. */
const HUGE = 2n * MEBIBYTE;
const GIGANTIC = 1024n * MEBIBYTE;

/**
 * How an address should be aligned so that huge pages stay huge: to the length rounded up to a power of two, as far
 * as the memory's own address is. iommufd does the same, and stops at 2 MiB; memory that is made of whole GiB gets
 * that.
 */
export function alignmentFor(length: bigint, address: bigint, least: bigint): bigint {
  let rounded = least;
  while (rounded < length && rounded < GIGANTIC) rounded *= 2n;
  const own = address & -address;
  const both = own === 0n || rounded < own ? rounded : own;
  const useful = both < GIGANTIC && both > HUGE ? HUGE : both;
  return useful > least ? useful : least;
}

/** The free ranges of an address space. Ranges are inclusive; page 0 is never given out. */
export class IovaAllocator {
  readonly #page: bigint;
  readonly #usable: readonly IovaRange[];
  /** The same gaps in two orders: by address, and by size (then address). None touches another. */
  readonly #byAddress = new SortedList<IovaRange>((a, b) => a.start < b.start);
  readonly #bySize = new SortedList<IovaRange>((a, b) => {
    const difference = sizeOf(a) - sizeOf(b);
    return difference < 0n || (difference === 0n && a.start < b.start);
  });

  /** `page`: the smallest. */
  constructor(usable: readonly IovaRange[], page: bigint) {
    this.#page = page;
    this.#usable = usable
      .map(({ start, last }) => ({ start: start < page ? page : start, last }))
      .filter(({ start, last }) => start <= last);
    for (const range of this.#usable) this.#add(range);
  }

  /** The free ranges, by address. */
  get free(): readonly IovaRange[] {
    return [...this.#byAddress.from(() => true)];
  }

  /** Takes the best place for `length` bytes of memory at `address`. Undefined: there is none. */
  place(length: bigint, address: bigint): IovaRange | undefined {
    const whole = up(length, this.#page);
    const alignment = alignmentFor(whole, address, this.#page);
    // Whole GiB are a wish; the rest is what the kernel insists on where it chooses.
    const start =
      this.allocate(whole, alignment) ?? (alignment > HUGE ? this.allocate(whole, HUGE) : undefined);
    return start === undefined ? undefined : { start, last: start + whole - 1n };
  }

  /**
   * Takes the best fit: the smallest gap that has an aligned place for `length` bytes, the lowest one of several, and
   * in it the lowest place. Undefined: there is none.
   */
  allocate(length: bigint, alignment: bigint): bigint | undefined {
    for (const gap of this.#bySize.from((each) => sizeOf(each) >= length)) {
      const at = up(gap.start, alignment);
      if (at + length - 1n > gap.last) continue;
      this.take(at, at + length - 1n);
      return at;
    }
    return undefined;
  }

  /** A range is in use. Parts that are taken already stay so. */
  take(start: bigint, last: bigint): void {
    for (const gap of this.#touching(start, last)) {
      this.#remove(gap);
      if (gap.start < start) this.#add({ start: gap.start, last: start - 1n });
      if (gap.last > last) this.#add({ start: last + 1n, last: gap.last });
    }
  }

  /** A range is free again, as far as it is usable. */
  give(start: bigint, last: bigint): void {
    for (const usable of this.#usable) {
      let from = start > usable.start ? start : usable.start;
      let to = last < usable.last ? last : usable.last;
      if (from > to) continue;
      for (const gap of this.#touching(from - 1n, to + 1n)) {
        // A gap of another usable range that ends or begins here stays apart: what is between them is nobody's.
        if (gap.start < usable.start || gap.last > usable.last) continue;
        this.#remove(gap);
        if (gap.start < from) from = gap.start;
        if (gap.last > to) to = gap.last;
      }
      this.#add({ start: from, last: to });
    }
  }

  /** The gaps that share an address with the range. */
  #touching(start: bigint, last: bigint): IovaRange[] {
    const found: IovaRange[] = [];
    for (const gap of this.#byAddress.from((each) => each.last >= start)) {
      if (gap.start > last) break;
      found.push(gap);
    }
    return found;
  }

  #add(gap: IovaRange): void {
    this.#byAddress.add(gap);
    this.#bySize.add(gap);
  }

  #remove(gap: IovaRange): void {
    this.#byAddress.remove(gap);
    this.#bySize.remove(gap);
  }
}

function up(value: bigint, to: bigint): bigint {
  return ((value + to - 1n) / to) * to;
}

function sizeOf({ start, last }: IovaRange): bigint {
  return last - start + 1n;
}
