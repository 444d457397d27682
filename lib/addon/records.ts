/**
 * Records that the addon makes of the kernel's structs. They have no methods, and the public API returns them as they are.
 */

/** An inclusive range of I/O virtual addresses. */
export interface IovaRange {
  start: bigint;
  last: bigint;
}

/** The part of {@link Iommufd.hwInfo}'s answer that every kind of IOMMU has. */
export interface HwInfoCommon {
  /** What it can do. */
  readonly capabilities: {
    /** It can mark the pages that devices write (Linux 6.7). */
    readonly dirtyTracking: boolean;
    /** The device may make execute requests with a PASID (Linux 6.15). */
    readonly pciPasidExec: boolean;
    /** The device may make privileged requests with a PASID (Linux 6.15). */
    readonly pciPasidPriv: boolean;
    /** The device can't ask the IOMMU for translations: no ATS (Linux 7.1). */
    readonly pciAtsNotSupported: boolean;
  };
  /** The width of a PASID in bits (Linux 6.15); 0: no PASIDs. */
  readonly maxPasidLog2: number;
}

/** An IOMMU as its driver describes it, by kind. The registers are defined in the manufacturers' manuals. */
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
        /** Each invalidation must be issued twice (Linux 7.3). */
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
    /** A kind that this package does not know: its number, and the bytes that the kernel gave. */
    | { readonly type: 'unknown'; readonly number: number; readonly data: Uint8Array }
  );

/** A page fault of a device. */
export interface IoPageFault {
  /** The device's id in the iommufd: {@link VfioDevice.id}. */
  readonly deviceId: number;
  /** The process address space id of the access; null: it had none. */
  readonly pasid: number | null;
  /** The I/O virtual address that is not mapped as the access needs. */
  readonly address: bigint;
  /** The hardware's number for the group of page requests. */
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
  /** The number that all faults of one group share, and that a response names. */
  readonly cookie: number;
}

/** An event of a virtual IOMMU, in the format that the guest's driver reads. */
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

/** The properties of a container's type1 IOMMU (VFIO_IOMMU_GET_INFO). */
export interface ContainerInfo {
  /** The page sizes, as a bit mask: the bit with value 4096n stands for pages of 4096 bytes. */
  readonly pageSizes: bigint;
  /** The ranges of I/O virtual addresses that can be mapped. */
  readonly ranges: IovaRange[];
  /** How many more mappings it takes; null: the kernel does not say. */
  readonly dmaAvailable: number | null;
  /**
   * Dirty page tracking; null: not supported. `pageSizes`: for which a bitmap can be asked, as a bit mask as above;
   * `maxDirtyBitmapSize` in bytes.
   */
  readonly migration: { readonly pageSizes: bigint; readonly maxDirtyBitmapSize: bigint } | null;
}
