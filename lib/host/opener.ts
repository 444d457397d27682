/** What opens the ways to a device. Host is it; what needs no more of a host takes this. */
import type { Iommufd } from '../iommufd/iommufd.ts';
import type { IommuGroup } from '../system/groups.ts';
import type { PciDevice } from '../system/pci.ts';
import type { Container } from '../type1/container.ts';
import type { VfioDevice } from '../vfio/device.ts';
import type { Group } from '../vfio/group.ts';

/** See the methods of {@link Host} by these names. */
export interface Opener {
  device(bdf: string): PciDevice;
  group(id: number): IommuGroup;
  openDevice(where: string): VfioDevice;
  openIommufd(): Iommufd;
  openGroup(id: number, o?: { unsafeNoIommu?: boolean }): Group;
  openContainer(): Container;
}
