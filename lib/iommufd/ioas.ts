/**
 * An I/O address space: what IOVA leads to which memory. Requirement D1.
 *
 * Life: made by Iommufd.allocIoas, its mappings by map, mapFile and copy. Disposing an IOAS disposes the page tables made
 * of it and unmaps everything in it; the kernel's object goes at once if nothing is attached to it, else with its
 * iommufd. One that the kernel made for a group is looked up (Iommufd.vfioCompatIoas): it stays when its handle is
 * disposed, and is emptied when the last handle of this process goes.
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
 * An I/O address space of an iommufd (Linux 6.2). Ranges are inclusive; addresses and lengths are bytes, and multiples of
 * `iovaRanges().alignment`: 1 while nothing is attached, the IOMMU's smallest page then.
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
    // The id may be another object's by now.
    if (this.#space.ended()) throw disposedError('Ioas');
    return this.#id;
  }

  /** The iommufd that it is in. */
  get iommufd(): HandleClasses['Iommufd'] {
    return iommufdOf(this.#iommufd);
  }

  /**
   * What can be mapped (IOMMU_IOAS_IOVA_RANGES, Linux 6.2): everything but what attached devices and IOMMUs reserve.
   * Mappings and {@link allowIovas} do not narrow it. A new IOAS: one range 0 to 2^64-1, alignment 1.
   */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    alive(this);
    return this.#file.ioasIovaRanges(this.id);
  }

  /**
   * Limits where the kernel may place mappings by itself (IOMMU_IOAS_ALLOW_IOVAS, Linux 6.2); an explicit `iova` may
   * lie outside. Replaces the earlier list; an empty one lifts the limit.
   *
   * @throws {VfioError} EINVAL a range of one address or less, or overlapping ones; EADDRINUSE a range is reserved.
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
   * Makes pages of a file reachable (IOMMU_IOAS_MAP_FILE, Linux 6.13): a memfd, or from 6.19 on a dma-buf that VFIO
   * exported. `offset` and `length` are bytes in the file. The kernel keeps the pages: the descriptor may be closed, and
   * nothing of it need be mapped in this process.
   *
   * @throws {VfioError} ENOTTY before 6.13; EBADF no such descriptor; EINVAL not such a file (older kernels say so only
   * once a device is attached), or as {@link map}; EOPNOTSUPP a dma-buf before 6.19; others as {@link map}.
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
    let place: U64Like;
    try {
      place = this.#space.mapFile(fd, start, bytes, access, iova, number);
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
   * Maps here what another IOAS of the same iommufd has mapped, sharing its pages: they are neither pinned nor counted
   * twice (IOMMU_IOAS_COPY, Linux 6.2). The copy outlives the source.
   *
   * @throws {VfioError} EPERM write asked of memory that was mapped without; others as {@link map}.
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
    // The kernel would copy whatever is mapped there by now: the addon sees to it that it is still the source.
    if (space.disposed || !nativeSpaceOf(space).holds(source.number, source.place, length))
      throw new VfioError(constants.errno.ENOENT, {
        syscall: 'ioctl',
        request: 'IOMMU_IOAS_COPY',
        reason: 'the source is not mapped any more',
      });
    let place: U64Like;
    try {
      place = this.#space.copy(
        nativeSpaceOf(space),
        source.number,
        source.place,
        length,
        access,
        iova,
        number,
      );
    } catch (error) {
      throw explainMap(this, error, { iova, size: Number(length), address: undefined });
    }
    return mappingIn(this, place, length, access, number);
  }

  /**
   * Whether huge pages may be used in the IOMMU's tables (IOMMU_OPTION_HUGE_PAGES, Linux 6.2). Default true.
   *
   * @throws {VfioError} turning it off: EINVAL a page table and a mapping both exist; EADDRINUSE a mapping is not page
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
   * Where memory really is that a device without an IOMMU uses (IOMMU_IOAS_NOIOMMU_GET_PA, Linux 7.3): the physical
   * address behind `iova`, and how many bytes from there on, up to `length`, are contiguous.
   *
   * @throws {VfioError} ENOTTY before 7.3; EPERM without CAP_SYS_RAWIO; EOPNOTSUPP a kernel without no-IOMMU support;
   * EINVAL length 0; others `iova` is not mapped.
   */
  physicalAddress(iova: U64Like, length: U64Like): { address: bigint; length: bigint } {
    alive(this);
    return explained(
      () => this.#file.ioasPhysicalAddress(this.id, iova, length),
      (error) => wordsForMissing(error, this.#file),
    );
  }
}
