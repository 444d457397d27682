/**
 * The address space of a container of its own (/dev/vfio/vfio): the kernel's type1.
 *
 * Life: made with its Container and disposed with it. Its mappings last until they are unmapped, or until the last
 * group leaves: the container has no IOMMU then, and the kernel has unmapped everything.
 */
import { AddressSpace, EVERYTHING } from './address-space.ts';
import type { U64Like } from './check.ts';
import type { IovaRange } from './dma-space.ts';
import { alive, type Handle } from './handle.ts';
import type { NativeFile, NativeMemory } from './native.ts';
import { type OURS, ours } from './private.ts';

export class Type1Space extends AddressSpace {
  readonly #file: NativeFile;

  /** `file` is closed if the space is forgotten, which happens together with its container. */
  constructor(key: typeof OURS, container: Handle, file: NativeFile) {
    ours(key, 'Container');
    super(key, 'Container', container, file.containerCalls(), [{ dispose: () => file.dispose() }]);
    this.#file = file;
  }

  override iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    alive(this);
    const { ranges, pageSizes } = this.#file.containerInfo();
    return {
      // With mediated devices alone there is no IOMMU that could reserve anything.
      ranges: ranges.length > 0 ? ranges : [{ start: 0n, last: EVERYTHING }],
      alignment: pageSizes & -pageSizes,
    };
  }

  protected override mapRequest(): string {
    return 'VFIO_IOMMU_MAP_DMA';
  }

  protected override mapLater(
    memory: NativeMemory,
    offset: number,
    size: number,
    read: boolean,
    write: boolean,
    iova: U64Like | undefined,
  ): Promise<U64Like> {
    return this.#file.containerMapAsync(memory, offset, size, read, write, iova);
  }

  protected override pinned(): number {
    return this.#file.pinned();
  }

  protected override emptied(): void {} // the file is closed by the container
}
