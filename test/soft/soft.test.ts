/**
 * The software host by itself, without Node: C++ programs that make its system calls, compiled against the library that
 * the addon is linked with. (`npm run test:sanitizers` runs the same programs under sanitizers.)
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { needs } from '../support/backends.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const library = join(here, '../../build/Release/vfio_soft.a');
const folder = mkdtempSync(join(tmpdir(), 'vfio-soft-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.each(['iommufd', 'vfio'])('every claim of %s.cc holds', { timeout: 300_000 }, (name) => {
  const program = join(folder, name);
  const options = ['-std=c++20', '-O1', '-Wall', '-Wextra', '-Wno-missing-field-initializers', '-Werror'];
  const built = spawnSync(
    'g++',
    [...options, join(here, `${name}.cc`), library, '-lpthread', '-o', program],
    {
      encoding: 'utf8',
    },
  );
  expect(built.stderr).toBe('');
  const run = spawnSync(program, [], { encoding: 'utf8' });
  const claims = run.stdout.split('\n').filter((line) => /^\s*(ok|FAIL)\b/.test(line));
  expect(claims.filter((line) => line.includes('FAIL'))).toEqual([]);
  expect(run.status, run.stderr).toBe(0);
  expect(claims.length).toBeGreaterThan(30);
});

needs({ backends: ['software'], because: 'it is about the software host alone' });
test('the library that they are linked with was built', () => {
  expect(existsSync(library)).toBe(true);
});
