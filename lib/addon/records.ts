/**
 * What the kernel tells, as the addon reads it out of the kernel's structs: records without behaviour, which the public API
 * hands on as they are.
 */

/** An inclusive range of I/O virtual addresses. */
export interface IovaRange {
  start: bigint;
  last: bigint;
}

/** What {@link Iommufd.hwInfo} tells of any IOMMU. */
export interface HwInfoCommon {
  /** What it can do. */
  readonly capabilities: {
    /** Mark pages that devices write (Linux 6.7). */
    readonly dirtyTracking: boolean;
    /** The device may execute with a PASID (Linux 6.15). */
    readonly pciPasidExec: boolean;
    /** The device may be privileged with a PASID (Linux 6.15). */
    readonly pciPasidPriv: boolean;
    /** It can't be asked for translations by the device (Linux 7.1). */
    readonly pciAtsNotSupported: boolean;
  };
  /** The bits of a PASID (Linux 6.15); 0: none. */
  readonly maxPasidLog2: number;
}

/** An IOMMU as its driver shows it, by format. Registers are as the manuals of their makers have them. */
export type HwInfo = HwInfoCommon &
  (
    | { readonly type: 'none' }
    | {
        readonly type: 'intel-vtd';
        /** Nested page tables must not be read-only in the parent (errata 772415). */
        readonly errata772415: boolean;
        readonly capReg: bigint;
        readonly ecapReg: bigint;
      }
    | {
        readonly type: 'arm-smmuv3';
        /** Invalidations must be given twice (Linux 7.3). */
        readonly errataRepeatTlbiCfgi: boolean;
        /** IDR0 to IDR5. */
        readonly idr: readonly number[];
        readonly iidr: number;
        readonly aidr: number;
      }
    | {
        readonly type: 'tegra241-cmdqv';
        readonly version: number;
        readonly log2vcmdqs: number;
        readonly log2vsids: number;
      }
    | { readonly type: 'amd'; readonly efr: bigint; readonly efr2: bigint }
    /** One that this package does not know: its number and the bytes that the kernel gave. */
    | { readonly type: 'unknown'; readonly number: number; readonly data: Uint8Array }
  );

/** A page fault of a device. */
export interface IoPageFault {
  /** The device's id in the iommufd: {@link VfioDevice.id}. */
  readonly deviceId: number;
  /** The process address space id that it used; null: none. */
  readonly pasid: number | null;
  /** The I/O virtual address that is missing. */
  readonly address: bigint;
  /** The hardware's number of the group of requests. */
  readonly group: number;
  /** Whether it is the last of its group. */
  readonly last: boolean;
  /** What the device wanted to do. */
  readonly access: {
    readonly read: boolean;
    readonly write: boolean;
    readonly execute: boolean;
    readonly privileged: boolean;
  };
  /** What all faults of one group share, and what an answer names. */
  readonly cookie: number;
}

/** An event of a virtual IOMMU, as its guest's driver would read it. */
export type ViommuEvent =
  /** Events were lost here: the queue was full. */
  | { readonly type: 'lost'; readonly sequence: number; readonly lost: true }
  /** An entry of an SMMUv3 event queue: four words. */
  | {
      readonly type: 'arm-smmuv3';
      readonly sequence: number;
      readonly lost: false;
      readonly evt: readonly bigint[];
    }
  /** Logical command queues in error, one bit each: two words. */
  | {
      readonly type: 'tegra241-cmdqv';
      readonly sequence: number;
      readonly lost: false;
      readonly lvcmdqErrMap: readonly bigint[];
    };

/** What a type1 IOMMU is (VFIO_IOMMU_GET_INFO). */
export interface ContainerInfo {
  /** The sizes of its pages: a bit for each, of the value of the size in bytes. */
  readonly pageSizes: bigint;
  /** What can be mapped. */
  readonly ranges: IovaRange[];
  /** How many more mappings it takes; null: the kernel does not say. */
  readonly dmaAvailable: number | null;
  /** How dirty pages are told; null: they are not. `pageSizes` as above, the bitmap in bytes. */
  readonly migration: { readonly pageSizes: bigint; readonly maxDirtyBitmapSize: bigint } | null;
}
