/**
 * The addon: the types of its exports, and the code that finds and loads it.
 *
 * Nothing outside lib/ gets hold of these objects. The addon checks the arguments; a failed system call throws a VfioError, a
 * bad argument a TypeError or RangeError.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';
import type { U64Like } from '../base/check.ts';
import { makeSystemError, stackOf } from '../base/errors.ts';
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
  /** As readText, for an attribute whose read waits while another process changes the device: ETIMEDOUT after that time. */
  readTextWithin(path: string, milliseconds: number): string | null;
  writeText(path: string, text: string): void;
  /** Calls `onOver` with the number of bytes written, or -errno: at once, or when the kernel need not wait any more. */
  write(path: string, text: string, onOver: (result: number) => void): NativeWrite;
  /** Calls `onTurn` as soon as no earlier request that has one of these keys is under way. */
  turn(keys: readonly string[], onTurn: () => void): NativeTurn;
  /** Another reference to the same host, which is disposed separately. */
  share(): NativeHost;
  /** Whether the file belongs to this host; false if it was disposed. */
  has(file: NativeFile): boolean;
  readlink(path: string): string | null;
  list(path: string): string[] | null;
  dmaOwner(group: number): { owner: 'none' | 'kernel' | 'user'; count: number; fd: number | null } | null;
  addDevice(device: string): void;
  /** Plugs in a device whose model these functions are. */
  plugSimulated(device: string, handlers: SimulatedHandlers): NativePort;
  removeDevice(bdf: string, life: bigint): number;
  /** The number of the device that has the address now: another device that is plugged in there later has another. 0n: none. */
  life(bdf: string): bigint;
  bindDriver(bdf: string, driver: string, exclusive: boolean): number;
  /** The owner and the mode of a node; null: there is no node. */
  ownership(path: string): { mode: number; uid: number; gid: number } | null;
  own(path: string, uid: number, mode: number): void;
  user(): number;
  become(uid: number): void;
  openers(path: string): number[];
  /** The descriptors of a node that this process has open, in all threads. */
  descriptors(path: string): number[];
  /** Whether a disk can't be opened exclusively, since something has claimed it. */
  claimed(path: string): boolean;
  takeFaults(): { bdf: string; iova: bigint; length: bigint; write: boolean; reason: string }[];
  /** From now on incidents are kept, until they are taken. */
  watch(): void;
  /** The incidents since the last call, oldest first. `lost`: how many more there were. */
  takeIncidents(): { incidents: NativeIncident[]; lost: number };
  /** DMA to this memory of the process is an incident from now on; with length 0, no more. */
  forbidDma(address: bigint, length: bigint): void;
  /** Resolves when the engine has no work left. Models in JavaScript may have. */
  settle(): Promise<void>;
  /** The work of models in JavaScript, in all threads: how much is under way, and how much has ended so far. */
  modelWork(): { left: number; ended: number };
  /** Virtual time. Whether there was work; EOPNOTSUPP: time is real. */
  step(): boolean;
  advance(milliseconds: number): void;
  takeTrace(): {
    time: number;
    what: 'work' | 'interrupt' | 'dma read' | 'dma write';
    device: string;
  }[];
  /**
   * Calls with this name fail with this errno ('': each call that can fail); 0: they are only listed. `onStrike` is called, in
   * the middle of the call, for each one that this thread makes; it makes no call of the host.
   */
  injectCallFault(
    call: string,
    errno: number,
    nth: number,
    probability: number,
    onStrike?: () => void,
  ): NativeFault;
  /** `device`: a PCI address; '': each device. */
  injectDeviceFault(
    what: DeviceFaultName,
    device: string,
    nth: number,
    probability: number,
    milliseconds: number,
  ): NativeFault;
}

/** As native/binding/injected_fault.cc names them. */
export type DeviceFaultName =
  | `interrupt ${'lost' | 'delayed' | 'doubled' | 'reordered'}`
  | `dma ${'delayed' | 'dropped' | 'corrupted'}`
  | 'page request silent';

/** An injected fault: native/binding/injected_fault.h */
export interface NativeFault {
  /** What it has struck, oldest first; `here`: `onStrike` was called for it. */
  struck(): { what: string; here: boolean }[];
  dispose(): void;
}

/** Something that a sanitizer has to know: native/controls.h */
export interface NativeIncident {
  readonly kind: 'fault' | 'disposed' | 'after-reset' | 'overlap' | 'interrupt';
  readonly bdf: string;
  /** The vector, of an interrupt. */
  readonly iova: bigint;
  readonly length: bigint;
  readonly write: boolean;
  readonly reason: string;
  readonly pasid: number | null;
  /** As process.hrtime.bigint() returns it. */
  readonly time: bigint;
}

/** The functions of a model. None throws. */
export interface SimulatedHandlers {
  /** The value; undefined: the device answers nothing, and the load gives all ones. */
  read(bar: number, offset: number, width: 1 | 2 | 4 | 8): bigint | number | undefined;
  write(bar: number, offset: number, width: 1 | 2 | 4 | 8, value: bigint | number): void;
  /** 0: a reset of the function; 1: one of its bus. */
  reset(kind: number): void;
  removed(): void;
  /** An access that could not be made, in words. */
  lost(what: string, access: string, waiting: string): void;
  /** A job that was posted is due. */
  run(id: number): void;
  /** A transfer has ended. `bytes`: what a read brought, and nothing if the transfer was dropped. */
  moved(id: number, whole: boolean, bytes: Uint8Array): void;
}

/** A model's side of its slot: native/binding/simulated_device.h */
export interface NativePort {
  dmaRead(iova: bigint, into: Uint8Array, pasid: number | undefined): boolean;
  dmaWrite(iova: bigint, from: Uint8Array, pasid: number | undefined): boolean;
  /** Reads memory for a sanitizer: no access of the device. Whether all bytes were read. */
  peek(iova: bigint, into: Uint8Array, pasid: number | undefined): boolean;
  message(vector: number): boolean;
  line(asserted: boolean): boolean;
  messagesEnabled(): boolean;
  /** The memory of a BAR, which the array keeps; undefined: there is none, or the device was unplugged. */
  memory(bar: number): ArrayBuffer | undefined;
  /** False: the device is unplugged or in reset. `delay` in microseconds. */
  post(id: number, delay: number): boolean;
  /** False: the device is unplugged. */
  startRead(
    id: number,
    iova: bigint,
    length: number,
    pasid: number | undefined,
    execute: boolean,
    privileged: boolean,
  ): boolean;
  startWrite(
    id: number,
    iova: bigint,
    from: Uint8Array,
    pasid: number | undefined,
    execute: boolean,
    privileged: boolean,
  ): boolean;
  /** Work of the model that `settle` waits for begins, or ends. */
  hold(): void;
  release(): void;
  /** The device leaves the bus. False: it was unplugged. */
  vanish(): boolean;
  /** The thread is about to end: the model answers no more, and threads that wait for it get all ones. */
  end(): void;
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
  /** `idle`: the process may end although nothing has become readable. */
  watch(idle?: boolean): void;
  rest(): void;
  dispose(): void;
}

/** Lets a test decide when the calls on the thread pool run: native/binding/schedule.h */
export interface NativeSchedule {
  /** From now on, calls wait to be run. */
  hold(): void;
  /** The calls that wait, oldest first. `done`: the kernel was called, but the promise is not settled yet. */
  waiting(): { syscall: string; request: string | null; done: boolean }[];
  /** Makes the kernel call of the one at `index`. */
  run(index: number): void;
  /** Settles the promise of the one at `index`, whose kernel call was made. */
  deliver(index: number): void;
  /** Hands the calls that wait to the thread pool, and from now on every new one too. */
  release(): void;
}

interface Addon {
  Host: new (
    backend: 'kernel' | 'software',
    kernel?: string,
    topology?: string,
    deterministic?: boolean,
    seed?: number,
  ) => NativeHost;
  /** Made by the host of the file. */
  EventFd: new (
    file: NativeFile,
    onReadable: (count: U64Like) => void,
  ) => NativeEventFd;
  Watch: new (file: NativeFile, onReadable: () => void) => NativeWatch;
  /** A duplicate of a descriptor that leads to a file of this kind. */
  adopt<Kind extends keyof NativeFiles>(fd: number, kind: Kind): NativeFiles[Kind];
  allocateMemory(size: U64Like, pageShift: number, numaNode?: number): NativeMemory;
  /** At exactly this address: EEXIST if anything is mapped there. */
  allocateMemoryAt(address: U64Like, size: U64Like): NativeMemory;
  memoryOfDescriptor(fd: number, offset: U64Like, length: U64Like): NativeMemory;
  memoryOfAddress(address: U64Like, length: U64Like): NativeMemory;
  /** The size of a page of this process, in bytes. */
  pageSize: number;
  /** Where the bytes of an ArrayBuffer or a view are in this process; null: it is neither, or has no bytes. */
  addressOf(memory: unknown): { address: bigint; length: number; buffer: object } | null;
  schedule: NativeSchedule;
  /** One number: the IOVA of the last map of this thread, by the hot calls of a space. */
  place: BigUint64Array;
  /** Reserves `count` consecutive numbers for mappings; returns the first. */
  mappingNumbers(count: number): number;
  /** How many times memory has come to be kept (lib/addon/kept-memory.ts). */
  doubts(): number;
  kept(): { bytes: bigint; reason: string }[];
  initialize(makeError: typeof makeSystemError, stackHere: () => string): void;
  /** True for the first caller in this process. */
  claimSignals(): boolean;
  /** Puts the handler of memory faults in front of the program's own: native/guard. */
  keepInFront(): void;
}

/**
 * Loads the addon, and returns exports that only this copy of the module has. A thread may have several copies: Jest makes one
 * for each test file, hot reload one for each edit. `require` would give all of them the same exports; process.dlopen makes
 * new state and new classes each time.
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

/** What this thread is doing, for an error that another thread is told of. */
const stackHere = (): string => stackOf(new Error())?.split('\n').slice(2).join('\n') ?? '';

/**
 * The addon's exports. The addon refers weakly to the two functions that it calls; here they live as long as this copy of the
 * module.
 */
export const native = Object.assign(load(), { makeError: makeSystemError, stackHere });
native.initialize(native.makeError, native.stackHere);

// The addon's signal handler turns a bad memory access into an error (native/guard). Adding a listener for one of these
// signals replaces that handler, and so does removing the last listener. The addon notices that by itself, but only after the
// program's handler has run some times.
if (isMainThread && native.claimSignals())
  for (const change of ['newListener', 'removeListener'])
    process.on(change, (name: unknown) => {
      if (name === 'SIGSEGV' || name === 'SIGBUS') native.keepInFront();
    });
