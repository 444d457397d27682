/** The harness of the self-test: an instance that fails is skipped where the machine lacks what it needs, and only there. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type HugePages, reserve, skipped, wantedPages } from './means.ts';
import { parse } from './program.ts';

const passes = readFileSync(join(import.meta.dirname, 'passes.txt'), 'utf8')
  .trim()
  .split('\n');

/** A machine with memory for `most` huge pages, of which `used` are in use. */
function machine(total: number, used: number, most: number): HugePages {
  let now = total;
  return {
    free: () => now - used,
    total: () => now,
    setTotal: (count) => {
      now = Math.min(count, most);
    },
  };
}

test.for([
  [0, 0],
  [10, 10],
  [70, 60],
  [66, 0],
])(
  'with %d huge pages of which %d are in use, the missing ones are reserved and given back',
  ([total = 0, used = 0]) => {
    const pages = machine(total, used, 1000);
    const { noHugePages, giveBack } = reserve(pages);
    expect(noHugePages).toBeUndefined();
    expect(pages.free()).toBe(wantedPages);
    giveBack();
    expect(pages.total()).toBe(total);
  },
);

test('a machine with memory for one page too few says so, and gets back what it gave', () => {
  const pages = machine(3, 3, 3 + wantedPages - 1);
  const { noHugePages, giveBack } = reserve(pages);
  expect(noHugePages).toBe('it needs 66 huge pages of 2 MiB and the kernel found memory for 65 of them');
  giveBack();
  expect(pages.total()).toBe(3);
});

test('a user who may not reserve pages is told why', () => {
  const pages = machine(5, 0, 5);
  pages.setTotal = () => {
    throw new Error('EACCES');
  };
  expect(reserve(pages).noHugePages).toBe(
    'it needs 66 huge pages of 2 MiB, of which 5 are free, and no more can be reserved: Error: EACCES',
  );
});

const skippedOn = (noCapability: string | undefined, noHugePages: string | undefined) =>
  passes.filter((instance) =>
    skipped(instance, { passed: false, said: [] }, { through: [], noCapability, noHugePages }),
  ).length;

test('no instance that fails is skipped on a machine that has all', () => {
  const has = { through: [], noCapability: undefined, ...reserve(machine(0, 0, wantedPages)) };
  expect(passes.filter((instance) => skipped(instance, { passed: false, said: [] }, has))).toEqual([]);
  expect(passes.filter((instance) => skipped(instance, undefined, has))).toEqual([]);
});

test('without huge pages 22 that fail are skipped, without capabilities 21, and none that passes', () => {
  expect(skippedOn(undefined, 'no pages')).toBe(22);
  expect(skippedOn('no capability', undefined)).toBe(21);
  const none = { through: [], noCapability: 'no capability', noHugePages: 'no pages' };
  expect(passes.filter((instance) => skipped(instance, { passed: true, said: [] }, none))).toEqual([]);
});

test('an instance has passed that says "ok", and not one that was skipped, failed or is missing', () => {
  const outcomes = parse(
    'TAP version 13\n1..4\nok 1 a.b\n# why\nnot ok 2 c.d\nok 3 e.f # SKIP no such device\n',
  );
  expect([...outcomes]).toEqual([
    ['a.b', { passed: true, said: [] }],
    ['c.d', { passed: false, said: ['# why'] }],
    ['e.f', { passed: false, said: [] }],
  ]);
});
