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
  /** Its number, by which the calls that map name it until it is disposed. */
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
 * The arguments of a call that maps. `access`: 1 if the device may read, plus 2 if it may write. `mapping`: the number of the
 * mapping, which is never used again. Without an offset and a length, all of the memory is mapped.
 */
export type MapArguments = [
  memory: number,
  access: number,
  mapping: number,
  iova: U64Like | undefined,
  offset?: number,
  length?: number,
];

/** The hot calls of the address space of an IOAS or a container. They return a number where that is exact, else a bigint. */
export interface NativeSpaceCalls {
  /** Returns the IOVA of the mapping; undefined: it is the `iova` that was given. */
  map(...given: MapArguments): U64Like | undefined;
  /** Returns how many bytes were unmapped; undefined: as many as `length`. */
  unmap(iova: U64Like, length: U64Like): U64Like | undefined;
}

/** The hot calls of a container. */
export interface NativeContainerCalls extends NativeSpaceCalls {
  /** The id of the IOAS that the last map worked on, if the container is an iommufd's. */
  which(): number;
}

/** A handle's reference to the ledger's record of an address space: native/binding/space.h */
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
  /** Unmaps the parts of a mapping that are still mapped; returns their length in bytes. */
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
  /** Whether both refer to the same open file of the kernel. */
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

  /** `own`: the file is a container, not an iommufd. The same below. */
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

/** The kinds of file that a descriptor is checked for: native/binding/kinds.h */
export type NativeKind = 'iommufd' | 'device' | 'group' | 'container';

/** native/binding/host_handle.h */
export interface NativeHost {
  dispose(): void;
  release(): string;
  /** `checked`: opening fails if the file is not of that kind. Otherwise the kind is assumed. */
  open(path: string, kind: NativeKind, checked: boolean): NativeFile;
  /** As {@link Addon.adopt}; the file belongs to this host. */
  adopt(fd: number, kind: NativeKind): NativeFile;
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
  Host: new (backend: 'kernel' | 'software', kernel?: string, topology?: string) => NativeHost;
  EventFd: new (onReadable: (count: U64Like) => void) => NativeEventFd;
  Watch: new (file: NativeFile, onReadable: () => void) => NativeWatch;
  /** A duplicate of a descriptor that leads to a file of this kind. */
  adopt(fd: number, kind: NativeKind): NativeFile;
  allocateMemory(size: U64Like, pageShift: number, numaNode?: number): NativeMemory;
  memoryOfDescriptor(fd: number, offset: U64Like, length: U64Like): NativeMemory;
  memoryOfAddress(address: U64Like, length: U64Like): NativeMemory;
  schedule: NativeSchedule;
  /** Reserves `count` consecutive numbers for mappings; returns the first. */
  mappingNumbers(count: number): number;
  /** How many times memory has come to be kept (lib/addon/kept-memory.ts). */
  doubts(): number;
  kept(): { bytes: bigint; reason: string }[];
  initialize(makeError: typeof makeSystemError): void;
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

/**
 * The addon's exports. The addon refers weakly to the function that makes its errors; here that function lives as long as
 * this copy of the module.
 */
export const native = Object.assign(load(), { makeError: makeSystemError });
native.initialize(native.makeError);

// The addon's signal handler turns a bad memory access into an error (native/guard). Adding a listener for one of these
// signals replaces that handler, and so does removing the last listener. The addon notices that by itself, but only after the
// program's handler has run some times.
if (isMainThread && native.claimSignals())
  for (const change of ['newListener', 'removeListener'])
    process.on(change, (name: unknown) => {
      if (name === 'SIGSEGV' || name === 'SIGBUS') native.keepInFront();
    });
