/**
 * The addon: its types as TypeScript sees them, and finding and loading it.
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
import type { ContainerInfo, HwInfo, IoPageFault, ViommuEvent } from './records.ts';

export interface NativeRange {
  start: bigint;
  last: bigint;
}

/** DMA memory: native/binding/memory.h */
export interface NativeMemory {
  readonly address: bigint;
  readonly size: number;
  /** Its number, for the calls that map: it leads here until this is disposed. */
  number(): number;
  buffer(): ArrayBuffer;
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
  dispose(): void;
}

/** A mapped region: native/binding/mapped.h */
export interface NativeMapped {
  read8(offset: number): number;
  read16(offset: number): number;
  read32(offset: number): number;
  read64(offset: number): bigint;
  write8(offset: number, value: number): void;
  write16(offset: number, value: number): void;
  write32(offset: number, value: number): void;
  write64(offset: number, value: U64Like): void;
  buffer(): ArrayBuffer;
  dispose(): void;
}

export type IrqAction = 'trigger' | 'mask' | 'unmask';

export interface NativeIrqInfo {
  count: number;
  eventfd: boolean;
  maskable: boolean;
  automasked: boolean;
  resizable: boolean;
}

export interface NativeRegionInfo {
  readable: boolean;
  writable: boolean;
  mmapable: boolean;
  size: bigint;
  offset: bigint;
  sparse: { offset: bigint; size: bigint }[] | null;
  type: { type: number; subtype: number } | null;
  msixMappable: boolean;
}

/**
 * What a call that maps is given. `access`: 1 the device may read, 2 it may write. `mapping`: its number, for good. Without
 * an offset and a length it is all of the memory.
 */
export type MapArguments = [
  memory: number,
  access: number,
  mapping: number,
  iova: U64Like | undefined,
  offset?: number,
  length?: number,
];

/** The hot calls of an address space, of an IOAS or a container. What comes out is a number where that is exact. */
export interface NativeSpaceCalls {
  /** What comes out is where it is; undefined: at the `iova` that was given. */
  map(...given: MapArguments): U64Like | undefined;
  /** How many bytes were unmapped; undefined: as many as `length`. */
  unmap(iova: U64Like, length: U64Like): U64Like | undefined;
}

/** The hot calls of a container. */
export interface NativeContainerCalls extends NativeSpaceCalls {
  /** The id of the IOAS, of an iommufd, that the last map worked on. */
  which(): number;
}

/** A handle's share in an address space: native/binding/space.h */
export interface NativeSpace {
  id(): number | null;
  ended(): boolean;
  calls(): NativeSpaceCalls;
  mapAsync(...given: MapArguments): Promise<U64Like>;
  copy(
    source: NativeSpace,
    sourceMapping: number,
    sourceIova: U64Like,
    length: U64Like,
    access: number,
    iova: U64Like | undefined,
    mapping: number,
  ): U64Like;
  mapFile(
    fd: number,
    offset: U64Like,
    length: U64Like,
    access: number,
    iova: U64Like | undefined,
    mapping: number,
  ): U64Like;
  /** Unmaps what is left of a mapping; returns how many bytes that was. */
  unmapMapping(mapping: number, iova: U64Like, length: U64Like): U64Like;
  holds(mapping: number, iova: U64Like, length: U64Like): boolean;
  mappings(): { iova: bigint; length: bigint; writable: boolean }[];
  dispose(): void;
}

/** An object of an iommufd, which its handle owns: native/binding/kernel_object.h */
export interface NativeObject {
  id(): number;
  gone(): boolean;
  destroy(): void;
  dispose(): void;
}

/** An open file and the kernel calls on it: native/binding/file.h */
export interface NativeFile {
  readonly fd: number;
  dispose(): void;
  release(): string;
  /** Bytes of this process that are pinned for devices. */
  pinned(): number;

  destroy(id: number): void;
  /** Do both lead to the same open file of the kernel's? */
  same(other: NativeFile): boolean;
  ioasAlloc(): NativeSpace;
  ioasOf(ioas: number): NativeSpace;
  ioasIovaRanges(ioas: number): { ranges: NativeRange[]; alignment: bigint };
  ioasAllowIovas(ioas: number, startsAndLasts: BigUint64Array): void;
  ioasPhysicalAddress(ioas: number, iova: U64Like, length: U64Like): { address: bigint; length: bigint };
  changeProcess(): void;
  getVfioIoas(): number | null;
  setVfioIoas(ioas: number): void;
  clearVfioIoas(): void;
  supports(feature: string): boolean;
  getOption(option: 'RLIMIT_MODE' | 'HUGE_PAGES', object: number): bigint;
  setOption(option: 'RLIMIT_MODE' | 'HUGE_PAGES', object: number, value: U64Like): void;

  hwptAlloc(
    device: number,
    parent: number,
    nestParent: boolean,
    dirtyTracking: boolean,
    pasid: boolean,
    faultQueue?: number,
    format?: string,
    fields?: BigUint64Array,
  ): NativeObject;
  hwptSetDirtyTracking(hwpt: number, on: boolean): void;
  hwptDirtyBitmap(hwpt: number, iova: bigint, length: bigint, pageSize: bigint, clear: boolean): Uint8Array;
  hwptInvalidate(hwpt: number, format: string, fields: BigUint64Array): number;
  hwInfo(device: number, type?: string): HwInfo;

  faultQueueAlloc(): { object: NativeObject; file: NativeFile };
  readFaults(): IoPageFault[];
  respondFault(cookie: number, code: number): void;
  viommuAlloc(
    device: number,
    hwpt: number,
    type: string,
  ): { object: NativeObject; mmap: { offset: bigint; length: bigint } | null };
  vdeviceAlloc(viommu: number, device: number, virtId: bigint): NativeObject;
  veventqAlloc(viommu: number, type: string, depth: number): { object: NativeObject; file: NativeFile };
  readEvents(type: string): ViommuEvent[];
  hwQueueAlloc(viommu: number, type: string, index: number, iova: bigint, length: bigint): NativeObject;

  groupStatus(): { viable: boolean; containerSet: boolean };
  groupSetContainer(to: NativeFile): void;
  groupUnsetContainer(): void;
  groupDevice(name: string): NativeFile;

  /** `own`: a container of its own, and no iommufd. */
  containerCalls(own: boolean): NativeContainerCalls;
  containerSpace(): NativeSpace;
  containerLost(): boolean;
  containerApiVersion(): number;
  containerCheckExtension(name: string): boolean;
  containerSetIommu(type: string): void;
  containerInfo(): ContainerInfo;
  containerMapAsync(own: boolean, ...given: MapArguments): Promise<{ iova: U64Like; ioas: number }>;
  containerDirtyTracking(on: boolean): void;
  containerDirtyBitmap(iova: bigint, length: bigint, pageSize: bigint): Uint8Array;
  containerUnmapDirty(
    own: boolean,
    iova: bigint,
    length: bigint,
    pageSize: bigint,
  ): { bytes: bigint; bitmap: Uint8Array };
  containerInvalidateVaddr(iova: bigint, length: bigint): bigint;
  containerUpdateVaddr(
    own: boolean,
    memory: number,
    offset: number,
    size: number,
    iova: U64Like,
    mapping: number,
    length: U64Like,
  ): void;

  bindIommufd(iommufd: NativeFile, token?: string): number;
  setVfToken(token: string): void;
  attach(ptId: number, pasid?: number): number;
  detach(pasid?: number): void;
  deviceInfo(): { numRegions: number; numIrqs: number; pci: boolean; resettable: boolean };
  irqInfo(index: number): NativeIrqInfo;
  setIrqs(index: number, start: number, count: number, action: IrqAction): number;
  setIrqEventfds(index: number, start: number, action: IrqAction, eventfds: Int32Array): number;
  reset(): Promise<void>;
  hotResetInfo(): { deviceIds: boolean; functions: { bdf: string; id: number }[] };
  hotReset(groups: NativeFile[]): Promise<void>;

  regionInfo(index: number): NativeRegionInfo;
  regionRead(position: bigint, width: 1 | 2 | 4): number;
  regionRead(position: bigint, width: 8): bigint;
  regionWrite(position: bigint, width: 1 | 2 | 4 | 8, value: U64Like): void;
  readInto(position: bigint, into: Uint8Array): number;
  writeFrom(position: bigint, from: Uint8Array): number;
  mmap(position: bigint, length: bigint, readable: boolean, writable: boolean): NativeMapped;
}

/** What a descriptor may have to be: native/binding/kinds.h */
export type NativeKind = 'iommufd' | 'device' | 'group' | 'container';

/** native/binding/host_handle.h */
export interface NativeHost {
  dispose(): void;
  release(): string;
  /** `checked`: what is there has to be of that kind, else it is taken for one. */
  open(path: string, kind: NativeKind, checked: boolean): NativeFile;
  /** As {@link Addon.adopt}, and of this host. */
  adopt(fd: number, kind: NativeKind): NativeFile;
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
  adopt(fd: number, kind: NativeKind): NativeFile;
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
