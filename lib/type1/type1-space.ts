/**
 * The address space of a container that is no iommufd's (/dev/vfio/vfio): the kernel's type1.
 *
 * Life: made with its Container and disposed with it. Its mappings last until they are unmapped, or until the last group
 * leaves: the kernel then takes the container's IOMMU away, and unmaps everything.
 */

import type { NativeContainer } from '../addon/files.ts';
import type { NativeSpaceCalls } from '../addon/memory.ts';
import type { IovaRange } from '../addon/records.ts';
import { type OURS, ours } from '../base/private.ts';
import { alive, type Handle } from '../handles/handle.ts';
import { AddressSpace, EVERYTHING } from '../memory/address-space.ts';

export class Type1Space extends AddressSpace {
  readonly #file: NativeContainer;

  /** `file` is closed if the space is collected undisposed, which happens together with its container. */
  constructor(key: typeof OURS, container: Handle, file: NativeContainer, calls: NativeSpaceCalls) {
    ours(key, 'Container');
    const entriesLeft = () => file.containerInfo().dmaAvailable; // Linux 5.10
    super(
      key,
      'Container',
      container,
      file.containerSpace(),
      calls,
      file,
      'VFIO_IOMMU_MAP_DMA',
      file,
      entriesLeft,
    );
    this.#file = file;
  }

  override iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    alive(this);
    const { ranges, pageSizes } = this.#file.containerInfo();
    return {
      // If all devices are mediated, there is no IOMMU that could reserve a range.
      ranges: ranges.length > 0 ? ranges : [{ start: 0n, last: EVERYTHING }],
      alignment: pageSizes & -pageSizes,
    };
  }
}
