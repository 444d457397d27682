/** The part of Host that attach() and diagnose() use: the calls that open a device. */
import type { Iommufd } from '../iommufd/iommufd.ts';
import type { IommuGroup } from '../system/groups.ts';
import type { PciDevice } from '../system/pci.ts';
import type { Container } from '../type1/container.ts';
import type { VfioDevice } from '../vfio/device.ts';
import type { Group } from '../vfio/group.ts';

/** Host implements it: see its methods of these names. */
export interface Opener {
  device(bdf: string): PciDevice;
  group(id: number): IommuGroup;
  openDevice(where: string): VfioDevice;
  openIommufd(): Iommufd;
  openGroup(id: number, o?: { unsafeNoIommu?: boolean }): Group;
  openContainer(): Container;
}
