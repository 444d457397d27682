/** The choice of addresses for mappings: properties over random sequences, compared with a plain list of the taken pages. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SortedList } from '../lib/base/sorted-list.ts';
import { alignmentFor, IovaAllocator } from '../lib/memory/iova-allocator.ts';

const PAGE = 4096n;
const X86 = [
  { start: 0n, last: 0xfedfffffn },
  { start: 0xfef00000n, last: 2n ** 48n - 1n },
];

interface Range {
  start: bigint;
  last: bigint;
}
const overlap = (a: Range, b: Range) => a.start <= b.last && a.last >= b.start;

/** A few small usable ranges, so that they fill up. */
const usable = fc
  .array(fc.tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 1, max: 60 })), {
    minLength: 1,
    maxLength: 4,
  })
  .map((pairs) => {
    let at = 0n;
    return pairs.map(([gap, pages]) => {
      const start = at + BigInt(gap) * PAGE;
      at = start + BigInt(pages) * PAGE + PAGE;
      return { start, last: start + BigInt(pages) * PAGE - 1n };
    });
  });

const step = fc.oneof(
  fc.record({
    kind: fc.constant('place' as const),
    bytes: fc.integer({ min: 1, max: 20 * 4096 }),
    address: fc.integer({ min: 1, max: 1 << 20 }),
  }),
  fc.record({ kind: fc.constant('free' as const), which: fc.nat() }),
  fc.record({ kind: fc.constant('take' as const), page: fc.nat(200), pages: fc.integer({ min: 1, max: 8 }) }),
);

describe('the allocator', () => {
  test('gives out usable, free and aligned ranges, the best fit; and none only if there is no room', () => {
    fc.assert(
      fc.property(usable, fc.array(step, { maxLength: 60 }), (ranges, steps) => {
        const allocator = new IovaAllocator(ranges, PAGE);
        const taken: Range[] = [];
        /** The free gaps, found by walking all pages. */
        const gaps = () => {
          const found: Range[] = [];
          for (const { start, last } of ranges)
            for (let page = start; page <= last; page += PAGE) {
              const free =
                page > 0n && !taken.some((each) => overlap(each, { start: page, last: page + PAGE - 1n }));
              const before = found.at(-1);
              if (free && before !== undefined && before.last + 1n === page && page > start)
                before.last += PAGE;
              else if (free) found.push({ start: page, last: page + PAGE - 1n });
            }
          return found;
        };
        for (const each of steps) {
          if (each.kind === 'place') {
            const length = BigInt(Math.ceil(each.bytes / 4096)) * PAGE;
            const address = BigInt(each.address) * PAGE;
            const alignment = alignmentFor(length, address, PAGE);
            const fitting = gaps()
              .map((gap) => ({ gap, at: ((gap.start + alignment - 1n) / alignment) * alignment }))
              .filter(({ gap, at }) => at + length - 1n <= gap.last)
              .sort(
                (a, b) =>
                  Number(a.gap.last - a.gap.start - (b.gap.last - b.gap.start)) || Number(a.at - b.at),
              );
            const placed = allocator.place(BigInt(each.bytes), address);
            const best = fitting[0];
            expect(placed).toEqual(best && { start: best.at, last: best.at + length - 1n });
            if (placed) taken.push(placed);
          } else if (each.kind === 'free' && taken.length > 0) {
            const [gone] = taken.splice(each.which % taken.length, 1) as [Range];
            allocator.give(gone.start, gone.last);
          } else if (each.kind === 'take') {
            const start = BigInt(each.page) * PAGE;
            const range = { start, last: start + BigInt(each.pages) * PAGE - 1n };
            allocator.take(range.start, range.last);
            if (!taken.some((other) => overlap(other, range))) taken.push(range);
            else allocator.give(range.start, range.last);
            // The range overlapped others that were taken already: giving it back freed these too, so they are taken again.
            for (const other of taken) allocator.take(other.start, other.last);
          }
          expect(allocator.free).toEqual(gaps());
        }
      }),
      { numRuns: 200 },
    );
  });

  test('freeing everything, in any order, makes the whole free again', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 4 << 20 }), fc.nat()), { maxLength: 80 }),
        (requests) => {
          const allocator = new IovaAllocator(X86, PAGE);
          const whole = structuredClone(allocator.free);
          const placed = requests
            .map(([bytes, order]) => ({ order, at: allocator.place(BigInt(bytes), 0x7f0000000000n) }))
            .sort((a, b) => a.order - b.order);
          for (const { at } of placed) if (at) allocator.give(at.start, at.last);
          expect(allocator.free).toEqual(whole);
        },
      ),
    );
  });

  test('no page is given out twice; the reserved window and page 0 never are', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 64 << 20 }), { maxLength: 100 }), (sizes) => {
        const allocator = new IovaAllocator(X86, PAGE);
        const taken: Range[] = [{ start: 0n, last: PAGE - 1n }];
        for (const bytes of sizes) {
          const at = allocator.place(BigInt(bytes), 0n) as Range;
          expect(taken.some((each) => overlap(each, at))).toBe(false);
          expect(X86.some((each) => each.start <= at.start && each.last >= at.last)).toBe(true);
          taken.push(at);
        }
      }),
    );
  });

  test('only usable ranges become free', () => {
    const allocator = new IovaAllocator([{ start: 0x10000n, last: 0x1ffffn }], PAGE);
    allocator.take(0n, 2n ** 64n - 1n);
    expect(allocator.free).toEqual([]);
    expect(allocator.place(1n, 0n)).toBeUndefined();
    allocator.give(0n, 2n ** 64n - 1n);
    expect(allocator.free).toEqual([{ start: 0x10000n, last: 0x1ffffn }]);
  });

  test('the last page below 2^64 can be given out', () => {
    const allocator = new IovaAllocator([{ start: 2n ** 64n - 4096n, last: 2n ** 64n - 1n }], PAGE);
    expect(allocator.place(4096n, 0n)).toEqual({ start: 2n ** 64n - 4096n, last: 2n ** 64n - 1n });
    expect(allocator.place(4096n, 0n)).toBeUndefined();
  });
});

describe('alignment', () => {
  const MIB = 1n << 20n;
  test.each([
    ['one page', 4096n, 0x7f0000001000n, 4096n],
    ['three pages round up to four', 3n * 4096n, 0x7f0000004000n, 0x4000n],
    ['as far as the memory is aligned itself', 4n * MIB, 0x7f0000005000n, 4096n],
    ['memory at no particular place', 4n * MIB, 0n, 2n * MIB],
    ['a huge page', 2n * MIB, 0x7f0000200000n, 2n * MIB],
    ['not more than a huge page', 64n * MIB, 0x7f0000000000n, 2n * MIB],
    ['whole GiB', 1024n * MIB, 0x7f0040000000n, 1024n * MIB],
    ['GiB at an address that is not', 2048n * MIB, 0x7f0000200000n, 2n * MIB],
  ])('%s', (_, length, address, expected) => {
    expect(alignmentFor(length, address, PAGE)).toBe(expected);
  });

  test('is a power of two, never below a page, and never above what length or address have', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 1n, max: 2n ** 40n }),
        fc.bigInt({ min: 1n, max: 2n ** 35n }),
        (length, page) => {
          const address = page * PAGE;
          const alignment = alignmentFor(length, address, PAGE);
          expect(alignment & (alignment - 1n)).toBe(0n);
          expect(alignment).toBeGreaterThanOrEqual(PAGE);
          expect(address % alignment).toBe(0n);
          if (alignment > PAGE) expect(alignment / 2n).toBeLessThan(length);
        },
      ),
    );
  });

  test('if there is no place aligned to 1 GiB, one aligned to 2 MiB is taken', () => {
    const allocator = new IovaAllocator([{ start: 2n * MIB, last: 1100n * MIB - 1n }], PAGE);
    expect(allocator.place(1024n * MIB, 0x7f0040000000n)?.start).toBe(2n * MIB);
  });
});

test('a sorted list is always equal to a sorted array, however long it gets and whatever is removed', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.nat(100_000), { maxLength: 1500, size: 'max' }),
      fc.infiniteStream(fc.boolean()),
      fc.nat(100_000),
      (items, goes, from) => {
        const list = new SortedList<number>((a, b) => a < b);
        for (const each of items) list.add(each);
        const left = items.filter(() => !goes.next().value);
        const stays = new Set(left);
        for (const each of items) if (!stays.has(each)) list.remove(each);
        left.sort((a, b) => a - b);
        expect([...list.from(() => true)]).toEqual(left);
        expect([...list.from((each) => each >= from)]).toEqual(left.filter((each) => each >= from));
      },
    ),
    { numRuns: 30 },
  );
});
