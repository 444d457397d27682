/**
 * Page tables that the program makes: of an address space, or nested in another page table (requirement D5: page tables
 * of the user's own, typed by their format).
 *
 * Life: Iommufd.allocHwpt makes one. One that is made of an Ioas always has the mappings of that Ioas. It is destroyed when it
 * or its parent is disposed; while a device is attached to it, disposing it fails with EBUSY.
 */

import type { NativeIommufd, NativeObject } from '../addon/files.ts';
import { array, flag, integer, oneOf, options, refusal, type U64Like, u64 } from '../base/check.ts';
import { explained } from '../base/errors.ts';
import type { OURS } from '../base/private.ts';
import { alive, type Handle } from '../handles/handle.ts';
import type { IommufdFile } from '../handles/iommufd-file.ts';
import { IommufdObject } from './iommufd-object.ts';
import { wordsForMissing } from './iommufd-words.ts';

/** A page table that the program fills itself, by format. The addresses in it are translated by the parent page table. */
export type HwptData =
  | {
      /** VT-d, first stage (Linux 6.7). */
      type: 'vtd-s1';
      /** The address of its root. */
      pgtblAddr: U64Like;
      /** The width of an address in bits: 48 for four levels, 57 for five. */
      addrWidth: number;
      /** Supervisor requests are allowed. */
      sre?: boolean;
      /** The extended-accessed flag is set in entries. */
      eafe?: boolean;
      /** Write protection holds for supervisor requests too. */
      wpe?: boolean;
    }
  | {
      /** Arm SMMUv3 (Linux 6.13). */
      type: 'arm-smmuv3';
      /** The first two words of the guest's stream table entry. */
      ste: readonly [U64Like, U64Like];
    }
  | {
      /** AMD (Linux 7.0). */
      type: 'amd-guest';
      /** The four words of the guest's device table entry. */
      dte: readonly [U64Like, U64Like, U64Like, U64Like];
    };

/** The entries to drop from the caches of a VT-d first stage. `addr` 0 with `npages` 2^64-1: all of them. */
export interface VtdS1Invalidation {
  /** First address, 4 KiB aligned. */
  addr: U64Like;
  /** How many pages of 4 KiB. */
  npages: U64Like;
  /** Leaf entries only: the tables above are unchanged. */
  leaf?: boolean;
}

/** One command of an SMMUv3 command queue. */
export interface ArmSmmuv3Invalidation {
  /** Its two words. */
  cmd: readonly [U64Like, U64Like];
}

/** Entries by type, for {@link Hwpt.invalidate} and {@link Viommu.invalidate}. */
export interface Invalidations {
  'vtd-s1': VtdS1Invalidation;
  'arm-smmuv3': ArmSmmuv3Invalidation;
}

const MOST_ENTRIES = 2 ** 19; // as in the kernel

/** `count` words of `value`, each 64 bits. */
function words(value: unknown, name: string, count: number): bigint[] {
  const list = array(value as readonly unknown[], name);
  if (list.length !== count) throw refusal(`${count} words`, name, value);
  return Array.from(list, (word, at) => u64(word, `${name}[${at}]`));
}

/** Checks a {@link HwptData}, and returns it as the addon takes it. */
export function dataFields(given: HwptData): { format: HwptData['type']; fields: BigUint64Array } {
  const data = options(given, 'data') as HwptData;
  const format = oneOf(data.type, 'data.type', ['vtd-s1', 'arm-smmuv3', 'amd-guest']);
  const fields = (): bigint[] => {
    switch (data.type) {
      case 'vtd-s1':
        return [
          u64(data.pgtblAddr, 'data.pgtblAddr'),
          BigInt(integer(data.addrWidth, 'data.addrWidth', 0, 0xffffffff)),
          BigInt(flag(data.sre, 'data.sre', false)),
          BigInt(flag(data.eafe, 'data.eafe', false)),
          BigInt(flag(data.wpe, 'data.wpe', false)),
        ];
      case 'arm-smmuv3':
        return words(data.ste, 'data.ste', 2);
      case 'amd-guest':
        return words(data.dte, 'data.dte', 4);
    }
  };
  return { format, fields: BigUint64Array.from(fields()) };
}

/** IOMMU_HWPT_INVALIDATE, on a page table or a virtual IOMMU. */
export function invalidate<T extends keyof Invalidations>(
  file: NativeIommufd,
  on: { readonly id: number },
  type: T,
  entries: readonly Invalidations[T][],
): number {
  oneOf(type, 'type', ['vtd-s1', 'arm-smmuv3']);
  const list = array(entries, 'entries');
  if (list.length > MOST_ENTRIES) throw refusal(`at most ${MOST_ENTRIES} entries`, 'entries', list.length);
  const fields: bigint[] = [];
  for (let at = 0; at < list.length; at++) {
    const name = `entries[${at}]`;
    const entry = options((list[at] ?? null) as object, name); // undefined would be empty options
    if (type === 'vtd-s1') {
      const { addr, npages, leaf } = entry as VtdS1Invalidation;
      fields.push(
        u64(addr, `${name}.addr`),
        u64(npages, `${name}.npages`),
        BigInt(flag(leaf, `${name}.leaf`, false)),
      );
    } else {
      fields.push(...words((entry as ArmSmmuv3Invalidation).cmd, `${name}.cmd`, 2));
    }
  }
  return explained(
    () => file.hwptInvalidate(on.id, type, BigUint64Array.from(fields)),
    (error) => wordsForMissing(error, file) ?? { reason: `${error.handled ?? 0} entries were handled` },
  );
}

/** A page table of an iommufd (IOMMU_HWPT_ALLOC, Linux 6.6): what {@link VfioDevice.attach} takes besides an {@link Ioas}. */
export class Hwpt extends IommufdObject {
  readonly #file: NativeIommufd;

  constructor(
    key: typeof OURS,
    iommufd: IommufdFile,
    parents: readonly Handle[],
    file: NativeIommufd,
    object: NativeObject,
  ) {
    super(key, 'Hwpt', iommufd, parents, object);
    this.#file = file;
  }

  /**
   * Starts or stops marking the pages that devices write (IOMMU_HWPT_SET_DIRTY_TRACKING, Linux 6.7). Starting clears all marks
   * first. It may be started or stopped twice.
   *
   * @throws {VfioError} EOPNOTSUPP it was made without `dirtyTracking`; ENOENT it is nested; ENOTTY before 6.7.
   */
  setDirtyTracking(on: boolean): void {
    alive(this);
    if (on === undefined) throw refusal('a boolean', 'on', on);
    const enable = flag(on, 'on', true);
    explained(
      () => this.#file.hwptSetDirtyTracking(this.id, enable),
      (error) =>
        error.code === 'EOPNOTSUPP'
          ? { reason: 'the page table was made without { dirtyTracking: true }' }
          : wordsForMissing(error, this.#file),
    );
  }

  /**
   * Which pages devices have written since the last call (IOMMU_HWPT_GET_DIRTY_BITMAP, Linux 6.7): bit `n % 8` of byte
   * `floor(n / 8)` stands for the `pageSize` bytes at `iova + n * pageSize`. `pageSize` is a power of two, in bytes; `iova`
   * and `length` are multiples of it and of the alignment of the Ioas. If the hardware marks larger pages, all of their bits
   * are set.
   *
   * The call clears the marks unless `clear` is false. No page is marked while tracking is off, nor where nothing is mapped.
   *
   * @throws {VfioError} EOPNOTSUPP it was made without `dirtyTracking`; EINVAL length 0 or not aligned; EOVERFLOW the
   * range wraps; ENOENT it is nested; ENOTTY before 6.7. @throws {RangeError} `pageSize` is no power of two, or there
   * would be more than 2^31 bits.
   */
  dirtyBitmap(iova: U64Like, length: U64Like, o: { pageSize: U64Like; clear?: boolean }): Uint8Array {
    alive(this);
    const { pageSize, clear } = options(o, 'options');
    const from = u64(iova, 'iova');
    const bytes = u64(length, 'length');
    const size = u64(pageSize, 'pageSize');
    const clears = flag(clear, 'clear', true);
    return explained(
      () => this.#file.hwptDirtyBitmap(this.id, from, bytes, size, clears),
      (error) =>
        error.code === 'EOPNOTSUPP'
          ? { reason: 'the page table was made without { dirtyTracking: true }' }
          : wordsForMissing(error, this.#file),
    );
  }

  /**
   * Tells the IOMMU that entries of a nested page table have changed (IOMMU_HWPT_INVALIDATE, Linux 6.8). Returns how many
   * entries were handled: all of them. An empty list asks whether the type is right.
   *
   * @throws {VfioError} EINVAL the type is not this page table's, or an entry is not valid; EOPNOTSUPP a flag is unknown;
   * ENOENT it is not nested; ENOTTY before 6.8. `handled` says how many entries were handled before the one that failed.
   */
  invalidate<T extends 'vtd-s1'>(type: T, entries: readonly Invalidations[T][]): number {
    alive(this);
    return invalidate(this.#file, this, type, entries);
  }
}
