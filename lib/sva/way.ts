/**
 * The ways to share the process's address space with a device, and what a bond needs of each.
 *
 * A way is tried in `Sva.bind`: it makes a bonding, or says why it can't. Life of a bonding: made by its way, disposed with the
 * last bond on it.
 */
import type { IoPageFault } from '../addon/records.ts';
import type { VfioDevice } from '../vfio/device.ts';

/**
 * How a device reaches the process's memory, best first.
 *
 * - 'native': the IOMMU uses the process's own page table. No VFIO of a real kernel offers it yet; the software host does.
 * - 'character-device': the device's own driver binds the process when its file is opened (uacce, idxd).
 * - 'iommufd-fault': a page table with a fault queue. Each page that the device asks for is mapped where it lies in the process.
 * - 'iommufd-mirror': memory that was allocated for the bond, or adopted by it, is mapped ahead, where it lies in the process.
 */
export type SvaWay = 'native' | 'character-device' | 'iommufd-fault' | 'iommufd-mirror';

/** An access of a device to the memory of a process that could not be made. It is answered already. */
export interface SvaFault extends IoPageFault {
  /** Why, in words. */
  readonly reason: string;
  /** How many faults before this one were dropped, since the program was too slow to take them. Left out: none can be dropped. */
  readonly lost?: number;
}

/** What a bonding tells its bond. */
export interface BondingEvents {
  /** The device accessed memory that it can't have. The access has failed. */
  fault(fault: SvaFault): void;
  /** The process has ended. */
  exit(): void;
}

/** What stands behind a bond. */
export interface Bonding {
  readonly way: SvaWay;
  /** The descriptor of an open node of the device's own driver. */
  readonly fd?: number;
  /**
   * The PASID that the device has to send; null: the process has ended, or the device reaches its memory by transactions without
   * a PASID (iommufd-mirror on a device that has none).
   */
  pasid(): number | null;
  /** Whether the process has ended. */
  ended(): boolean;
  /** Whether this process has to stay alive until it is told of the end of another one. */
  awaitEnd?(on: boolean): void;
  /**
   * Makes sure that the device can reach these bytes of the process, at their own address.
   *
   * @throws {VfioError} EFAULT it can't; `reason` says why, and what to use instead.
   */
  reach(address: bigint, length: number): void;
  /** Memory for the bond, which the device can reach. Whole pages, page-aligned, zeroed. */
  allocate(size: number): ArrayBuffer;
  /**
   * Takes existing memory in. Does nothing where every byte of the process can be reached. Whole pages are mapped, so that the
   * device reaches its neighbours on the first and the last page too. `owner`: an object that keeps the memory; it is referred to
   * until the device is known not to reach the memory any more.
   *
   * @throws {VfioError} EFAULT the memory is out of the device's range, or can't be pinned; ENOMEM over the locked-memory limit. `reason` says which.
   */
  adopt(address: bigint, length: number, owner?: unknown): void;
  /** Ends it: from then on the device reaches nothing by it. Can't fail; a second call does nothing. */
  dispose(): void;
}

/** What `Sva.bind` was asked for. `pid`: of another process; undefined: this one. */
export interface BondingRequest {
  readonly device: VfioDevice;
  readonly pid: number | undefined;
  readonly exclusive: boolean;
  /**
   * The width of the addresses that the device can send, in bits, for a device that sends fewer than its IOMMU takes: allocated
   * memory lies below. Undefined: no such limit.
   */
  readonly addressBits?: number | undefined;
  readonly events: BondingEvents;
}

/** Why an exclusive bind fails with EEXIST. */
export const ALREADY_BOUND =
  'the process and the device are bound already, and an exclusive bond was asked for';

/** Why a way can't be taken: a sentence without a full stop. `code`: the error, if no other way can be taken either. */
export interface NoWay {
  readonly code: string;
  readonly reason: string;
}

/** A way: makes a bonding, or says why not. It throws only what has to end the whole bind. */
export type MakeBonding = (request: BondingRequest) => Bonding | NoWay;
