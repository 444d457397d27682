/**
 * Whose mirror is whose: one that a process has is left alone by every other, in whatever container, and what dead ones
 * left is removed. A process says that it lives by a lock on its mirror's folder.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, type TestContext, test } from 'vitest';
import { needs } from '../support/backends.ts';
import { compile, folder, library, needsCompiler } from './programs.ts';

needs({ backends: ['software'], because: 'it is about the software host alone' });
needsCompiler();

let shared = '';
const running: ChildProcess[] = [];
beforeEach(() => {
  shared = mkdtempSync(join(folder, 'shared-'));
});
afterEach(() => {
  for (const child of running.splice(0)) child.kill('SIGKILL');
  rmSync(shared, { recursive: true, force: true });
});

const left = () => readdirSync(shared);

/** A namespace of processes of its own, in which the program is number 1. */
const SEPARATE = ['unshare', '--pid', '--fork', '--kill-child'];
function needsNamespaces(context: TestContext): void {
  const [command = '', ...args] = SEPARATE;
  const { status, stderr, error } = spawnSync(command, [...args, 'true'], { encoding: 'utf8' });
  if (status !== 0)
    context.skip(`namespaces of processes can't be made here: ${error?.message ?? stderr.trim()}`);
}

/** Starts mirror.c on the shared folder, and waits until it has its mirror. */
async function start(what: 'hold' | 'orphan' | 'look', before: readonly string[] = []) {
  const program = compile('mirror.c');
  const preloaded = ['env', `LD_PRELOAD=${library}`, `TMPDIR=${shared}`, program, what];
  const [command = '', ...args] = [...before, ...preloaded];
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  running.push(child);
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  const closed = once(child, 'close');
  while (!said.includes('\n') && child.stdout.readable)
    await Promise.race([once(child.stdout, 'data'), closed]);
  return {
    child,
    pid: /ready (\d+)/.exec(said)?.[1],
    /** Lets it end: what it found at its end. */
    end: async () => {
      child.stdin.end();
      await closed;
      return said.trim().split('\n').at(-1);
    },
  };
}

const look = async (before: readonly string[] = []) => (await start('look', before)).end();

test('a mirror in use in one namespace of processes is left alone by the same number in another', async (context) => {
  needsNamespaces(context);
  const first = await start('hold', SEPARATE);
  expect(first.pid).toBe('1');
  const second = await start('hold', SEPARATE);
  expect(second.pid).toBe('1');
  expect(left()).toHaveLength(2);
  expect(await look(), 'outside').toBe('whole');
  expect(await look(SEPARATE)).toBe('whole');
  expect(left()).toHaveLength(2);
  expect(await second.end()).toBe('whole');
  expect(await first.end()).toBe('whole');
  expect(left()).toEqual([]);
});

test('what a killed process left is removed, though another namespace has a process of its number', async (context) => {
  needsNamespaces(context);
  const killed = await start('hold', SEPARATE);
  const other = await start('hold', SEPARATE);
  const closed = once(killed.child, 'close');
  killed.child.kill('SIGKILL');
  await closed;
  expect(left()).toHaveLength(2);
  expect(await look(SEPARATE)).toBe('whole');
  expect(left()).toHaveLength(1);
  expect(await other.end()).toBe('whole');
});

test('what a killed process left is removed by the next one', async () => {
  const killed = await start('hold');
  const closed = once(killed.child, 'close');
  killed.child.kill('SIGKILL');
  await closed;
  expect(left()).toHaveLength(1);
  expect(await look()).toBe('whole');
  expect(left()).toEqual([]);
});

test('a child of fork that lives on does not keep the mirror of its killed parent', async () => {
  const orphan = await start('orphan');
  expect(left().length).toBeGreaterThan(0);
  const before = left();
  expect(await look()).toBe('whole');
  expect(left().filter((name) => before.includes(name))).toEqual([]);
  expect(await orphan.end(), 'the child makes its own').toBe('whole');
  expect(left()).toEqual([]);
});

test('a folder that was made and never locked is removed', async () => {
  mkdirSync(join(shared, 'vfio-soft-abcdef/sys/bus'), { recursive: true });
  writeFileSync(join(shared, 'vfio-soft-abcdef/sys/bus/file'), '');
  expect(await look()).toBe('whole');
  expect(left()).toEqual([]);
});

test('no link is followed: neither one in place of a folder, nor one in a folder', async () => {
  const precious = join(shared, 'precious');
  mkdirSync(precious);
  writeFileSync(join(precious, 'file'), 'text');
  symlinkSync(precious, join(shared, 'vfio-soft-link'));
  mkdirSync(join(shared, 'vfio-soft-dead/sys'), { recursive: true });
  symlinkSync(precious, join(shared, 'vfio-soft-dead/sys/link'));
  writeFileSync(join(shared, 'vfio-soft-file'), '');
  expect(await look()).toBe('whole');
  expect(readdirSync(precious)).toEqual(['file']);
  expect(left().sort()).toEqual(['precious', 'vfio-soft-file', 'vfio-soft-link']);
});

test("another user's folder is left alone", async (context) => {
  if (process.getuid?.() !== 0) context.skip('only root can make a folder that is another user’s');
  const theirs = join(shared, 'vfio-soft-theirs');
  mkdirSync(theirs);
  chownSync(theirs, 65534, 65534);
  expect(await look()).toBe('whole');
  expect(existsSync(theirs)).toBe(true);
});

test('processes that start and end at once do not take each other for dead', {
  timeout: 120_000,
}, async () => {
  for (let round = 0; round < 5; round++)
    expect(new Set(await Promise.all(Array.from({ length: 12 }, () => look())))).toEqual(new Set(['whole']));
  expect(left()).toEqual([]);
});
