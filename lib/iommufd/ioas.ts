/**
 * An I/O address space (IOAS): which IOVA leads to which memory (requirement D1: map, unmap and copy).
 *
 * Life: Iommufd.allocIoas makes it; map, mapFile and copy make its mappings. Disposing an IOAS disposes the page tables made of
 * it and unmaps everything in it. The kernel's object is destroyed at once if no device is attached to it, else with its
 * iommufd. An IOAS that the kernel made for a group is looked up (Iommufd.vfioCompatIoas): it is not destroyed when its handle
 * is disposed, but everything in it is unmapped when the last handle of this process is disposed.
 */
import { constants } from 'node:os';
import type { NativeIommufd } from '../addon/files.ts';
import type { NativeSpace } from '../addon/memory.ts';
import type { IovaRange } from '../addon/records.ts';
import { array, flag, integer, options, refusal, type U64Like, u64 } from '../base/check.ts';
import { explained, VfioError, withWords } from '../base/errors.ts';
import { type OURS, ours } from '../base/private.ts';
import { alive, disposedError } from '../handles/handle.ts';
import { differs, type HandleClasses, type IommufdFile, iommufdOf } from '../handles/iommufd-file.ts';
import {
  AddressSpace,
  explainMap,
  mappingIn,
  mappingParts,
  nativeSpaceOf,
  type SpaceMapping,
} from '../memory/address-space.ts';
import type { MapOptions, Mapping } from '../memory/dma-space.ts';
import { accessOf, mappingNumber } from '../memory/map-call.ts';
import { wordsForMissing } from './iommufd-words.ts';

/**
 * An I/O address space of an iommufd (Linux 6.2). Ranges are inclusive; addresses and lengths are in bytes, and multiples of
 * `iovaRanges().alignment`: 1 while no device is attached, afterwards the IOMMU's smallest page.
 */
export class Ioas extends AddressSpace {
  readonly #iommufd: IommufdFile;
  readonly #file: NativeIommufd;
  readonly #space: NativeSpace;
  readonly #id: number;

  constructor(key: typeof OURS, iommufd: IommufdFile, file: NativeIommufd, made: NativeSpace) {
    ours(key, 'Ioas');
    super(key, 'Ioas', iommufd, made, made.calls(), file, 'IOMMU_IOAS_MAP');
    this.#iommufd = iommufd;
    this.#file = file;
    this.#space = made;
    this.#id = made.id() ?? 0;
  }

  /** The IOAS's id in its iommufd. */
  get id(): number {
    alive(this);
    // Another object may have the id by now.
    if (this.#space.ended()) throw disposedError('Ioas');
    return this.#id;
  }

  /** The iommufd that it belongs to. */
  get iommufd(): HandleClasses['Iommufd'] {
    return iommufdOf(this.#iommufd);
  }

  /**
   * The ranges that can be mapped (IOMMU_IOAS_IOVA_RANGES, Linux 6.2): all but those that attached devices and IOMMUs reserve.
   * Mappings and {@link allowIovas} do not narrow them. A new IOAS has one range, 0 to 2^64-1, and alignment 1.
   */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    alive(this);
    return this.#file.ioasIovaRanges(this.id);
  }

  /**
   * Limits the ranges in which the kernel chooses an IOVA (IOMMU_IOAS_ALLOW_IOVAS, Linux 6.2); an explicit `iova` may lie
   * outside. The list replaces the earlier one; an empty list removes the limit.
   *
   * @throws {VfioError} EINVAL a range has one address or less, or two overlap; EADDRINUSE a range is reserved.
   */
  allowIovas(ranges: readonly { start: U64Like; last: U64Like }[]): void {
    alive(this);
    const flat: bigint[] = [];
    for (const [i, range] of array(ranges, 'ranges').entries()) {
      if (typeof range !== 'object' || range === null)
        throw refusal('{ start, last }', `ranges[${i}]`, range);
      const { start, last } = options(range, `ranges[${i}]`);
      flat.push(u64(start, `ranges[${i}].start`), u64(last, `ranges[${i}].last`));
    }
    this.#file.ioasAllowIovas(this.id, BigUint64Array.from(flat));
  }

  /**
   * Makes pages of a file reachable by the devices (IOMMU_IOAS_MAP_FILE, Linux 6.13): of a memfd, or from 6.19 on of a dma-buf
   * that VFIO exported. `offset` and `length` are bytes in the file. The kernel keeps the pages: the descriptor may be closed,
   * and the file need not be mapped in this process.
   *
   * @throws {VfioError} ENOTTY before 6.13; EBADF no such descriptor; EINVAL another kind of file (older kernels find that
   * only once a device is attached), or as {@link map}; EOPNOTSUPP a dma-buf before 6.19; others as {@link map}.
   */
  mapFile(fd: number, o: { offset: U64Like; length: U64Like } & MapOptions): Mapping {
    alive(this);
    integer(fd, 'fd', 0, 0x7fffffff);
    const { offset, length, iova, read, write } = options(o, 'options');
    const start = u64(offset, 'offset');
    const bytes = u64(length, 'length');
    const access = accessOf(read, write);
    alive(this);
    const number = mappingNumber();
    let place: bigint;
    try {
      place = BigInt(this.#space.mapFile(fd, start, bytes, access, iova, number));
    } catch (error) {
      throw explainMap(
        this,
        withWords(error, (failed) =>
          failed.code === 'EINVAL'
            ? { reason: 'the file is neither of memory (a memfd, tmpfs, hugetlbfs) nor a dma-buf' }
            : wordsForMissing(failed, this.#file),
        ),
        { iova, size: Number(bytes), address: undefined },
      );
    }
    return mappingIn(this, place, bytes, access, number);
  }

  /**
   * Maps the memory of another mapping of the same iommufd here too. The pages are shared: they are neither pinned nor counted
   * twice (IOMMU_IOAS_COPY, Linux 6.2). The copy stays mapped when the source is unmapped.
   *
   * @throws {VfioError} EPERM `write` for memory that was mapped without it; ENOENT the source is not mapped any more; others
   * as {@link map}.
   */
  copy(from: Mapping, o?: MapOptions): Mapping {
    alive(this);
    const source = mappingParts(from);
    if (source === undefined) throw refusal('a mapping', 'from', from);
    const { space, length } = source;
    if (!(space instanceof Ioas) || differs(space.#iommufd, this.#iommufd))
      throw refusal('a mapping of the same iommufd', 'from', from);
    const { iova, read, write } = options(o, 'options');
    const writable = (from as SpaceMapping).writable;
    const access = accessOf(read, write, writable);
    alive(this);
    const number = mappingNumber();
    // The kernel would copy whichever mapping is at that address by now. This check, and the ledger during the call, make sure
    // that it is still the source.
    if (space.disposed || !nativeSpaceOf(space).holds(source.number, source.iova, length))
      throw new VfioError(constants.errno.ENOENT, {
        syscall: 'ioctl',
        request: 'IOMMU_IOAS_COPY',
        reason: 'the source is not mapped any more',
      });
    let place: bigint;
    try {
      place = BigInt(
        this.#space.copy(nativeSpaceOf(space), source.number, source.iova, length, access, iova, number),
      );
    } catch (error) {
      throw explainMap(this, error, { iova, size: Number(length), address: undefined });
    }
    return mappingIn(this, place, length, access, number);
  }

  /**
   * Whether huge pages may be used in the IOMMU's tables (IOMMU_OPTION_HUGE_PAGES, Linux 6.2). Default true.
   *
   * @throws {VfioError} when it is turned off: EINVAL a page table and a mapping both exist; EADDRINUSE a mapping is not page
   * aligned.
   */
  get hugePages(): boolean {
    alive(this);
    return this.#file.getOption('HUGE_PAGES', this.id) !== 0n;
  }

  set hugePages(on: boolean) {
    alive(this);
    this.#file.setOption('HUGE_PAGES', this.id, flag(on, 'hugePages', true) ? 1 : 0);
  }

  /**
   * The physical address of memory, for a device that has no IOMMU (IOMMU_IOAS_NOIOMMU_GET_PA, Linux 7.3): the address that
   * `iova` is mapped to, and how many bytes from there on, up to `length`, are contiguous.
   *
   * @throws {VfioError} ENOTTY before 7.3; EPERM without CAP_SYS_RAWIO; EOPNOTSUPP the kernel has no no-IOMMU support; EINVAL
   * length 0; other codes if `iova` is not mapped.
   */
  physicalAddress(iova: U64Like, length: U64Like): { address: bigint; length: bigint } {
    alive(this);
    return explained(
      () => this.#file.ioasPhysicalAddress(this.id, iova, length),
      (error) => wordsForMissing(error, this.#file),
    );
  }
}
