/**
 * The addon: its types as TypeScript sees them (open files: files.ts, memory: memory.ts), and finding and loading it.
 *
 * Nothing outside lib/ gets hold of these objects. Each class is one family of kernel calls; arguments are checked
 * there, failures come out as VfioError (or TypeError and RangeError for bad arguments).
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';
import type { U64Like } from '../base/check.ts';
import { makeSystemError } from '../base/errors.ts';
import type { NativeFile, NativeFiles } from './files.ts';
import type { NativeMemory } from './memory.ts';

/** native/binding/host_handle.h */
export interface NativeHost {
  dispose(): void;
  release(): string;
  /** `checked`: what is there has to be of that kind, else it is taken for one. */
  open<Kind extends keyof NativeFiles>(path: string, kind: Kind, checked: boolean): NativeFiles[Kind];
  /** As {@link Addon.adopt}, and of this host. */
  adopt<Kind extends keyof NativeFiles>(fd: number, kind: Kind): NativeFiles[Kind];
  readText(path: string): string | null;
  /** The same of an attribute whose reading waits for who changes the device: ETIMEDOUT after so many milliseconds. */
  readTextWithin(path: string, milliseconds: number): string | null;
  writeText(path: string, text: string): void;
  /** Calls `onOver` with the bytes that were written, or -errno: at once, or when those let go for whom the kernel waits. */
  write(path: string, text: string, onOver: (result: number) => void): NativeWrite;
  /** Calls `onTurn` once no request that was made before, with one of these keys, is under way. */
  turn(keys: readonly string[], onTurn: () => void): NativeTurn;
  /** The same host once more, disposed by itself. */
  share(): NativeHost;
  /** Whether it is a file of this host's; not if it was disposed. */
  has(file: NativeFile): boolean;
  readlink(path: string): string | null;
  list(path: string): string[] | null;
  dmaOwner(group: number): { owner: 'none' | 'kernel' | 'user'; count: number; fd: number | null } | null;
  addDevice(device: string): void;
  removeDevice(bdf: string, life: bigint): number;
  /** Which device has the address now: another one that is plugged in there later has another number. 0n: none. */
  life(bdf: string): bigint;
  bindDriver(bdf: string, driver: string, exclusive: boolean): number;
  /** Whose a node is; null: there is none. */
  ownership(path: string): { mode: number; uid: number; gid: number } | null;
  own(path: string, uid: number, mode: number): void;
  user(): number;
  become(uid: number): void;
  openers(path: string): number[];
  /** This process's descriptors of a node, in all threads. */
  descriptors(path: string): number[];
  /** Whether a disk can't be opened exclusively, since something has claimed it. */
  claimed(path: string): boolean;
  takeFaults(): { bdf: string; iova: bigint; length: bigint; write: boolean; reason: string }[];
  settle(): Promise<void>;
}

/** native/binding/write.h */
export interface NativeWrite {
  dispose(): void;
}

/** native/binding/turn.h */
export interface NativeTurn {
  end(): void;
}

/** native/binding/event_fd.h */
export interface NativeEventFd {
  readonly fd: number;
  take(): bigint;
  watch(keepAlive: boolean): void;
  rest(): void;
  dispose(): void;
}

/** native/binding/watch.h */
export interface NativeWatch {
  watch(): void;
  rest(): void;
  dispose(): void;
}

/** Calls on the thread pool, in the hands of a test: native/binding/schedule.h */
export interface NativeSchedule {
  /** From now on calls wait. */
  hold(): void;
  /** What waits, oldest first; `done`: the kernel was called, and the promise is yet to hear of it. */
  waiting(): { syscall: string; request: string | null; done: boolean }[];
  /** Makes the kernel's call of the one at `index`. */
  run(index: number): void;
  /** Settles the promise of one that was made. */
  deliver(index: number): void;
  /** What waits goes to the pool, and so does what comes. */
  release(): void;
}

interface Addon {
  Host: new (backend: 'kernel' | 'software', kernel?: string, topology?: string) => NativeHost;
  EventFd: new (onReadable: (count: U64Like) => void) => NativeEventFd;
  Watch: new (file: NativeFile, onReadable: () => void) => NativeWatch;
  /** A duplicate of a descriptor that leads to a file of this kind. */
  adopt<Kind extends keyof NativeFiles>(fd: number, kind: Kind): NativeFiles[Kind];
  allocateMemory(size: U64Like, pageShift: number, numaNode?: number): NativeMemory;
  memoryOfDescriptor(fd: number, offset: U64Like, length: U64Like): NativeMemory;
  memoryOfAddress(address: U64Like, length: U64Like): NativeMemory;
  schedule: NativeSchedule;
  /** So many numbers for mappings, from the returned one on. */
  mappingNumbers(count: number): number;
  /** How often memory came to be kept. */
  doubts(): number;
  kept(): { bytes: bigint; reason: string }[];
  initialize(makeError: typeof makeSystemError): void;
  /** True for the first caller in this process. */
  claimSignals(): boolean;
  /** Puts the handler of memory faults in front of the program's own: native/guard. */
  keepInFront(): void;
}

/**
 * The addon's exports, made anew. `require` would give every copy of this module (Jest makes one for each file of tests,
 * hot reload one for each edit) the same ones, with the state of them all in one place. Loading makes a state: the errors
 * and classes of a copy are its own.
 */
function opened(filename: string): Addon {
  const module = { exports: {} as Addon, filename };
  process.dlopen(module, filename);
  return module.exports;
}

function load(): Addon {
  const require = createRequire(import.meta.url);
  // This file is lib/addon/native.ts in a checkout, dist/lib/addon/native.js when compiled there, and a part of dist/vfio.js
  // in the package. The addon lies in the root of the checkout or the package: the first folder above with a package.json.
  let root = dirname(fileURLToPath(import.meta.url));
  const tried: string[] = [];
  for (let level = 0, found = false; level < 3 && !found; level++) {
    root = dirname(root);
    found = existsSync(join(root, 'package.json'));
    try {
      return opened((require('node-gyp-build') as { resolve(root: string): string }).resolve(root));
    } catch (error) {
      const code = (error as { code?: unknown }).code;
      if (code === 'ERR_DLOPEN_FAILED') throw error;
      tried.push(
        join(root, 'prebuilds', `${process.platform}-${process.arch}`),
        join(root, 'build', 'Release', 'vfio.node'),
      );
    }
  }
  throw new Error(
    [
      `The native addon of vfio is missing for ${process.platform}-${process.arch}, Node ${process.versions.node}. Tried:`,
      ...tried.map((path) => `  ${path}`),
      process.platform === 'linux'
        ? 'To build it here: install a C++ compiler, make and python3 (Debian: apt-get install g++ make python3), then run "npm rebuild vfio".'
        : 'vfio runs on Linux only.',
    ].join('\n'),
  );
}

/** With what the addon makes its errors by, which it holds weakly: both live as long as this copy of the module. */
export const native = Object.assign(load(), { makeError: makeSystemError });
native.initialize(native.makeError);

// A listener for one of these replaces the handler that makes an error of a bad address, and so does the removal of the
// last one. The addon would find out by itself, after some turns of the program's handler.
if (isMainThread && native.claimSignals())
  for (const change of ['newListener', 'removeListener'])
    process.on(change, (name: unknown) => {
      if (name === 'SIGSEGV' || name === 'SIGBUS') native.keepInFront();
    });
