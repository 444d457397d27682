/**
 * A VFIO container with its type1 IOMMU: programs that were written before iommufd map memory by it. Requirements: a device is
 * reached by its group and a container (A2), and an iommufd takes the requests of containers with the same results (D4).
 *
 * Life: a container that Host.openContainer opens has its own address space from {@link Container.setIommu} until its last
 * group leaves; disposing it disposes its groups first. A container that Iommufd.container makes works on the compatibility
 * IOAS that the iommufd has at each call: its mappings are those of that Ioas, and disposing the container unmaps nothing.
 */

import { constants } from 'node:os';
import type { NativeContainer } from '../addon/files.ts';
import type { NativeContainerCalls } from '../addon/memory.ts';
import type { ContainerInfo, IovaRange } from '../addon/records.ts';
import { flag, known, oneOf, options, refusal, type U64Like, u64 } from '../base/check.ts';
import { explained, VfioError, type Words, withWords } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, disposedError, FileHandle, type Handle } from '../handles/handle.ts';
import { type HandleClasses, type IommufdFile, iommufdOf } from '../handles/iommufd-file.ts';
import {
  type AddressSpace,
  EVERYTHING,
  mapBy,
  mapLaterBy,
  mappingParts,
  unmapBy,
  type Way,
} from '../memory/address-space.ts';
import { type DmaBuffer, type MemorySlice, windowOf } from '../memory/dma-buffer.ts';
import type { DmaSpace, MapOptions, Mapping } from '../memory/dma-space.ts';
import type { GroupFacts } from '../system/facts/group-facts.ts';
import { Type1Space } from './type1-space.ts';
import { wordsForContainer, wordsForSetIommu } from './type1-words.ts';

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

/** The extensions that {@link Container.supports} can be asked for: the kernel's VFIO_*_IOMMU and others, by name. */
export type ContainerExtension = (typeof extensions)[number];

/** The types of IOMMU that {@link Container.setIommu} takes. */
export type ContainerIommu = 'type1' | 'type1v2' | 'noiommu';

/** The iommufd that a container's requests are sent to, and the address spaces that the container needs of it. */
export interface Over {
  readonly iommufd: IommufdFile;
  /** Its compatibility IOAS. */
  compatIoas(): AddressSpace | null;
  /** The IOAS with this id. */
  space(ioas: number): AddressSpace;
}

/** Maps by a container's requests, which work on its own space, or on the IOAS that is the iommufd's compatibility IOAS then. */
function wayOf(
  file: NativeContainer,
  calls: NativeContainerCalls,
  own: Type1Space | undefined,
  over: Over | undefined,
): Way {
  const spaceOf = (ioas: number): AddressSpace => {
    if (own) return own;
    if (over === undefined || over.iommufd.disposed) throw disposedError('Iommufd');
    return over.space(ioas);
  };
  return {
    calls,
    later: async (memory, access, number, iova, offset, size) => {
      const alone = own !== undefined;
      const made = await file.containerMapAsync(alone, memory, access, number, iova, offset, size);
      return { iova: BigInt(made.iova), space: spaceOf(made.ioas) };
    },
    space: () => spaceOf(calls.which()),
  };
}

/** Records that a group has joined. `group` returns what sysfs says of it. */
export let joinedBy: (container: Container, group: () => GroupFacts | undefined) => void;
/** Records that a group has left. With the last one the kernel takes the IOMMU away, and unmaps everything. */
export let leftBy: (container: Container, group: () => GroupFacts | undefined) => void;

/**
 * A container: /dev/vfio/vfio (Linux 3.6), or the same requests on an iommufd (Linux 6.2). Addresses and lengths are bytes,
 * multiples of the smallest page. On /dev/vfio/vfio requests fail with EINVAL until a group has joined ({@link
 * Group.setContainer}) and {@link setIommu} was called.
 */
export class Container extends FileHandle<NativeContainer> implements DmaSpace {
  readonly #over: Over | undefined;
  readonly #file: NativeContainer;
  /** The requests by which it maps and unmaps. */
  readonly #way: Way;
  /** Its own address space; undefined: it works on the iommufd's. */
  readonly #own: Type1Space | undefined;
  #iommuType: ContainerIommu | null = null;
  /** The groups that have joined it, to explain errors. */
  readonly #groups = new Set<() => GroupFacts | undefined>();

  static {
    joinedBy = (container, group) => void container.#groups.add(group);
    leftBy = (container, group) => {
      container.#groups.delete(group);
      if (container.#own === undefined || container.disposed) return;
      if (container.#file.containerLost()) container.#iommuType = null;
    };
  }

  /** `over`: the iommufd that it works on, whose file is `file`; undefined: it is /dev/vfio/vfio. */
  constructor(key: typeof OURS, parent: Handle, file: NativeContainer, over: Over | undefined) {
    ours(key, 'Container');
    const calls = file.containerCalls(over === undefined);
    // The iommufd closes its file itself. The file of /dev/vfio/vfio is closed with the space if this is collected undisposed.
    super(key, 'Container', parent, file, [], (self: Container) => self.#release());
    this.#over = over;
    this.#file = file;
    this.#own = over ? undefined : new Type1Space(OURS, this, file, calls);
    this.#way = wayOf(file, calls, this.#own, over);
  }

  /** The file descriptor: its own, or the iommufd's. It belongs to this object: don't close it. */
  get fd(): number {
    alive(this);
    return this.#file.fd;
  }

  /** The iommufd whose compatibility IOAS it works on; null: it has an address space of its own. */
  get iommufd(): HandleClasses['Iommufd'] | null {
    return this.#over === undefined ? null : iommufdOf(this.#over.iommufd);
  }

  /** VFIO_GET_API_VERSION: 0. */
  get apiVersion(): number {
    alive(this);
    return this.#file.containerApiVersion();
  }

  /** The type that {@link setIommu} last set; null: it was not called yet, or the last group has left since. */
  get iommuType(): ContainerIommu | null {
    alive(this);
    return this.#iommuType;
  }

  /**
   * VFIO_CHECK_EXTENSION. Before {@link setIommu}: whether any kind of IOMMU of this kernel supports it.
   *
   * @throws {VfioError} ENODEV 'dma-cc' on an iommufd without a compatibility IOAS.
   */
  supports(extension: ContainerExtension): boolean {
    alive(this);
    const name = oneOf(extension, 'extension', extensions);
    return this.#asked(() => this.#file.containerCheckExtension(name));
  }

  /**
   * VFIO_SET_IOMMU. 'type1v2' unmaps whole mappings only; 'type1' is its first version. 'noiommu' is UNSAFE: no IOMMU
   * translates or confines the device's accesses, and no memory can be mapped.
   *
   * On an iommufd it may be called again: 'type1' turns huge pages off, so that mappings can be cut; 'type1v2' does
   * not turn them on again.
   *
   * @throws {VfioError} EINVAL no group has joined, or it was called before; ENODEV the kernel has no such type, or the type
   * does not suit the groups; EPERM interrupts are not isolated, or 'noiommu' without CAP_SYS_RAWIO; ENOMEM, EBUSY from the
   * groups' IOMMUs. On an iommufd: ENODEV no compatibility IOAS; EINVAL 'noiommu', or 'type1' while a page table and a mapping
   * exist there; EADDRINUSE 'type1' while a mapping is not page aligned.
   */
  setIommu(type: ContainerIommu): void {
    alive(this);
    const name = oneOf(type, 'type', ['type1', 'type1v2', 'noiommu']);
    explained(
      () => this.#file.containerSetIommu(name),
      (error) =>
        (name === 'noiommu'
          ? undefined
          : wordsForSetIommu(
              error,
              [...this.#groups].map((group) => group()),
            )) ?? this.#words(error),
    );
    this.#iommuType = name;
  }

  /**
   * VFIO_IOMMU_GET_INFO. `ranges` is empty if all groups are of mediated devices, whose accesses no IOMMU translates.
   *
   * @throws {VfioError} EINVAL {@link setIommu} was not called; ENOTTY 'noiommu'; ENODEV no compatibility IOAS.
   */
  info(): ContainerInfo {
    alive(this);
    return this.#asked(() => this.#file.containerInfo());
  }

  /** Usable ranges and the smallest page. @throws {VfioError} as {@link info}. */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    if (this.#own) return this.#asked(() => (this.#own as Type1Space).iovaRanges());
    const { ranges, pageSizes } = this.info();
    return { ranges, alignment: pageSizes & -pageSizes };
  }

  /** The mappings of this process, by ascending IOVA; on an iommufd, all those of the compatibility IOAS. */
  mappings(): { iova: bigint; length: bigint; writable: boolean }[] {
    return this.#space().mappings();
  }

  /**
   * VFIO_IOMMU_MAP_DMA. The kernel chooses no addresses here: without `iova`, this package takes the smallest free range into
   * which the memory fits, aligned so that the IOMMU can use huge pages. It takes no reserved range and not address 0.
   *
   * The memory is pinned at once, and counts against RLIMIT_MEMLOCK (unless the process has CAP_IPC_LOCK). On an iommufd it is
   * pinned as by {@link Ioas.map}.
   *
   * @throws {VfioError} EEXIST the range overlaps a mapping; EINVAL the range is not usable, not aligned, or wraps, or neither
   * read nor write is allowed, or {@link setIommu} was not called (an iommufd accepts a mapping without read and write, and
   * answers EOVERFLOW to a range that wraps); ENOSPC no room, or the limit of 65535 mappings is reached; ENOMEM over the
   * locked-memory limit; EFAULT the memory can't be pinned; ENOTTY 'noiommu'; ENODEV no compatibility IOAS.
   */
  map(memory: DmaBuffer | MemorySlice, o?: MapOptions): Mapping {
    alive(this);
    const wanted = this.#wanted(o);
    const space = this.#space();
    return this.#asked(() => mapBy(space, this.#way, memory, wanted, () => this.iovaRanges()));
  }

  /** As {@link map}, off the event loop. */
  async mapAsync(memory: DmaBuffer | MemorySlice, o?: MapOptions): Promise<Mapping> {
    alive(this);
    const wanted = this.#wanted(o);
    const space = this.#space();
    try {
      return await mapLaterBy(space, this.#way, memory, wanted, () => this.iovaRanges());
    } catch (error) {
      throw this.#explained(error);
    }
  }

  /**
   * VFIO_IOMMU_UNMAP_DMA: unmaps all mappings that lie wholly in the range and returns their length in bytes; 0n if there are
   * none.
   *
   * A range that cuts a mapping: with 'type1v2' the call fails with EINVAL, and unmaps nothing. With 'type1' a mapping that
   * begins in the range is unmapped whole, and a range that begins inside a mapping unmaps nothing: 0n. On an iommufd with
   * 'type1v2' the call fails with ENOENT, but the mappings below the one that is cut are unmapped; with 'type1' the mapping is
   * cut, and its memory is kept until all of it is unmapped.
   *
   * @throws {VfioError} EINVAL and ENOENT as said above; EINVAL length 0, not aligned, or the range wraps (EOVERFLOW on an
   * iommufd), or {@link setIommu} was not called; ENODEV no compatibility IOAS.
   */
  unmap(iova: U64Like, length: U64Like): bigint {
    alive(this);
    const from = u64(iova, 'iova');
    const bytes = u64(length, 'length');
    return this.#asked(() => unmapBy(this.#space(), this.#way, from, bytes));
  }

  /** VFIO_IOMMU_UNMAP_DMA of everything (Linux 5.12): returns how many bytes were unmapped. */
  unmapAll(): bigint {
    alive(this);
    return this.#asked(() => unmapBy(this.#space(), this.#way, 0n, EVERYTHING));
  }

  /**
   * VFIO_IOMMU_DIRTY_PAGES (Linux 5.8): from now on, marks the pages that devices write. If it is on already, nothing happens.
   * Type1 marks all pinned pages, whether they were written or not.
   *
   * @throws {VfioError} EACCES 'type1', which does not track; ENOTTY on an iommufd, which has {@link
   * Hwpt.setDirtyTracking}; EINVAL {@link setIommu} was not called; ENOMEM.
   */
  startDirtyTracking(): void {
    alive(this);
    this.#asked(() => this.#file.containerDirtyTracking(true));
  }

  /** Stops marking. If it is off already, nothing happens. @throws {VfioError} as {@link startDirtyTracking}. */
  stopDirtyTracking(): void {
    alive(this);
    this.#asked(() => this.#file.containerDirtyTracking(false));
  }

  /**
   * Which pages of a mapped range were written: bit `n % 8` of byte `floor(n / 8)` stands for the `pageSize` bytes at `iova +
   * n * pageSize`. With `unmap` the range is unmapped in the same step, so that no write is missed (Linux 5.8).
   *
   * @throws {VfioError} EACCES 'type1'; ENOTTY on an iommufd (EINVAL with `unmap`); EINVAL tracking is off,
   * `pageSize` is not the smallest page, or the range cuts a mapping. @throws {RangeError} `pageSize` is no power of
   * two, or there would be more than 2^31 bits.
   */
  dirtyBitmap(iova: U64Like, length: U64Like, o: { pageSize: U64Like; unmap?: boolean }): Uint8Array {
    alive(this);
    const { pageSize, unmap } = options(o, 'options');
    const from = u64(iova, 'iova');
    const bytes = u64(length, 'length');
    const size = u64(pageSize, 'pageSize');
    const unmaps = flag(unmap, 'unmap', false);
    alive(this);
    return this.#asked(() => {
      if (!unmaps) return this.#file.containerDirtyBitmap(from, bytes, size);
      let bitmap: Uint8Array = new Uint8Array();
      const calls = {
        ...this.#way.calls,
        unmap: (start: U64Like, all: U64Like): U64Like => {
          const own = this.#own !== undefined;
          const answer = this.#file.containerUnmapDirty(own, BigInt(start), BigInt(all), size);
          bitmap = answer.bitmap;
          return answer.bytes;
        },
      };
      unmapBy(this.#space(), { ...this.#way, calls }, from, bytes);
      return bitmap;
    });
  }

  /**
   * Tells the kernel that the user addresses of the mappings in the range are about to change (VFIO_DMA_UNMAP_FLAG_VADDR,
   * Linux 5.12), as when the process replaces itself by exec. Devices go on working; a request that makes the kernel look up a
   * user address waits for {@link updateVaddr}. Returns the length of these mappings in bytes.
   *
   * @throws {VfioError} EBUSY the container has a mediated device; EINVAL a mapping is invalidated already, or the range cuts
   * a mapping; on an iommufd, always EINVAL.
   */
  invalidateVaddr(iova: U64Like, length: U64Like): bigint {
    alive(this);
    const from = u64(iova, 'iova');
    const bytes = u64(length, 'length');
    return this.#asked(() => this.#file.containerInvalidateVaddr(from, bytes));
  }

  /** {@link invalidateVaddr} for all mappings. */
  invalidateAllVaddrs(): bigint {
    return this.invalidateVaddr(0n, EVERYTHING);
  }

  /**
   * Tells the kernel the new user address of a mapping's memory (VFIO_DMA_MAP_FLAG_VADDR, Linux 5.12). `memory` must be the
   * same pages, such as those of a memfd that is mapped twice. The mapping keeps `memory` from then on.
   *
   * @throws {VfioError} EINVAL the mapping was not invalidated, or the sizes differ; ENOENT it was unmapped; ENOMEM.
   */
  updateVaddr(mapping: Mapping, memory: DmaBuffer | MemorySlice): void {
    alive(this);
    const space = this.#space();
    const parts = mappingParts(mapping);
    if (parts === undefined || parts.space !== space)
      throw refusal('a mapping of this container', 'mapping', mapping);
    const { memory: pages, offset, size } = windowOf(memory);
    this.#asked(() =>
      this.#file.containerUpdateVaddr(
        this.#own !== undefined,
        pages,
        offset,
        size,
        parts.iova,
        parts.number,
        parts.length,
      ),
    );
  }

  #release(): void {
    // An iommufd closes its file itself, and the mappings belong to its Ioas.
    if (this.#own) this.#file.dispose();
  }

  #wanted(o: MapOptions | undefined): MapOptions {
    const { iova, read, write } = known(o, 'options', ['iova', 'read', 'write']);
    return {
      iova: iova === undefined ? undefined : u64(iova, 'iova'),
      read: flag(read, 'read', true),
      write: flag(write, 'write', true),
    };
  }

  /** The address space that the requests work on. */
  #space(): AddressSpace {
    alive(this);
    const space = this.#own ?? this.#over?.compatIoas();
    if (space) return space;
    // There is no compatibility IOAS: this request makes the kernel say so.
    return this.#asked(() => {
      this.#file.containerInfo();
      throw new VfioError(constants.errno.ENODEV, { syscall: 'ioctl', request: 'VFIO_IOMMU_GET_INFO' });
    });
  }

  #asked<T>(call: () => T): T {
    return explained(call, (error) => this.#words(error));
  }

  #explained(error: unknown): unknown {
    return withWords(error, (failed) => this.#words(failed));
  }

  #words(error: VfioError): Words | undefined {
    return wordsForContainer(error, this.#own !== undefined, this.#iommuType);
  }
}
