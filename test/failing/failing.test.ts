/**
 * Calls that fail: each allocation, descriptor, mapping and thread that the addon takes fails once, in turn, alone and
 * with all that come after it. What must come of it is an error in words and nothing else: no half a change, nothing left
 * open, no end of the process. VFIO_FAILING=all tries every one; otherwise a part of them, chosen by VFIO_SEED.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { needs } from '../support/backends.ts';
import { run } from '../support/program.ts';
import { SCENARIOS } from './scenarios.ts';

needs({ backends: ['software'], because: 'it is about the software host alone' });
const hasCompiler = spawnSync('gcc', ['--version']).error === undefined;
beforeEach((ctx) => {
  if (!hasCompiler) ctx.skip('the shim can not be compiled here: there is no gcc');
});

const folder = mkdtempSync(join(tmpdir(), 'vfio-failing-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const shim = join(folder, 'shim.so');
beforeAll(() => {
  if (!hasCompiler) return;
  const source = join(import.meta.dirname, 'shim.c');
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
  const built = spawnSync('gcc', [...options, source, '-o', shim, '-ldl', '-lpthread'], { encoding: 'utf8' });
  expect(built.stderr).toBe('');
});

const thorough = process.env['VFIO_FAILING'] === 'all';
const seed = Number(process.env['VFIO_SEED'] ?? Date.now() % 1000);

/** Every scenario with every nth call failing, in one process; prints a line of JSON for each that went wrong. */
const SWEEP = String.raw`
import { readdirSync, readlinkSync } from 'node:fs';
const shim = { exports: {} };
process.dlopen(shim, process.env.SHIM);
const { arm, disarm } = shim.exports;
const thorough = process.env.THOROUGH === '1';
let random = Number(process.env.SEED);
const chosen = () => {
  random = (random * 1103515245 + 12345) & 0x7fffffff;
  return (random >> 16) % 12 === 0;
};

const host = Host.open({ backend: 'software' });
for (const bdf of [EDU, IVSHMEM]) await host.device(bdf).bind();
const say = (line) => console.log(JSON.stringify(line));

// Both streams are open before descriptors are counted.
say({ begin: true });
process.stderr.write('');

/** What a half-done change would show in. */
const state = () => ({
  drivers: host.devices().map((each) => each.bdf + ' ' + each.driver + ' ' + each.group).join(),
  nodes: host.groups().map((each) => each.id + ':' + each.devices.length).join(),
});
const rest = async () => {
  for (let round = 0; round < 3; round++) {
    gc();
    await turn();
  }
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [fd + ' ' + readlinkSync('/proc/self/fd/' + fd)];
    } catch {
      return []; // that of the listing itself
    }
  });
};

/** Runs it to its end or to its first error; what it kept is disposed either way, the last first. */
async function once(scenario) {
  const kept = [];
  const restored = [];
  let error;
  try {
    await scenario(
      host,
      (what) => {
        kept.push(what);
        return what;
      },
      (restore) => restored.push(restore),
    );
  } catch (thrown) {
    error = thrown;
  }
  for (const each of kept.reverse()) {
    try {
      each[Symbol.dispose]();
    } catch (thrown) {
      error ??= thrown;
      each[Symbol.dispose]();
    }
  }
  const failed = disarm();
  for (const each of restored) await each();
  return [error, failed];
}

const known = new Set(['ENOMEM', 'EMFILE', 'ENFILE', 'EAGAIN', 'ENOSPC']);
for (const [name, scenario] of Object.entries(scenarios)) {
  const [first] = await once(scenario);
  if (first) say({ name, problem: 'fails by itself', error: String(first.stack) });
  await once(scenario);
  host.software.takeFaults();
  const before = state();
  const open = await rest();
  // Memory is taken so often that a part of it must do; all the rest fails each time.
  for (const [all, memory] of [[0, 0], [1, 0], [0, 1], [1, 1]]) {
    for (let nth = 1, tried = 0; ; nth++) {
      if (!thorough && memory === 1 && nth > 4 && !chosen()) continue;
      process.stderr.write('at ' + name + ' ' + nth + ' ' + all + '\n');
      arm(nth, all, memory);
      const [error, what] = await once(scenario);
      if (what === null) break;
      say({ name, all, what, came: error === undefined ? 'done' : error.code });
      const problem = (text, more) => say({ name, nth, all, what, problem: text, ...more });
      if (error && !(error instanceof vfio.VfioError && known.has(error.code) && error.message.length > 10))
        problem('is told otherwise', { error: String(error.stack) });
      const after = state();
      if (JSON.stringify(after) !== JSON.stringify(before)) problem('leaves half a change', { before, after });
      let [again] = await once(scenario);
      if (again) {
        // Memory of a device that could not be replaced stays, and with it the device, until its view is collected.
        await rest();
        [again] = await once(scenario);
      }
      if (again) problem('fails afterwards', { error: String(again.stack) });
      if (++tried % (thorough ? 10 : 25) === 0 || error) {
        const now = await rest();
        if (now.length !== open.length) problem('leaves descriptors open', { more: now.filter((each) => !open.includes(each)) });
      }
    }
  }
  const now = await rest();
  if (now.length !== open.length) say({ name, problem: 'leaves descriptors open', more: now.filter((each) => !open.includes(each)) });
}
host[Symbol.dispose]();
say({ end: true });
`;

interface Line {
  name?: string;
  nth?: number;
  all?: number;
  what?: string;
  came?: string;
  problem?: string;
  end?: boolean;
}

test('each call that fails is an error in words, and nothing else', { timeout: 3_600_000 }, async () => {
  const env = {
    LD_PRELOAD: shim,
    SHIM: shim,
    FAILING_LIBRARY: 'vfio.node',
    THOROUGH: thorough ? '1' : '0',
    SEED: String(seed),
  };
  const ended = await run(SCENARIOS + SWEEP, env, thorough ? 3500 : 300);
  const lines = ended.stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Line);
  const table = new Map<string, Map<string, number>>();
  for (const { what, came } of lines) {
    if (what === undefined || came === undefined) continue;
    const row = table.get(what) ?? new Map<string, number>();
    table.set(what, row.set(came, (row.get(came) ?? 0) + 1));
  }
  const said = [...table].map(([what, row]) => {
    const times = [...row.values()].reduce((sum, each) => sum + each, 0);
    return `${what} failed ${times} times: ${[...row].map(([came, count]) => `${came} ${count}`).join(', ')}`;
  });
  console.log(`VFIO_SEED=${seed}\n${said.join('\n')}`);
  const problems = lines.filter((line) => line.problem !== undefined);
  expect(
    problems.map(
      ({ name, nth, all, what, problem, ...more }) =>
        `${name}, ${nth}${all === 1 ? ' and all after it' : ''}: ${what} failed, and it ${problem} ${JSON.stringify(more)}`,
    ),
  ).toEqual([]);
  expect({ code: ended.code, signal: ended.signal }, ended.stderr.split('\n').slice(-20).join('\n')).toEqual({
    code: 0,
    signal: null,
  });
  expect(lines.at(-1)).toEqual({ end: true });
  // Each kind of call was made to fail.
  expect([...table.keys()].sort()).toEqual(
    expect.arrayContaining([
      'eventfd',
      'fcntl',
      'ftruncate',
      'malloc',
      'memfd_create',
      'mmap',
      'pthread_create',
      'socketpair',
    ]),
  );
});

test('a device whose work finds no thread says so; the work is done by the calls, and the process ends', async () => {
  const body = `
    const shim = { exports: {} };
    process.dlopen(shim, process.env.SHIM);
    const { host, device, dma, registers, start, idle } = await openEdu();
    const memory = DmaBuffer.alloc(8192);
    const { iova } = dma.map(memory);
    memory.write(0, Buffer.from('no thread'));
    shim.exports.arm(1, 1, 1);
    start(iova, 0x40000n, 9, 0);
    console.log(JSON.stringify(host.software.takeFaults().map(({ bdf, reason }) => ({ bdf, reason }))));
    await host.software.settle();
    start(0x40000n, iova + 4096n, 9, 2);
    await idle();
    console.log(shim.exports.disarm(), Buffer.from(memory.bytes.subarray(4096, 4105)).toString());
    // With a thread again nothing is left to be told.
    host.software.takeFaults();
    start(iova, 0x40000n, 9, 0);
    await host.software.settle();
    console.log(host.software.takeFaults().length);
  `;
  const env = { LD_PRELOAD: shim, SHIM: shim, FAILING_LIBRARY: 'vfio.node', FAILING_ONLY: 'pthread_create' };
  const ended = await run(body, env);
  expect(ended).toMatchObject({ code: 0, signal: null });
  const [faults, moved, later] = ended.stdout.split('\n');
  expect(JSON.parse(faults ?? '')).toEqual([
    { bdf: '0000:00:10.0', reason: expect.stringMatching(/^no thread can be had .*EAGAIN/) },
  ]);
  expect([moved, later]).toEqual(['pthread_create no thread', '0']);
});

test('a host is closed also where no descriptor can be had', async () => {
  const body = `
    const shim = { exports: {} };
    process.dlopen(shim, process.env.SHIM);
    const edu = await openEdu();
    shim.exports.arm(1, 1, 1);
    edu.host[Symbol.dispose]();
    gc();
    await turn();
    gc();
    await turn();
    console.log('closed', shim.exports.disarm());
  `;
  const env = { LD_PRELOAD: shim, SHIM: shim, FAILING_LIBRARY: 'vfio.node' };
  expect(await run(body, env)).toMatchObject({
    code: 0,
    signal: null,
    stdout: expect.stringMatching(/^closed/),
  });
});
