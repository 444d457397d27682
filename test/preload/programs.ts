/**
 * Shared code of the tests in this folder. It compiles programs without any code for the software host, and runs them on it
 * with the preload library. A program prints a line for each claim, "ok ..." or "FAIL ...".
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect } from 'vitest';
import { backend } from '../support/backends.ts';

export const here = import.meta.dirname;
export const root = join(here, '../..');
export const library = join(root, 'build/preload/vfio-soft-preload.so');
export const folder = mkdtempSync(join(tmpdir(), 'preload-test-'));

export const has = (command: string): boolean => spawnSync(command, ['--version']).error === undefined;

/** Builds the library, except on the kernel backend, which does not need it. Skips the tests if there is no compiler. */
export function needsCompiler(): void {
  // In the guest the test files that import this module share one process and one instance of the module.
  beforeAll(() => {
    mkdirSync(folder, { recursive: true });
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const missing = ['make', 'gcc', 'g++', 'flock'].filter((command) => !has(command));
  beforeAll(() => {
    if (missing.length > 0 || backend === 'kernel') return;
    // The test files of this folder may run at the same time.
    const make = ['make', '-s', '-j2', '-C', join(root, 'native/preload')];
    const made = spawnSync('flock', [join(root, 'native/preload/Makefile'), ...make], { encoding: 'utf8' });
    expect(made.stderr).toBe('');
  }, 900_000);
  beforeEach((context) => {
    if (missing.length > 0)
      context.skip(`the library can't be compiled here: there is no ${missing.join(', no ')}`);
  });
}

/** Runs a program: on the software host with the library, or on the kernel in the guest without it. */
export function run(command: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  const preload = backend === 'kernel' ? {} : { LD_PRELOAD: library };
  // The mirror of sysfs is made in a separate folder, so that a test can check what remains of it.
  const all = { ...process.env, ...env, ...preload, TMPDIR: folder };
  const { status, signal, stdout, stderr } = spawnSync(command, args, { env: all, encoding: 'utf8' });
  return { status, signal, stdout, stderr };
}

export function compile(source: string, ...options: string[]): string {
  const program = join(folder, source.replace(/\W/g, '-'));
  const compiler = source.endsWith('.cc') ? 'g++' : 'gcc';
  const all = ['-O2', '-Wall', '-Wextra', '-Wno-unused-function', ...options];
  const built = spawnSync(compiler, [...all, join(here, source), '-o', program, '-lpthread'], {
    encoding: 'utf8',
  });
  expect(built.stderr).toBe('');
  return program;
}

export function expectClaims(result: ReturnType<typeof run>, atLeast: number): void {
  const claims = result.stdout.split('\n').filter((line) => line !== '');
  expect(claims.filter((line) => !line.startsWith('ok '))).toEqual([]);
  expect({ status: result.status, signal: result.signal, stderr: result.stderr }).toEqual({
    status: 0,
    signal: null,
    stderr: '',
  });
  expect(claims.length).toBeGreaterThanOrEqual(atLeast);
}

/** The mirrors of sysfs that programs have left behind. */
export const mirrors = () => readdirSync(folder).filter((name) => name.startsWith('vfio-soft-'));
