/**
 * The requests of a VFIO container with its type1 IOMMU, as programs before iommufd make them. Requirement D4.
 *
 * Life: made by Iommufd.container, over the iommufd's own file: it works on the iommufd's compatibility IOAS, whichever
 * that is at each call. Its mappings are those of that Ioas, which keeps their memory: disposing the Container unmaps
 * nothing.
 */
import { flag, known, oneOf, options, type U64Like, u64 } from './check.ts';
import { type DmaBuffer, type MemorySlice, windowOf } from './dma-buffer.ts';
import type { DmaSpace, IovaRange, MapOptions, Mapping } from './dma-space.ts';
import { explained, VfioError } from './errors.ts';
import { genuine, Handle } from './handle.ts';
import type { Ioas } from './ioas.ts';
import type { Iommufd } from './iommufd.ts';
import type { NativeFile, NativeSpaceCalls } from './native.ts';

const extensions = [
  'type1',
  'spapr-tce',
  'type1v2',
  'dma-cc',
  'eeh',
  'type1-nesting',
  'spapr-tce-v2',
  'noiommu',
  'unmap-all',
  'update-vaddr',
] as const;

/** What {@link Container.supports} can be asked: the kernel's VFIO_*_IOMMU and other extensions by name. */
export type ContainerExtension = (typeof extensions)[number];

/** What {@link Container.setIommu} takes. */
export type ContainerIommu = 'type1' | 'type1v2' | 'noiommu';

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

/** A container over an iommufd (Linux 6.2). Addresses and lengths are bytes, multiples of the smallest page. */
export class Container extends Handle implements DmaSpace {
  readonly #iommufd: Iommufd;
  readonly #file: NativeFile;
  readonly #calls: NativeSpaceCalls;
  #iommuType: ContainerIommu | null = null;
  /** Where the next mapping goes that names no place. */
  #next = 0n;

  /** @internal */
  constructor(iommufd: Iommufd, file: NativeFile) {
    genuine('Container', file);
    const calls = file.containerCalls();
    super('Container', iommufd, []); // the iommufd closes the file
    this.#iommufd = iommufd;
    this.#file = file;
    this.#calls = calls;
  }

  /** The file descriptor: the iommufd's. */
  get fd(): number {
    this.alive();
    return this.#file.fd;
  }

  /** VFIO_GET_API_VERSION: 0. */
  get apiVersion(): number {
    this.alive();
    return this.#file.containerApiVersion();
  }

  /** What {@link setIommu} was last given; null: nothing yet. */
  get iommuType(): ContainerIommu | null {
    this.alive();
    return this.#iommuType;
  }

  /**
   * VFIO_CHECK_EXTENSION.
   *
   * @throws {VfioError} ENODEV 'dma-cc' without a compatibility IOAS.
   */
  supports(extension: ContainerExtension): boolean {
    this.alive();
    const name = oneOf(extension, 'extension', extensions);
    return this.#asked(() => this.#file.containerCheckExtension(name));
  }

  /**
   * VFIO_SET_IOMMU. On an iommufd it may be called again: 'type1' turns huge pages off, so that mappings can be cut;
   * 'type1v2' does not turn them on again.
   *
   * @throws {VfioError} ENODEV no compatibility IOAS; EINVAL another type, or 'type1' with a page table and a mapping
   * there; EADDRINUSE 'type1' with a mapping that is not page aligned.
   */
  setIommu(type: ContainerIommu): void {
    this.alive();
    const name = oneOf(type, 'type', ['type1', 'type1v2', 'noiommu']);
    this.#asked(() => this.#file.containerSetIommu(name));
    this.#iommuType = name;
  }

  /** VFIO_IOMMU_GET_INFO. @throws {VfioError} ENODEV no compatibility IOAS. */
  info(): ContainerInfo {
    this.alive();
    return this.#asked(() => this.#file.containerInfo());
  }

  /** Usable ranges and the smallest page. @throws {VfioError} ENODEV no compatibility IOAS. */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    const { ranges, pageSizes } = this.info();
    return { ranges, alignment: pageSizes & -pageSizes };
  }

  /** The live mappings of the compatibility IOAS, by ascending IOVA, whichever way they were made. */
  mappings(): { iova: bigint; length: bigint; writable: boolean }[] {
    return this.#space().mappings();
  }

  /**
   * VFIO_IOMMU_MAP_DMA. Type1 chooses no addresses: without `iova`, the next free ones are taken here, never 0. Neither
   * `read` nor `write` is accepted, unlike by a container of its own.
   *
   * @throws {VfioError} ENODEV no compatibility IOAS; EEXIST, EINVAL, ENOSPC, ENOMEM and EFAULT as {@link Ioas.map}.
   */
  map(memory: DmaBuffer | MemorySlice, o?: MapOptions): Mapping {
    this.alive();
    const wanted = this.#wanted(o);
    const space = this.#space();
    if (wanted.iova !== undefined) return space.mapBy(this.#calls, memory, wanted);
    const size = BigInt(windowOf(memory).size);
    const usable = this.iovaRanges();
    let mapping: Mapping;
    try {
      mapping = space.mapBy(this.#calls, memory, { ...wanted, iova: this.#after(this.#next, size, usable) });
    } catch (error) {
      if (!(error instanceof VfioError && /^(EEXIST|ENOSPC)$/.test(error.code))) throw error;
      const iova = this.#firstFit(size, usable, space);
      mapping = space.mapBy(this.#calls, memory, { ...wanted, iova });
    }
    this.#next = mapping.iova + mapping.length;
    return mapping;
  }

  /** The same, off the event loop. */
  async mapAsync(memory: DmaBuffer | MemorySlice, o?: MapOptions): Promise<Mapping> {
    this.alive();
    const wanted = this.#wanted(o);
    const space = this.#space();
    const { pages, size } = windowOf(memory);
    const iova = wanted.iova ?? this.#firstFit(BigInt(size), this.iovaRanges(), space);
    this.#next = BigInt(iova) + BigInt(size);
    const mapping = await space.mapAsyncBy((...args) => this.#file.containerMapAsync(...args), memory, {
      ...wanted,
      iova,
    });
    // Another address space was chosen meanwhile: it may be the one that has it, so the pages stay for good.
    if (this.#iommufd.disposed || this.#iommufd.vfioCompatIoas !== space) pages.hold();
    return mapping;
  }

  /**
   * VFIO_IOMMU_UNMAP_DMA: unmaps all mappings that lie wholly in the range and returns their bytes; 0n if there are none.
   * With type1 of the first version a mapping can be cut: its memory is kept until all of it is unmapped.
   *
   * @throws {VfioError} ENODEV no compatibility IOAS; ENOENT the range cuts a mapping: those below it are gone
   * nevertheless; EINVAL length 0, or a cut that is not page aligned; EOVERFLOW the range wraps.
   */
  unmap(iova: U64Like, length: U64Like): bigint {
    this.alive();
    return this.#space().unmapBy(this.#calls, u64(iova, 'iova'), u64(length, 'length'));
  }

  /** VFIO_IOMMU_UNMAP_DMA of everything: returns how many bytes that were. */
  unmapAll(): bigint {
    this.alive();
    return this.#space().unmapAllBy(this.#calls);
  }

  /**
   * VFIO_IOMMU_DIRTY_PAGES: marks what devices write from now on.
   *
   * @throws {VfioError} ENOTTY on an iommufd, which has {@link Hwpt.setDirtyTracking}.
   */
  startDirtyTracking(): void {
    this.alive();
    this.#dirty(() => this.#file.containerDirtyTracking(true));
  }

  /** Ends it. @throws {VfioError} ENOTTY on an iommufd. */
  stopDirtyTracking(): void {
    this.alive();
    this.#dirty(() => this.#file.containerDirtyTracking(false));
  }

  /**
   * Which pages of a mapped range were written: bit `n % 8` of byte `floor(n / 8)` stands for `pageSize` bytes at `iova + n
   * * pageSize`.
   *
   * @throws {VfioError} ENOTTY on an iommufd; EINVAL tracking is off, `pageSize` is not the smallest page, or the range
   * cuts a mapping. @throws {RangeError} `pageSize` is no power of two, or there would be more than 2^31 bits.
   */
  dirtyBitmap(iova: U64Like, length: U64Like, o: { pageSize: U64Like }): Uint8Array {
    this.alive();
    const { pageSize } = options(o, 'options');
    const from = u64(iova, 'iova');
    const bytes = u64(length, 'length');
    const size = u64(pageSize, 'pageSize');
    this.alive();
    return this.#dirty(() => this.#file.containerDirtyBitmap(from, bytes, size));
  }

  protected release(): void {} // the file is the iommufd's, the mappings are its Ioas's

  #wanted(o: MapOptions | undefined): MapOptions {
    if (o === undefined) return {};
    const { iova, read, write } = known(o, 'options', ['iova', 'read', 'write']);
    return {
      iova: iova === undefined ? undefined : u64(iova, 'iova'),
      read: flag(read, 'read', true),
      write: flag(write, 'write', true),
    };
  }

  /** The Ioas that the requests work on. */
  #space(): Ioas {
    this.alive();
    const ioas = this.#iommufd.vfioCompatIoas;
    if (ioas !== null) return ioas;
    // The kernel's own answer.
    return this.#asked(() => {
      this.#file.containerInfo();
      throw new VfioError(19, { syscall: 'ioctl', request: 'VFIO_IOMMU_GET_INFO' });
    });
  }

  #asked<T>(call: () => T): T {
    return explained(call, (error) =>
      error.code === 'ENODEV'
        ? {
            reason: 'the iommufd has no compatibility IOAS',
            hint: 'Set one: iommufd.vfioCompatIoas = iommufd.allocIoas()',
          }
        : undefined,
    );
  }

  #dirty<T>(call: () => T): T {
    return explained(call, (error) =>
      error.code === 'ENOTTY'
        ? { reason: 'an iommufd tracks dirty pages by page table', hint: 'Hwpt.setDirtyTracking' }
        : undefined,
    );
  }

  /** The first address from `from` on where the ranges have room, whatever is mapped. */
  #after(from: bigint, size: bigint, { ranges, alignment }: { ranges: IovaRange[]; alignment: bigint }) {
    for (const { start, last } of ranges) {
      const lowest = start > alignment ? start : alignment;
      const at = up(from > lowest ? from : lowest, alignment);
      if (at <= last && last - at + 1n >= size) return at;
    }
    throw new VfioError(28, {
      syscall: 'ioctl',
      request: 'VFIO_IOMMU_MAP_DMA',
      reason: `no free range of 0x${size.toString(16)} bytes; name an iova that is free`,
    });
  }

  /** The lowest address where there is room between the mappings. */
  #firstFit(size: bigint, usable: { ranges: IovaRange[]; alignment: bigint }, space: Ioas): bigint {
    let from = 0n;
    for (const { iova, length } of space.mappings()) {
      const at = this.#after(from, size, usable);
      if (at >= from && at + size <= iova) return at;
      if (iova + length > from) from = iova + length;
    }
    return this.#after(from, size, usable);
  }
}

function up(value: bigint, to: bigint): bigint {
  return ((value + to - 1n) / to) * to;
}
