/**
 * The differential fuzzer (docs/fuzzing.md) without a guest: another software host stands in for the kernel. Is a
 * mistake found that was planted in one of them, and shrunk? And does the host still answer what the kernel did?
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { backend, needs } from '../support/backends.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const sources = join(root, 'test/fuzz/diff');
const folder = mkdtempSync(join(tmpdir(), 'vfio-fuzz-'));
const program = join(folder, 'diff_fuzz');
const corpus = readdirSync(join(sources, 'corpus')).map((name) => join(sources, 'corpus', name));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

needs({ backends: ['software'], because: 'it is about the software host alone' });

beforeAll(() => {
  if (backend !== 'software') return;
  const files = readdirSync(sources).filter((name) => name.endsWith('.cc'));
  const built = spawnSync(
    'g++',
    [
      ...['-std=c++20', '-O1', '-Wall', '-Wextra', '-Wno-missing-field-initializers', '-Werror'],
      ...files.map((name) => join(sources, name)),
      join(root, 'native/kernel/kernel.cc'),
      join(root, 'native/kernel/descriptors.cc'),
      join(root, 'build/Release/vfio_soft.a'),
      ...['-lpthread', '-o', program],
    ],
    { encoding: 'utf8' },
  );
  expect(built.stderr).toBe('');
}, 300_000);

/** A run of 3 seconds against a software host that makes no mistake. */
function fuzz(name: string, plant: string): { status: number | null; output: string } {
  const share = join(folder, name);
  mkdirSync(share);
  const guest = spawn(program, ['serve-software', share], { stdio: 'ignore' });
  try {
    const run = spawnSync(program, ['fuzz', '--seconds', '3', '--seed', '1', `iommufd=${share}`], {
      encoding: 'utf8',
      env: { ...process.env, VFIO_FUZZ_PLANT: plant, VFIO_TEST_REPORT: '' },
    });
    return { status: run.status, output: run.stdout };
  } finally {
    writeFileSync(join(share, 'quit'), '');
    guest.kill();
  }
}

test('two hosts that are the same do not differ', { timeout: 60_000 }, () => {
  const { status, output } = fuzz('same', '');
  expect(output).toContain('0 sequences differ, in 0 ways');
  expect(status).toBe(0);
});

test('a planted mistake is found and shrunk to the calls that it takes', { timeout: 60_000 }, () => {
  const { status, output } = fuzz('planted', 'unmap-length');
  expect(status).toBe(1);
  const shrunk = /IOMMU_IOAS_UNMAP 0 0 \(\d+ times\), shrunk:\n(.*?)\n\n/s.exec(output)?.[1] ?? output;
  const calls = shrunk.split('\n').filter((line) => /^ {2}\S/.test(line));
  expect(calls.map((call) => call.trim().split(' ').slice(0, 3).join(' '))).toEqual([
    expect.stringMatching(/^open =f\d+ 2/),
    expect.stringMatching(/^ioctl \$f\d+ 3b81/),
    expect.stringMatching(/^ioctl \$f\d+ 3b(85|83|71)/),
    expect.stringMatching(/^ioctl \$f\d+ 3b86/),
  ]);
});

test("the host gives the kernel's answers to the corpus, and would fail if it did not", {
  timeout: 120_000,
}, () => {
  const right = spawnSync(program, ['check', ...corpus], { encoding: 'utf8' });
  expect(right.stdout.split('\n').filter((line) => !line.startsWith('ok '))).toEqual(['']);
  expect(right.status).toBe(0);
  const wrong = spawnSync(program, ['check', ...corpus], {
    encoding: 'utf8',
    env: { ...process.env, VFIO_FUZZ_PLANT: 'unmap-length' },
  });
  expect(wrong.stdout).toContain('FAIL');
  expect(wrong.status).toBe(1);
});
