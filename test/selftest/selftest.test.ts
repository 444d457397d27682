/**
 * The software host against the kernel's own self-test of iommufd (linux-source-6.12, unmodified). One test for each
 * instance that is known to pass; the real kernel of the guest passes all 190.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { missing } from '../support/kernel-source.ts';
import { means, skipped, unable } from './means.ts';
import { compile, type Outcome, runSelftest } from './program.ts';

const passes = readFileSync(join(import.meta.dirname, 'passes.txt'), 'utf8')
  .trim()
  .split('\n');

const machine = means();
const outcomes = new Map<string, Outcome>();
try {
  if (missing === undefined)
    for (const [instance, outcome] of await runSelftest(await compile(), machine.through))
      outcomes.set(instance, outcome);
} finally {
  machine.giveBack();
}

test.for(passes)('%s', (instance, ctx) => {
  const outcome = outcomes.get(instance);
  const reason = missing ?? skipped(instance, outcome, machine);
  if (reason !== undefined) return ctx.skip(reason);
  expect(outcome, 'it was not run').toBeDefined();
  expect(outcome?.passed, outcome?.said.join('\n')).toBe(true);
});

test('no instance ends in a crash', (ctx) => {
  if (missing !== undefined) return ctx.skip(missing);
  const crashed = [...outcomes].filter(
    ([instance, { said }]) =>
      unable(instance, machine) === undefined &&
      said.some((line) => /terminated unexpectedly by signal/.test(line)),
  );
  expect(Object.fromEntries(crashed)).toEqual({});
});

afterAll(() => {
  const passing = [...outcomes].filter(([, { passed }]) => passed).map(([instance]) => instance);
  console.log(`${passing.length} of ${outcomes.size} pass`);
  const listed = new Set(passes);
  const fresh = passing.filter((instance) => !listed.has(instance));
  if (fresh.length > 0) console.log(`these pass and are not in passes.txt: ${fresh.join(' ')}`);
  for (const [instance, { passed, said }] of outcomes) {
    const why = said.find((line) => line.includes('Expected')) ?? '';
    if (!passed && !listed.has(instance)) console.log(`does not pass: ${instance}\n  ${why}`);
  }
});
