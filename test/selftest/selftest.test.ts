/**
 * The software host against the kernel's own self-test of iommufd (linux-source-6.12, unmodified). One test for each
 * instance that is known to pass; the real kernel of the guest passes all 190.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { missing } from '../support/kernel-source.ts';
import { compile, means, type Outcome, runSelftest } from './program.ts';

const passes = readFileSync(join(import.meta.dirname, 'passes.txt'), 'utf8')
  .trim()
  .split('\n');

const machine = means();
afterAll(machine.giveBack);
const outcomes: Map<string, Outcome> =
  missing === undefined ? await runSelftest(await compile(), machine.through) : new Map();

/** Why this machine can't run it, or undefined. */
function unable(instance: string): string | undefined {
  if (missing !== undefined) return missing;
  const privileged = /^iommufd\.global_options$|_dirty(64|128)M/;
  if (machine.noCapability !== undefined && privileged.test(instance)) return machine.noCapability;
  const huge = /_huge\.|hugepage\.(basic|all_aligns|all_aligns_copy)$|\.(access_domain_destory|huge_map)$/;
  return huge.test(instance) ? machine.noHugePages : undefined;
}

test.for(passes)('%s', (instance, ctx) => {
  const outcome = outcomes.get(instance);
  const reason = unable(instance);
  if (reason !== undefined && outcome?.passed !== true) return ctx.skip(reason);
  expect(outcome, 'it was not run').toBeDefined();
  expect(outcome?.passed, outcome?.said.join('\n')).toBe(true);
});

test('no instance ends in a crash', (ctx) => {
  if (missing !== undefined) return ctx.skip(missing);
  const crashed = [...outcomes].filter(
    ([instance, { said }]) =>
      unable(instance) === undefined && said.some((line) => /terminated unexpectedly by signal/.test(line)),
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
