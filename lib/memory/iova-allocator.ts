/**
 * Chooses the IOVA of the next mapping, for containers: type1 chooses none by itself.
 *
 * Life: made from the usable ranges and the mappings; then each range that is taken or given back is recorded. It may become
 * outdated (other processes map too, and the usable ranges change when groups join and leave). The kernel decides: when it
 * refuses a place, a new allocator is made.
 */

import type { IovaRange } from '../addon/records.ts';
import { SortedList } from '../base/sorted-list.ts';

const MEBIBYTE = 1n << 20n;
/** The page sizes of IOMMUs above the smallest. */
const HUGE = 2n * MEBIBYTE;
const GIGANTIC = 1024n * MEBIBYTE;

/**
 * The alignment of an IOVA that lets the IOMMU use huge pages: the length rounded up to a power of two, but no more than the
 * alignment of the memory's own address. iommufd does the same, up to 2 MiB. Here memory that is aligned to 1 GiB and at
 * least that long gets 1 GiB.
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
  /** The same gaps in two orders: by address, and by size (then address). No gap begins directly after another. */
  readonly #byAddress = new SortedList<IovaRange>((a, b) => a.start < b.start);
  readonly #bySize = new SortedList<IovaRange>((a, b) => {
    const difference = sizeOf(a) - sizeOf(b);
    return difference < 0n || (difference === 0n && a.start < b.start);
  });

  /** `page`: the smallest page size. */
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
    // An alignment of 1 GiB is tried first, but not required. iommufd insists on up to 2 MiB where it chooses; so does this.
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

  /** Takes a range out of the free ones. Parts of it may be taken already. */
  take(start: bigint, last: bigint): void {
    for (const gap of this.#touching(start, last)) {
      this.#remove(gap);
      if (gap.start < start) this.#add({ start: gap.start, last: start - 1n });
      if (gap.last > last) this.#add({ start: last + 1n, last: gap.last });
    }
  }

  /** Makes the usable parts of a range free again. */
  give(start: bigint, last: bigint): void {
    for (const usable of this.#usable) {
      let from = start > usable.start ? start : usable.start;
      let to = last < usable.last ? last : usable.last;
      if (from > to) continue;
      for (const gap of this.#touching(from - 1n, to + 1n)) {
        // A gap of an adjacent usable range is not joined to this one: a mapping must lie in one usable range.
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
