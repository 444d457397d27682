/**
 * Open files as the addon has them: a type for each kind of file, with the calls that such a file accepts.
 *
 * The addon has a class for each type (native/binding/file.cc): a call that a kind of file does not accept is refused by
 * tsc, and at run time by the engine.
 */
import type { U64Like } from '../base/check.ts';
import type { MapArguments, NativeContainerCalls, NativeSpace } from './memory.ts';
import type { ContainerInfo, HwInfo, IoPageFault, ViommuEvent } from './records.ts';

export interface NativeRange {
  start: bigint;
  last: bigint;
}

/** A mapped region: native/binding/mapped.h */
export interface NativeMapped {
  /** Whether the host sees each access: the registers of a software device. */
  readonly trapped: boolean;
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

/** An object of an iommufd, which its handle owns: native/binding/kernel_object.h */
export interface NativeObject {
  id(): number;
  gone(): boolean;
  destroy(): void;
  dispose(): void;
}

/** An open file of any kind: native/binding/file.h */
export interface NativeFile {
  readonly fd: number;
  dispose(): void;
  release(): string;
  /** Bytes of this process that are pinned for devices. */
  pinned(): number;
  /** Do both lead to the same open file of the kernel's? */
  same(other: NativeFile): boolean;
}

/** The requests of a container: native/binding/container.cc */
export interface NativeContainer extends NativeFile {
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
}

/**
 * An iommufd: native/binding/iommufd.cc, hwpt.cc, viommu.cc. It accepts a container's requests too
 * (CONFIG_IOMMUFD_VFIO_CONTAINER).
 */
export interface NativeIommufd extends NativeContainer {
  destroy(id: number): void;
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

  faultQueueAlloc(): { object: NativeObject; file: NativeFaultQueue };
  viommuAlloc(
    device: number,
    hwpt: number,
    type: string,
  ): { object: NativeObject; mmap: { offset: bigint; length: bigint } | null };
  vdeviceAlloc(viommu: number, device: number, virtId: bigint): NativeObject;
  veventqAlloc(viommu: number, type: string, depth: number): { object: NativeObject; file: NativeEventQueue };
  hwQueueAlloc(viommu: number, type: string, index: number, iova: bigint, length: bigint): NativeObject;
}

/** A queue of page faults: native/binding/viommu.cc */
export interface NativeFaultQueue extends NativeFile {
  readFaults(): IoPageFault[];
  respondFault(cookie: number, code: number): void;
}

/** A queue of events of a virtual IOMMU: native/binding/viommu.cc */
export interface NativeEventQueue extends NativeFile {
  readEvents(type: string): ViommuEvent[];
}

/** A group: native/binding/group.cc */
export interface NativeGroup extends NativeFile {
  groupStatus(): { viable: boolean; containerSet: boolean };
  groupSetContainer(to: NativeContainer): void;
  groupUnsetContainer(): void;
  groupDevice(name: string): NativeDevice;
}

/** A device, and its regions: native/binding/vfio_device.cc, vfio_region.cc, sva.cc */
export interface NativeDevice extends NativeFile {
  bindIommufd(iommufd: NativeIommufd, token?: string): number;
  setVfToken(token: string): void;
  attach(ptId: number, pasid?: number): number;
  detach(pasid?: number): void;
  deviceInfo(): { numRegions: number; numIrqs: number; pci: boolean; resettable: boolean };
  irqInfo(index: number): NativeIrqInfo;
  setIrqs(index: number, start: number, count: number, action: IrqAction): number;
  setIrqEventfds(index: number, start: number, action: IrqAction, eventfds: Int32Array): number;
  reset(): Promise<void>;
  hotResetInfo(): { deviceIds: boolean; functions: { bdf: string; id: number }[] };
  hotReset(groups: NativeGroup[]): Promise<void>;

  svaSupported(): boolean;
  svaEnabled(): boolean;
  svaEnable(on: boolean): void;
  svaBind(exclusive: boolean, pid?: number): NativeBond;

  regionInfo(index: number): NativeRegionInfo;
  regionRead(position: bigint, width: 1 | 2 | 4): number;
  regionRead(position: bigint, width: 8): bigint;
  regionWrite(position: bigint, width: 1 | 2 | 4 | 8, value: U64Like): void;
  readInto(position: bigint, into: Uint8Array): number;
  writeFrom(position: bigint, from: Uint8Array): number;
  mmap(position: bigint, length: bigint, readable: boolean, writable: boolean): NativeMapped;
}

/** What a bond of shared virtual addressing was told: the process has ended, or the device got no page. */
export type NativeBondEvent =
  | 'exit'
  | {
      readonly pasid: number | null;
      readonly address: bigint;
      readonly group: number;
      readonly access: IoPageFault['access'];
      readonly reason: string;
      readonly lost: number;
    };

/** A bond of a process and a device: native/binding/sva.cc */
export interface NativeBond extends NativeFile {
  bondInfo(): { exited: boolean; detached: boolean; pasid: number | null };
  readBondEvents(): NativeBondEvent[];
}

/** The kinds of file that can be opened by path or descriptor (native/binding/kinds.h), with the type of each. */
export interface NativeFiles {
  iommufd: NativeIommufd;
  container: NativeContainer;
  group: NativeGroup;
  device: NativeDevice;
  /** The node of another driver, which this package makes no requests of. */
  other: NativeFile;
}
