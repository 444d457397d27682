/**
 * A kernel that lies: no length, count or offset that a call returns is trusted beyond the buffer that was passed to it. The
 * binding's calls are made on files that give random answers (test/native/liar.cc), from a seed that is printed.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { needs } from './support/backends.ts';

needs({
  backends: ['software'],
  because: 'it is about the binding, whatever the machine: the files are made up',
});

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'vfio-lies-'));
const liar = join(folder, 'liar.so');

beforeAll(() => {
  const options = ['-std=c++20', '-Wall', '-Wextra', '-Wno-missing-field-initializers', '-Werror'];
  const built = spawnSync(
    'g++',
    [...options, '-shared', '-fPIC', 'test/native/liar.cc', '-o', liar, '-ldl'],
    {
      cwd: root,
      encoding: 'utf8',
    },
  );
  expect(built.stderr).toBe('');
}, 300_000);
afterAll(() => rmSync(folder, { recursive: true }));

// VFIO_LIBRARIES: more libraries to preload, such as a sanitizer's; VFIO_PREBUILD names an addon that is built for it. They come
// after the liar: otherwise the sanitizer would take its answers for true, and report writes that never happened.
const libraries = [liar, process.env['VFIO_LIBRARIES']].filter(Boolean).join(' ');
const fresh = Math.floor(Math.random() * 2 ** 31);

test.each([1, 2, fresh])(
  'with seed %i: every error is of a known kind, and nothing crashes, waits for ever or grows',
  {
    timeout: 600_000,
  },
  (seed) => {
    const run = spawnSync(process.execPath, ['--no-warnings', 'test/native/lies.mjs', '150'], {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, LD_PRELOAD: libraries, VFIO_LIES: String(seed) },
    });
    console.log(`seed ${seed}: ${run.stdout}`);
    // Warnings are ignored: memory that the liar's answers concern is kept, and interrupted handles are collected at any time.
    expect(run.stderr).toBe('');
    expect(run.status).toBe(0);
    const found = JSON.parse(run.stdout);
    expect(found).toMatchObject({ wrong: [], slow: [] });
    expect(found.returned).toBeGreaterThan(1000);
    expect(found.refused).toBeGreaterThan(500);
    expect(found.megabytes).toBeLessThan(600);
  },
);
