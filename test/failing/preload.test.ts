/**
 * The same for programs in C on the preload library: what it lacks is the errno of the program's call, and never the end
 * of the program. And programs that have truly used up their descriptors or their memory.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { compile, folder, library, needsCompiler } from '../preload/programs.ts';
import { needs } from '../support/backends.ts';

needs({ backends: ['software'], because: 'it is about the software host alone' });
needsCompiler();

const thorough = process.env['VFIO_FAILING'] === 'all';
const here = import.meta.dirname;
// Each try makes the trees that programs see: in memory, where there is such a place.
const place = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : folder, 'preload-failing-'));
afterAll(() => rmSync(place, { recursive: true, force: true }));

function shim(): string {
  const path = join(folder, 'shim.so');
  const options = [
    '-O1',
    '-shared',
    '-fPIC',
    '-fvisibility=hidden',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-Wl,-z,lazy',
  ];
  const built = spawnSync('gcc', [...options, join(here, 'shim.c'), '-o', path, '-ldl', '-lpthread'], {
    encoding: 'utf8',
  });
  expect(built.stderr).toBe('');
  return path;
}

function start(program: string, args: string[], preload: string, more: NodeJS.ProcessEnv = {}) {
  const env = { ...process.env, ...more, TMPDIR: place, LD_PRELOAD: preload };
  return spawnSync(program, args, { env, encoding: 'utf8', maxBuffer: 1 << 28 });
}

test('each thing that the library lacks is an errno, and the program goes on', { timeout: 3_600_000 }, () => {
  const program = compile('../failing/exhausted.c');
  const ended = start(program, thorough ? ['40', '7'] : ['6', '199'], `${library}:${shim()}`, {
    FAILING_LIBRARY: 'vfio-soft-preload',
  });
  const table = new Map<string, number>();
  for (const line of ended.stderr.split('\n').filter((each) => each !== ''))
    table.set(line, (table.get(line) ?? 0) + 1);
  console.log([...table].map(([what, times]) => `${what}: ${times} times`).join('\n'));
  const lines = ended.stdout.split('\n').filter((line) => line !== '');
  expect(lines.slice(0, -1)).toEqual([]);
  expect({ status: ended.status, signal: ended.signal }).toEqual({ status: 0, signal: null });
  expect(lines.at(-1)).toMatch(/^\d+ tries, 0 wrong$/);
  const failed = new Set([...table.keys()].map((line) => line.split(' ')[0]));
  const kinds = [
    'malloc',
    'mmap',
    'eventfd',
    'socketpair',
    'memfd_create',
    'ftruncate',
    'opendir',
    'open',
    'mkdtemp',
    'mkdir',
    'symlink',
  ];
  expect([...failed].sort()).toEqual(expect.arrayContaining(kinds));
  expect(readdirSync(place)).toEqual([]);
});

test('a program without descriptors or memory is told so, and has them again afterwards', () => {
  const ended = start(compile('../failing/used-up.c'), [], library);
  const claims = ended.stdout.split('\n').filter((line) => line !== '');
  expect(claims.filter((line) => !line.startsWith('ok '))).toEqual([]);
  expect({ status: ended.status, signal: ended.signal, stderr: ended.stderr }).toEqual({
    status: 0,
    signal: null,
    stderr: '',
  });
  expect(claims.length).toBe(7);
});
