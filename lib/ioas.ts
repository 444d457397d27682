/**
 * An I/O address space: what IOVA leads to which memory. Requirement D1.
 *
 * Life: made by Iommufd.allocIoas, its mappings by map, mapFile and copy. It keeps the memory of each mapping until that
 * is unmapped. Disposing an IOAS disposes the page tables made of it and unmaps everything in it; the kernel's object
 * goes at once if nothing is attached to it, else with its iommufd.
 */
import { constants } from 'node:os';
import { AddressSpace, type Kept, keptOf, quietly, SpaceMapping } from './address-space.ts';
import { array, flag, integer, options, refusal, type U64Like, u64 } from './check.ts';
import type { IovaRange, MapOptions, Mapping } from './dma-space.ts';
import { explained, VfioError, withWords } from './errors.ts';
import { wordsForMissing } from './explain.ts';
import { alive } from './handle.ts';
import type { Iommufd } from './iommufd.ts';
import type { NativeFile, NativeMemory } from './native.ts';
import { type OURS, ours } from './private.ts';

/** A file's pages are the kernel's to keep. */
const FILE_PAGES: Kept['pages'] = { hold() {}, drop() {} };

/**
 * An I/O address space of an iommufd (Linux 6.2). Ranges are inclusive; addresses and lengths are bytes, and multiples of
 * `iovaRanges().alignment`: 1 while nothing is attached, the IOMMU's smallest page then.
 */
export class Ioas extends AddressSpace {
  readonly #iommufd: Iommufd;
  readonly #file: NativeFile;
  readonly #id: number;

  constructor(key: typeof OURS, iommufd: Iommufd, file: NativeFile, id: number) {
    ours(key, 'Ioas');
    super(key, 'Ioas', iommufd, file.ioasCalls(id), [
      {
        dispose() {
          quietly(() => file.destroy(id));
        },
      },
    ]);
    this.#iommufd = iommufd;
    this.#file = file;
    this.#id = id;
  }

  /** The IOAS's id in its iommufd. */
  get id(): number {
    alive(this);
    return this.#id;
  }

  /** The iommufd that it is in. */
  get iommufd(): Iommufd {
    return this.#iommufd;
  }

  /**
   * What can be mapped (IOMMU_IOAS_IOVA_RANGES, Linux 6.2): everything but what attached devices and IOMMUs reserve.
   * Mappings and {@link allowIovas} do not narrow it. A new IOAS: one range 0 to 2^64-1, alignment 1.
   */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    alive(this);
    return this.#file.ioasIovaRanges(this.#id);
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
    this.#file.ioasAllowIovas(this.#id, BigUint64Array.from(flat));
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
    const readable = flag(read, 'read', true);
    const writable = flag(write, 'write', true);
    alive(this);
    let at: bigint;
    try {
      at = this.#file.ioasMapFile(this.#id, fd, start, bytes, readable, writable, iova);
    } catch (error) {
      throw this.explainMap(
        withWords(error, (failed) =>
          failed.code === 'EINVAL'
            ? { reason: 'the file is neither of memory (a memfd, tmpfs, hugetlbfs) nor a dma-buf' }
            : wordsForMissing(failed, this.#file),
        ),
        { iova, size: Number(bytes), address: undefined },
      );
    }
    return this.record(at, { pages: FILE_PAGES, size: Number(bytes), length: bytes }, writable);
  }

  /**
   * Maps here what another IOAS of the same iommufd has mapped, sharing its pages: they are neither pinned nor counted
   * twice (IOMMU_IOAS_COPY, Linux 6.2). The copy outlives the source.
   *
   * @throws {VfioError} EPERM write asked of memory that was mapped without; others as {@link map}.
   */
  copy(from: Mapping, o?: MapOptions): Mapping {
    alive(this);
    if (!(from instanceof SpaceMapping)) throw refusal('a mapping', 'from', from);
    const source = from;
    const { space } = source;
    if (!(space instanceof Ioas) || space.#iommufd !== this.#iommufd)
      throw refusal('a mapping of the same iommufd', 'from', from);
    const { iova, read, write } = options(o, 'options');
    const readable = flag(read, 'read', true);
    const writable = flag(write, 'write', source.writable);
    alive(this);
    // The kernel would copy whatever is mapped there by now.
    if (!space.holds(source))
      throw new VfioError(constants.errno.ENOENT, {
        syscall: 'ioctl',
        request: 'IOMMU_IOAS_COPY',
        reason: 'the source is not mapped any more',
      });
    const at = explained(
      () => this.#file.ioasCopy(this.#id, space.id, source.length, source.iova, readable, writable, iova),
      (error) => this.wordsForMap(error, { iova, size: keptOf(source).size, address: undefined }),
    );
    return this.record(at, keptOf(source), writable);
  }

  /**
   * Whether huge pages may be used in the IOMMU's tables (IOMMU_OPTION_HUGE_PAGES, Linux 6.2). Default true.
   *
   * @throws {VfioError} turning it off: EINVAL a page table and a mapping both exist; EADDRINUSE a mapping is not page
   * aligned.
   */
  get hugePages(): boolean {
    alive(this);
    return this.#file.getOption('HUGE_PAGES', this.#id) !== 0n;
  }

  set hugePages(on: boolean) {
    alive(this);
    this.#file.setOption('HUGE_PAGES', this.#id, flag(on, 'hugePages', true) ? 1 : 0);
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
      () => this.#file.ioasPhysicalAddress(this.#id, iova, length),
      (error) => wordsForMissing(error, this.#file),
    );
  }

  // By name: what is spread goes by way of an array, whose iterator anybody may have replaced.
  protected override mapLater(
    memory: NativeMemory,
    offset: number,
    size: number,
    read: boolean,
    write: boolean,
    iova: U64Like | undefined,
  ): Promise<U64Like> {
    return this.#file.ioasMapAsync(this.#id, memory, offset, size, read, write, iova);
  }

  protected override pinned(): number {
    return this.#file.pinned();
  }

  protected override emptied(): void {
    // EBUSY, something is still attached: the empty IOAS goes when the iommufd does.
    quietly(() => this.#file.destroy(this.#id));
  }
}
