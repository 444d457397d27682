/**
 * The way 'iommufd-mirror': memory of the process is mapped ahead, at the IOVA that is its own address. A pointer of the
 * program then means the same memory to the device. It works with every IOMMU and every device, without page faults.
 *
 * The kernel pins what is mapped, and follows no change of the process's memory: after munmap, mremap or MADV_DONTNEED the
 * device still reaches the old pages, while the process has new ones. So only memory that does not change is mapped: the heap,
 * which is unmapped from the device before the process gives it back, and memory whose owner the program names.
 *
 * Life: `mirror` makes the address space and attaches the device; `dispose` detaches it, unmaps the memory, and then lets go of
 * it. The memory is released when the kernel is known to have unmapped it (native/ledger).
 */
import { attach, isNoWay, unsuited } from './attachment.ts';
import { Heap } from './heap.ts';
import { shared } from './shared.ts';
import type { MakeBonding } from './way.ts';

/** Makes a bonding for memory that is mapped ahead (Linux 6.6; with a PASID 6.15). */
export const mirror: MakeBonding = shared((request) => {
  const attachment = unsuited(request) ?? attach(request.device);
  if (isNoWay(attachment)) return attachment;
  const heap = new Heap({ ioas: attachment.ioas, addressBits: request.addressBits });
  return {
    way: 'iommufd-mirror',
    pasid: () => attachment.pasid,
    ended: () => false,
    reach: (address, length) => heap.reach(address, length),
    allocate: (size) => heap.allocate(size),
    adopt: (address, length, owner) => heap.adopt(address, length, owner),
    dispose() {
      heap.dispose();
      attachment.detach();
    },
  };
});
