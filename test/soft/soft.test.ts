/**
 * The software host by itself, without Node: C++ programs that make its system calls, compiled against the library that
 * the addon is linked with. (`npm run test:sanitizers` runs the same programs under sanitizers.)
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { needs } from '../support/backends.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const library = join(here, '../../build/Release/vfio_soft.a');
const folder = mkdtempSync(join(tmpdir(), 'vfio-soft-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The real calls, for a program that can make them too. */
const kernelCalls = ['kernel', 'descriptors'].map((file) => join(here, `../../native/kernel/${file}.cc`));

/** Compiles a program of this folder and returns its path. */
function build(name: string, ...more: string[]): string {
  const program = join(folder, name);
  const options = ['-std=c++20', '-O1', '-Wall', '-Wextra', '-Wno-missing-field-initializers', '-Werror'];
  const sources = [join(here, `${name}.cc`), ...more, library];
  const built = spawnSync('g++', [...options, ...sources, '-lpthread', '-o', program], { encoding: 'utf8' });
  expect(built.stderr).toBe('');
  return program;
}

/** Every program here that makes claims. */
const checks = readdirSync(here)
  .filter((file) => file.endsWith('.cc'))
  .map((file) => basename(file, '.cc'))
  .filter((name) => name !== 'iommufd_bench' && !name.endsWith('_trace'));

/** The requirements that its claims carry. */
const ids = (name: string) => {
  const found = readFileSync(join(here, `${name}.cc`), 'utf8').matchAll(/\b([A-E]\d)(?=[:)])/g);
  return [...new Set([...found].map(([id]) => id))].sort().join(' ');
};

test.each(checks.map((name) => [name, ids(name)] as const))(
  'every claim of %s.cc holds %s',
  {
    timeout: 300_000,
  },
  (name) => {
    const program = build(name);
    const run = spawnSync(program, [], { encoding: 'utf8' });
    const claims = run.stdout.split('\n').filter((line) => /^\s*(ok|FAIL)\b/.test(line));
    expect(claims.filter((line) => line.includes('FAIL'))).toEqual([]);
    expect(run.status, run.stderr).toBe(0);
    expect(claims.length).toBeGreaterThan(5);
  },
);

needs({ backends: ['software'], because: 'it is about the software host alone' });
test('the library that they are linked with was built', () => {
  expect(existsSync(library)).toBe(true);
});

test('1,500 answers are those that the real kernel gave', { timeout: 300_000 }, () => {
  // Recorded in the guest, see docs/testing.md. Numbers of groups and of the device's major are the machine's own, and
  // so is the class entry of a group, which is found by its number.
  const program = build('vfio_trace', ...kernelCalls);
  const answers = spawnSync(program, ['soft'], { encoding: 'utf8' })
    .stdout.replace(/iommu_groups\/\d+/g, 'iommu_groups/N')
    .replace(/vfio-dev \d+:/g, 'vfio-dev N:')
    .replace(/MAJOR=\d+/g, 'MAJOR=N')
    .split('\n')
    .filter((line) => !line.startsWith('group class ->'));
  expect(answers.length).toBeGreaterThan(1500);
  expect(answers).toEqual(readFileSync(join(here, 'vfio_trace.txt'), 'utf8').split('\n'));
});

test('the test-only command of iommufd answers as the real kernel does', { timeout: 300_000 }, () => {
  const answers = spawnSync(build('selftest_trace'), ['soft'], { encoding: 'utf8' }).stdout.split('\n');
  expect(answers.length).toBeGreaterThan(360);
  expect(answers).toEqual(readFileSync(join(here, 'selftest_trace.txt'), 'utf8').split('\n'));
});

test('600 answers of groups and containers are those that the real kernel gave, on VT-d and on AMD (A2, B1, D4)', {
  timeout: 300_000,
}, () => {
  const program = build('group_trace', ...kernelCalls);
  for (const [kinds, file] of [
    [[], 'group_trace.txt'],
    [['amd'], 'group_trace_amd.txt'],
  ] as const) {
    const answers = spawnSync(program, ['soft', ...kinds], { encoding: 'utf8' }).stdout.split('\n');
    expect(answers.length).toBeGreaterThan(600);
    expect(answers).toEqual(readFileSync(join(here, file), 'utf8').split('\n'));
  }
});

test('280 answers about devices without an IOMMU and parameters are those that the real kernel gave (A2, A3)', {
  timeout: 300_000,
}, () => {
  const program = build('noiommu_trace', ...kernelCalls);
  const answers = spawnSync(program, ['soft'], { encoding: 'utf8' }).stdout.split('\n');
  expect(answers.length).toBeGreaterThan(280);
  expect(answers).toEqual(readFileSync(join(here, 'noiommu_trace.txt'), 'utf8').split('\n'));
});

test('what is said of page tables is what the real kernel said, on VT-d and on AMD', {
  timeout: 300_000,
}, () => {
  const program = build('page_tables_trace', ...kernelCalls);
  for (const [kind, file] of [
    ['vtd', 'page_tables_trace.txt'],
    ['amd', 'page_tables_trace_amd.txt'],
  ] as const) {
    const answers = spawnSync(program, ['soft', kind], { encoding: 'utf8' }).stdout.split('\n');
    expect(answers.length).toBeGreaterThan(240);
    expect(answers).toEqual(readFileSync(join(here, file), 'utf8').split('\n'));
  }
});

test('4,000 answers about address spaces are those that the real kernel gave', { timeout: 300_000 }, () => {
  const program = build('ioas_trace', ...kernelCalls);
  const disk = join(here, '../../build/ioas-trace-disk');
  const answers = spawnSync(program, ['soft', disk], { encoding: 'utf8' }).stdout.split('\n');
  expect(answers.length).toBeGreaterThan(4000);
  expect(answers).toEqual(readFileSync(join(here, 'ioas_trace.txt'), 'utf8').split('\n'));
});
