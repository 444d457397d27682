/** IOMMU groups, and changes of the drivers of all their members together. */
import type { NativeHost } from '../addon/native.ts';
import { OURS } from '../base/private.ts';
import { type BindOptions, changeTogether } from './driver-change.ts';
import { GroupFacts } from './facts/group-facts.ts';
import { PciDevice } from './pci.ts';

/**
 * An IOMMU group as sysfs shows it: devices that the IOMMU can't isolate from each other, so that all of them must have the
 * same owner. A live view: each property is read anew at each access.
 */
export class IommuGroup extends GroupFacts<PciDevice> {
  constructor(key: typeof OURS, host: NativeHost, id: number) {
    super(key, host, id, (its, bdf) => new PciDevice(OURS, its, bdf));
  }

  /**
   * Binds all members but bridges to `driver` (default 'vfio-pci'), all or none: if one fails, the others get back their
   * drivers.
   *
   * @throws {VfioError} as {@link PciDevice.bind}.
   */
  async bind(driver = 'vfio-pci', o?: BindOptions): Promise<void> {
    await changeTogether(this.endpoints, { driver }, o);
  }

  /** Unbinds all members but bridges from their drivers, all or none. @throws {VfioError} as {@link PciDevice.unbind}. */
  async unbind(o?: BindOptions): Promise<void> {
    await changeTogether(this.endpoints, 'unbind', o);
  }

  /** Gives all members but bridges back to their former drivers, all or none: see {@link PciDevice.restore}. */
  async restore(o?: BindOptions): Promise<void> {
    await changeTogether(this.endpoints, 'restore', o);
  }
}
