/** IOMMU groups, and changing the drivers of all of their members together. */
import type { NativeHost } from '../addon/native.ts';
import { OURS } from '../base/private.ts';
import { type BindOptions, changeTogether } from './driver-change.ts';
import { GroupFacts } from './facts/group-facts.ts';
import { PciDevice } from './pci.ts';

/**
 * An IOMMU group as sysfs shows it: the devices that the IOMMU can't tell apart, which one owner must have together.
 * A live view, read anew at each access.
 */
export class IommuGroup extends GroupFacts<PciDevice> {
  constructor(key: typeof OURS, host: NativeHost, id: number) {
    super(key, host, id, (its, bdf) => new PciDevice(OURS, its, bdf));
  }

  /**
   * Gives all members but bridges to `driver` (default 'vfio-pci'), all or none: what was done is undone if one fails.
   *
   * @throws {VfioError} as {@link PciDevice.bind}.
   */
  async bind(driver = 'vfio-pci', o?: BindOptions): Promise<void> {
    await changeTogether(this.endpoints, { driver }, o);
  }

  /** Takes all members but bridges from their drivers, all or none. @throws {VfioError} as {@link PciDevice.unbind}. */
  async unbind(o?: BindOptions): Promise<void> {
    await changeTogether(this.endpoints, 'unbind', o);
  }

  /** Gives all members but bridges back, all or none: see {@link PciDevice.restore}. */
  async restore(o?: BindOptions): Promise<void> {
    await changeTogether(this.endpoints, 'restore', o);
  }
}
