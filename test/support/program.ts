/**
 * Runs programs in a child process or in a worker. They use the compiled package, as programs of users do. They are for
 * tests that the test's own process can't make: how a process ends, or what remains after a worker has ended.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { backend, EDU } from './backends.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
/** The path of collecting.mjs in the package's folder, or in a copy for a user who can't read that folder. */
const collecting = (from: string) => join(from, 'test/support/collecting.mjs');

/** The URL of the compiled package in `from`, the checkout or a copy. Throws if the compiled files are older than lib/. */
function compiled(from: string): string {
  const sources = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' });
  for (const name of sources.filter((each) => each.endsWith('.ts'))) {
    const source = join(root, 'lib', name);
    const built = join(root, 'dist', 'lib', name.replace(/\.ts$/, '.js'));
    if (!existsSync(built)) throw new Error(`dist/lib is not complete: run "npm run build:ts" (no ${built})`);
    if (statSync(built).mtimeMs < statSync(source).mtimeMs)
      throw new Error(`dist/lib is older than lib/${name}: run "npm run build:ts"`);
  }
  return pathToFileURL(join(from, 'dist', 'lib', 'index.js')).href;
}

/** The URL of the compiled package, for programs in files of their own. */
export const packageUrl = (): string => compiled(root);

/** The beginning of every program: the package, the backend and the test device; `openEdu` opens the device. */
function prelude(from = root): string {
  return `
    import * as vfio from ${JSON.stringify(compiled(from))};
    const PACKAGE = ${JSON.stringify(compiled(from))};
    import { setTimeout as sleep } from 'node:timers/promises';
    const { Host, DmaBuffer, VfioDevice, Iommufd } = vfio;
    const EDU = ${JSON.stringify(EDU)};
    const turn = () => new Promise((resolve) => setImmediate(resolve));
    const held = (globalThis.held = []); // what the program still has when it ends: a dropped handle is closed with a warning
    async function openEdu(backend = ${JSON.stringify(backend)}) {
      const host = Host.open({ backend });
      await host.device(EDU).bind();
      const user = host.attach(EDU);
      const edu = { host, user, ...drive(user.device), dma: user.dma };
      held.push(edu);
      return edu;
    }
    function drive(device) {
      device.config.busMaster = true;
      const registers = device.region('bar0').mmap();
      const start = (source, destination, count, command) => {
        registers.write64(0x80, source);
        registers.write64(0x88, destination);
        registers.write64(0x90, count);
        registers.write64(0x98, 1 | command);
      };
      const idle = async () => {
        while (registers.read64(0x98) & 1n) await sleep(1);
      };
      const factorial = async (of) => {
        registers.write32(0x08, of);
        while (registers.read32(0x20) & 1) await sleep(1);
        return registers.read32(0x08);
      };
      return { device, registers, start, idle, factorial };
    }
    /** Registers, DMA out and back, an interrupt: returns what came back. */
    async function job({ device, dma, factorial, start, registers }, text) {
      const memory = DmaBuffer.alloc(8192);
      const mapping = dma.map(memory);
      memory.write(0, Buffer.from(text));
      const [interrupt] = device.irq('msi').enable(1);
      const move = async (source, destination, command) => {
        start(source, destination, text.length, command | 4);
        await interrupt.wait({ timeout: 20_000 });
        registers.write32(0x64, registers.read32(0x24));
      };
      await move(mapping.iova, 0x40000n, 0);
      await move(0x40000n, mapping.iova + 4096n, 2);
      const back = Buffer.alloc(text.length);
      memory.read(4096, back);
      interrupt[Symbol.dispose]();
      mapping[Symbol.dispose]();
      memory[Symbol.dispose]();
      return [await factorial(10), back.toString()];
    }
  `;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs `body`, a module with top-level await, in a separate process, and waits for its end. `through`: a command that starts
 * the process (setpriv, prlimit). `from`: the folder of the package that the program uses.
 */
export function run(
  body: string,
  env: NodeJS.ProcessEnv = {},
  seconds = 60,
  through: readonly string[] = [],
  from = root,
): Promise<Ended> {
  return start(prelude(from) + body, env, seconds, through, from);
}

function start(
  text: string,
  env: NodeJS.ProcessEnv,
  seconds: number,
  through: readonly string[],
  from: string,
): Promise<Ended> {
  const [command = '', ...rest] = [
    ...through,
    process.execPath,
    '--expose-gc',
    '--import',
    collecting(from),
    '--input-type=module',
    '--eval',
    text,
  ];
  const child = spawn(command, rest, {
    cwd: root,
    env: { ...process.env, ...env, NODE_OPTIONS: '' },
    timeout: seconds * 1000,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text) => {
      output[name] += text;
    });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, ...output }));
  });
}

/** The ends of workers. Listening begins with the worker, since its last message and its end may arrive in one turn. */
const ends = new WeakMap<Worker, Promise<number>>();

/** Starts `body` as a worker thread of this process. `body` can use `workerData` and `parentPort`. */
export function work(body: string, workerData?: unknown): Worker {
  const text = `import { parentPort, workerData } from 'node:worker_threads';${prelude()}${body}`;
  const url = new URL(`data:text/javascript,${encodeURIComponent(text)}`);
  const worker = new Worker(url, { workerData, execArgv: [] });
  const ended = new Promise<number>((resolve, reject) => {
    worker.once('exit', resolve);
    worker.once('error', reject);
  });
  ended.catch(() => {}); // not every test waits for the end
  ends.set(worker, ended);
  return worker;
}

/** The next message of a worker. Rejects if the worker has an error, or ends without a message. */
export function message(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', (code) => reject(new Error(`the worker ended with ${code} and said nothing`)));
  });
}

/** Waits until a worker has ended by itself, and returns its exit code. Rejects if the worker has an error. */
export function end(worker: Worker): Promise<number> {
  return ends.get(worker) ?? Promise.reject(new Error('not a worker of this file'));
}
