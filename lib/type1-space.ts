/**
 * The address space of a container of its own (/dev/vfio/vfio): the kernel's type1.
 *
 * Life: made with its Container and disposed with it. Its mappings last until they are unmapped, or until the last
 * group leaves: the container has no IOMMU then, and the kernel has unmapped everything.
 */
import { AddressSpace, EVERYTHING } from './address-space.ts';
import type { IovaRange } from './dma-space.ts';
import type { Handle } from './handle.ts';
import type { NativeFile, NativeSpaceCalls } from './native.ts';

export class Type1Space extends AddressSpace {
  readonly #file: NativeFile;

  /** `file` is closed if the space is forgotten, which happens together with its container. */
  constructor(container: Handle, file: NativeFile, calls: NativeSpaceCalls) {
    super('Container', container, file.containerSpace(), calls, [file]);
    this.#file = file;
  }

  override iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    this.alive();
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

  protected override pinned(): number {
    return this.#file.pinned();
  }
}
