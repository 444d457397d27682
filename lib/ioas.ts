/**
 * An I/O address space: what IOVA leads to which memory. Requirement D1.
 *
 * Life: made by Iommufd.allocIoas, its mappings by map and copy. It keeps the memory of each mapping until that is
 * unmapped. Disposing an IOAS unmaps everything in it; the kernel's object goes at once if nothing is attached to it,
 * else with its iommufd.
 */
import { array, flag, instance, options, refusal, type U64Like, u64 } from './check.ts';
import { type DmaBuffer, type MemorySlice, type Pages, windowOf } from './dma-buffer.ts';
import type { DmaSpace, IovaRange, MapOptions, Mapping } from './dma-space.ts';
import { explained, VfioError, withWords } from './errors.ts';
import { type MapRequest, wordsForMap } from './explain.ts';
import { Handle } from './handle.ts';
import type { Iommufd } from './iommufd.ts';
import type { NativeFile } from './native.ts';

const EVERYTHING = 2n ** 64n - 1n;

/** A mapping in an IOAS: the kernel's, and the pages that it keeps. */
class IoasMapping implements Mapping {
  readonly iova: bigint;
  readonly length: bigint;
  readonly pages: Pages | null;
  readonly writable: boolean;
  readonly #space: Ioas;

  constructor(space: Ioas, iova: bigint, length: bigint, pages: Pages | null, writable: boolean) {
    this.#space = space;
    this.iova = iova;
    this.length = length;
    this.pages = pages;
    this.writable = writable;
  }

  get space(): Ioas {
    return this.#space;
  }

  [Symbol.dispose](): void {
    if (!this.#space.disposed && this.#space.holds(this)) this.#space.unmap(this.iova, this.length);
  }
}

export class Ioas extends Handle implements DmaSpace {
  readonly #iommufd: Iommufd;
  readonly #file: NativeFile;
  readonly #id: number;
  readonly #mappings = new Map<bigint, IoasMapping>();

  /** @internal */
  constructor(iommufd: Iommufd, file: NativeFile, id: number) {
    // Forgetting an IOAS is harmless: it goes with its iommufd.
    super('Ioas', iommufd, []);
    this.#iommufd = iommufd;
    this.#file = file;
    this.#id = id;
  }

  /** The IOAS's id in its iommufd. */
  get id(): number {
    this.alive();
    return this.#id;
  }

  /** The iommufd that it is in. */
  get iommufd(): Iommufd {
    return this.#iommufd;
  }

  /** The live mappings, by ascending IOVA. */
  mappings(): { iova: bigint; length: bigint; writable: boolean }[] {
    this.alive();
    return [...this.#mappings.values()]
      .sort((a, b) => (a.iova < b.iova ? -1 : 1))
      .map(({ iova, length, writable }) => ({ iova, length, writable }));
  }

  /**
   * What can be mapped (IOMMU_IOAS_IOVA_RANGES, Linux 6.2): everything but what attached devices and IOMMUs reserve.
   * Mappings and {@link allowIovas} do not narrow it. A new IOAS: one range 0 to 2^64-1, alignment 1.
   */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    this.alive();
    return this.#file.ioasIovaRanges(this.#id);
  }

  /**
   * Limits where the kernel may place mappings by itself (IOMMU_IOAS_ALLOW_IOVAS, Linux 6.2); an explicit `iova` may
   * lie outside. Replaces the earlier list; an empty one lifts the limit.
   *
   * @throws {VfioError} EINVAL a range of one address or less, or overlapping ones; EADDRINUSE a range is reserved.
   */
  allowIovas(ranges: readonly { start: U64Like; last: U64Like }[]): void {
    this.alive();
    const flat = new BigUint64Array(array(ranges, 'ranges').length * 2);
    ranges.forEach((range, i) => {
      if (typeof range !== 'object' || range === null)
        throw refusal('{ start, last }', `ranges[${i}]`, range);
      flat[2 * i] = u64(range.start, `ranges[${i}].start`);
      flat[2 * i + 1] = u64(range.last, `ranges[${i}].last`);
    });
    this.#file.ioasAllowIovas(this.#id, flat);
  }

  /**
   * Makes memory reachable by the devices attached to this IOAS (IOMMU_IOAS_MAP, Linux 6.2).
   *
   * The memory is pinned while a device is attached, and counts against RLIMIT_MEMLOCK then (unless the process has
   * CAP_IPC_LOCK).
   *
   * @throws {VfioError} EEXIST the range overlaps a mapping; EINVAL it touches a reserved range, is not aligned, or
   * neither read nor write is allowed; ENOSPC no room; ENOMEM over the limit; EFAULT the memory can't be pinned.
   * `reason` names the mapping, the range or the limit.
   */
  map(memory: DmaBuffer | MemorySlice, o?: MapOptions): Mapping {
    this.alive();
    const { pages, offset, size } = windowOf(memory);
    // Taken apart by hand and not by a helper: this is the hot path.
    const iova = o?.iova;
    const read = o?.read ?? true;
    const write = o?.write ?? true;
    let at: bigint;
    try {
      at = this.#file.ioasMap(this.#id, pages.native, offset, size, read, write, iova);
    } catch (error) {
      throw this.#explainMap(error, { iova, size, address: pages.native.address + BigInt(offset) });
    }
    return this.#record(at, BigInt(size), pages, write);
  }

  /**
   * The same as {@link map}, off the event loop: pinning gigabytes takes long. Disposing the IOAS meanwhile undoes it
   * when it is done.
   */
  async mapAsync(memory: DmaBuffer | MemorySlice, o?: MapOptions): Promise<Mapping> {
    this.alive();
    const { pages, offset, size } = windowOf(memory);
    const { iova, read, write } = options(o, 'options');
    const writable = flag(write, 'write', true);
    pages.hold();
    try {
      const at = await this.#file
        .ioasMapAsync(this.#id, pages.native, offset, size, flag(read, 'read', true), writable, iova)
        .catch((error: unknown) => {
          throw this.#explainMap(error, { iova, size, address: pages.native.address + BigInt(offset) });
        });
      // If it was disposed meanwhile, the mapping is lost with it: say so rather than hand out a dead one.
      this.alive();
      return this.#record(at, BigInt(size), pages, writable);
    } finally {
      pages.drop();
    }
  }

  /**
   * Maps here what another IOAS of the same iommufd has mapped, sharing its pages: they are neither pinned nor counted
   * twice (IOMMU_IOAS_COPY, Linux 6.2). The copy outlives the source.
   *
   * @throws {VfioError} EPERM write asked of memory that was mapped without; others as {@link map}.
   */
  copy(from: Mapping, o?: MapOptions): Mapping {
    this.alive();
    const source = instance(from, IoasMapping, 'from');
    if (source.space.#iommufd !== this.#iommufd) throw refusal('a mapping of the same iommufd', 'from', from);
    const { iova, read, write } = options(o, 'options');
    const writable = flag(write, 'write', source.writable);
    const at = explained(
      () =>
        this.#file.ioasCopy(
          this.#id,
          source.space.id,
          source.length,
          source.iova,
          flag(read, 'read', true),
          writable,
          iova,
        ),
      (error) => this.#wordsForMap(error, { iova, size: Number(source.length), address: 0n }),
    );
    return this.#record(at, source.length, source.pages, writable);
  }

  /**
   * Unmaps all mappings that lie wholly in the range (IOMMU_IOAS_UNMAP, Linux 6.2) and returns their bytes.
   *
   * @throws {VfioError} ENOENT nothing is mapped there, or the range cuts a mapping: those below the one that is cut
   * are gone nevertheless; EINVAL length 0; EOVERFLOW the range wraps.
   */
  unmap(iova: U64Like, length: U64Like): bigint {
    this.alive();
    let bytes: bigint;
    try {
      bytes = this.#file.ioasUnmap(this.#id, iova, length);
    } catch (error) {
      throw this.#afterFailedUnmap(error, iova, length);
    }
    const start = BigInt(iova);
    const only = this.#mappings.get(start);
    if (only !== undefined && only.length === bytes) this.#forget(only);
    else this.#forgetWithin(start, start + BigInt(length) - 1n);
    return bytes;
  }

  /** Unmaps everything and returns how many bytes that were. */
  unmapAll(): bigint {
    this.alive();
    const bytes = this.#file.ioasUnmap(this.#id, 0n, EVERYTHING);
    this.#forgetWithin(0n, EVERYTHING);
    return bytes;
  }

  /**
   * Whether huge pages may be used in the IOMMU's tables (IOMMU_OPTION_HUGE_PAGES, Linux 6.2). Default true.
   *
   * @throws {VfioError} turning it off: EINVAL a page table and a mapping both exist; EADDRINUSE a mapping is not page
   * aligned.
   */
  get hugePages(): boolean {
    this.alive();
    return this.#file.getOption('HUGE_PAGES', this.#id) !== 0n;
  }

  set hugePages(on: boolean) {
    this.alive();
    this.#file.setOption('HUGE_PAGES', this.#id, flag(on, 'hugePages', true) ? 1 : 0);
  }

  /** @internal Is this mapping one of the live ones? */
  holds(mapping: Mapping): boolean {
    return this.#mappings.get(mapping.iova) === mapping;
  }

  protected release(): void {
    // Devices lose the memory now, whether or not the kernel's object can go yet.
    this.#file.ioasUnmap(this.#id, 0n, EVERYTHING);
    this.#forgetWithin(0n, EVERYTHING);
    try {
      this.#file.destroy(this.#id);
    } catch (error) {
      // Something is still attached: the empty IOAS goes when the iommufd does.
      if (!(error instanceof VfioError && error.code === 'EBUSY')) throw error;
    }
  }

  #record(iova: bigint, length: bigint, pages: Pages | null, writable: boolean): IoasMapping {
    const mapping = new IoasMapping(this, iova, length, pages, writable);
    pages?.hold();
    this.#mappings.set(iova, mapping);
    return mapping;
  }

  #forget(mapping: IoasMapping): void {
    this.#mappings.delete(mapping.iova);
    mapping.pages?.drop();
  }

  #forgetWithin(start: bigint, last: bigint): void {
    for (const mapping of this.#mappings.values())
      if (mapping.iova >= start && mapping.iova + mapping.length - 1n <= last) this.#forget(mapping);
  }

  /** Behaviour 42: a range that cuts a mapping fails, but what lies below the cut one is gone. */
  #afterFailedUnmap(error: unknown, from: U64Like, length: U64Like): unknown {
    if (!(error instanceof VfioError) || error.code !== 'ENOENT') return error;
    const start = BigInt(from);
    const last = start + BigInt(length) - 1n;
    const cut = this.mappings().find(({ iova, length }) => {
      const end = iova + length - 1n;
      return iova <= last && end >= start && (iova < start || end > last);
    });
    if (cut && cut.iova >= start) this.#forgetWithin(start, cut.iova - 1n);
    return withWords(error, () => ({
      reason: cut
        ? `the range cuts the mapping ${range(cut.iova, cut.length)}; only whole mappings can be unmapped`
        : `nothing is mapped in ${range(start, last - start + 1n)}`,
    }));
  }

  #explainMap(error: unknown, request: MapRequest): unknown {
    return withWords(error, (failed) => this.#wordsForMap(failed, request));
  }

  #wordsForMap(error: VfioError, request: MapRequest) {
    return wordsForMap(error, request, { ...this.iovaRanges(), mappings: this.mappings() });
  }
}

function range(start: bigint, length: bigint): string {
  return `[0x${start.toString(16)}, 0x${(start + length - 1n).toString(16)}]`;
}
