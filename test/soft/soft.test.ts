/**
 * The software host by itself, without Node: C++ programs that make its system calls, compiled against the library that
 * the addon is linked with. (`npm run test:sanitizers` runs the same programs under sanitizers.)
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, test } from 'vitest';
import { needs } from '../support/backends.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const programs = join(here, '../../build/test-soft/plain');

// One after another, a compilation of each program takes some minutes; make does two at a time, and only what has changed.
beforeAll(() => {
  const made = spawnSync('make', ['-s', '-j2', '-C', here, 'programs'], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  expect(made.stderr).toBe('');
  expect(made.status).toBe(0);
}, 900_000);

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

test.for(checks.map((name) => [name, ids(name)] as const))(
  'every claim of %s.cc holds %s',
  {
    timeout: 300_000,
  },
  async ([name], { annotate }) => {
    const program = join(programs, name);
    const run = spawnSync(program, [], { encoding: 'utf8' });
    const lines = run.stdout.split('\n');
    const claims = lines.filter((line) => /^\s*(ok|FAIL)\b/.test(line));
    for (const line of lines) if (line.startsWith('skip: ')) await annotate(line.slice(6), 'skip');
    expect(claims.filter((line) => line.includes('FAIL'))).toEqual([]);
    expect(run.status, run.stderr).toBe(0);
    expect(claims.length).toBeGreaterThan(5);
  },
);

needs({ backends: ['software'], because: 'it is about the software host alone' });

test('1,500 answers are those that the real kernel gave', { timeout: 300_000 }, () => {
  // Recorded in the guest, see docs/testing.md. Numbers of groups and of the device's major are the machine's own, and
  // so is the class entry of a group, which is found by its number.
  const program = join(programs, 'vfio_trace');
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
  const answers = spawnSync(join(programs, 'selftest_trace'), ['soft'], { encoding: 'utf8' }).stdout.split(
    '\n',
  );
  expect(answers.length).toBeGreaterThan(360);
  expect(answers).toEqual(readFileSync(join(here, 'selftest_trace.txt'), 'utf8').split('\n'));
});

test('600 answers of groups and containers are those that the real kernel gave, on VT-d and on AMD (A2, B1, D4)', {
  timeout: 300_000,
}, () => {
  const program = join(programs, 'group_trace');
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
  const program = join(programs, 'noiommu_trace');
  const answers = spawnSync(program, ['soft'], { encoding: 'utf8' }).stdout.split('\n');
  expect(answers.length).toBeGreaterThan(280);
  expect(answers).toEqual(readFileSync(join(here, 'noiommu_trace.txt'), 'utf8').split('\n'));
});

test('what is said of page tables is what the real kernel said, on VT-d and on AMD', {
  timeout: 300_000,
}, () => {
  const program = join(programs, 'page_tables_trace');
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
  const program = join(programs, 'ioas_trace');
  const disk = join(here, '../../build/ioas-trace-disk');
  const answers = spawnSync(program, ['soft', disk], { encoding: 'utf8' }).stdout.split('\n');
  expect(answers.length).toBeGreaterThan(4000);
  expect(answers).toEqual(readFileSync(join(here, 'ioas_trace.txt'), 'utf8').split('\n'));
});

// failing.h: what runs out, and comes back, leaves no trace. A seed says where each call begins to fail.
const traces: readonly (readonly [string, string, readonly string[]])[] = [
  ['vfio_trace', 'vfio_trace.txt', []],
  ['group_trace', 'group_trace.txt', []],
  ['noiommu_trace', 'noiommu_trace.txt', []],
  ['page_tables_trace', 'page_tables_trace.txt', ['vtd']],
  ['selftest_trace', 'selftest_trace.txt', []],
  ['ioas_trace', 'ioas_trace.txt', [join(here, '../../build/ioas-trace-disk')]],
];
test.each(traces)(
  'each call of %s is answered the same after it failed for lack of anything',
  {
    timeout: 600_000,
  },
  (name, _file, args) => {
    const program = join(programs, name);
    const answers = spawnSync(program, ['soft', ...args], { encoding: 'utf8', maxBuffer: 1 << 26 }).stdout;
    const thorough = process.env['VFIO_FAILING'] === 'all';
    const first = Number(process.env['VFIO_SEED'] ?? Date.now() % 100_000) + 1;
    let failures = 0;
    for (let seed = first; seed < first + (thorough ? 64 : 3); seed++) {
      const run = spawnSync(program, [`failing${seed}`, ...args], { encoding: 'utf8', maxBuffer: 1 << 26 });
      const lines = run.stderr.split('\n').filter((line) => line !== '');
      const table = lines.filter((line) => line.includes(' | '));
      failures += table.reduce((sum, line) => sum + Number(line.split(' | ')[2]), 0);
      expect({ seed, wrong: lines.filter((line) => !line.includes(' | ')) }).toEqual({ seed, wrong: [] });
      expect(run.stdout.split('\n')).toEqual(answers.split('\n'));
      expect({ seed, status: run.status, signal: run.signal }).toEqual({ seed, status: 0, signal: null });
    }
    console.log(`${name}: ${failures} calls failed first, from seed ${first}`);
    expect(failures).toBeGreaterThan(100);
  },
);
