/**
 * A kernel that lies: no length, count or offset that a call answers is trusted beyond what was given to it. The calls
 * of the binding are made on files that answer by chance (test/native/liar.cc), from a seed that is printed.
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

// VFIO_LIBRARIES: what else is loaded, as a sanitizer's library, with VFIO_PREBUILD naming an addon built for it. Behind the
// liar: the sanitizer would believe it and see a write where there is none.
const libraries = [liar, process.env['VFIO_LIBRARIES']].filter(Boolean).join(' ');
const fresh = Math.floor(Math.random() * 2 ** 31);

test.each([1, 2, fresh])(
  'with seed %i: every error is of a kind, nothing crashes, waits or grows',
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
    // Warnings are left out: memory that liars spoke of is kept, and what they broke off is collected, whenever that is.
    expect(run.stderr).toBe('');
    expect(run.status).toBe(0);
    const found = JSON.parse(run.stdout);
    expect(found).toMatchObject({ wrong: [], slow: [] });
    expect(found.returned).toBeGreaterThan(1000);
    expect(found.refused).toBeGreaterThan(500);
    expect(found.megabytes).toBeLessThan(600);
  },
);
