/** PCI devices: what sysfs shows of them, and changing their drivers. */
import type { NativeHost } from '../addon/native.ts';
import { flag, integer, known } from '../base/check.ts';
import type { OURS } from '../base/private.ts';
import { type BindOptions, changeNumVfs, changeTogether } from './driver-change.ts';
import { hostOf, PciFacts } from './facts/pci-facts.ts';
import { usesOf } from './facts/uses.ts';

/**
 * A PCI device as sysfs shows it: a live view, read anew at each access. A device that has gone is a VfioError ENODEV
 * for its ids, null for the rest. So is a mediated device, which looks like a PCI device to who opens it only.
 */
export class PciDevice extends PciFacts {
  // Written out: a constructor that the engine adds passes its arguments on by an iterator, which anybody may replace.
  constructor(key: typeof OURS, host: NativeHost, bdf: string) {
    super(key, host, bdf);
  }

  /**
   * What the kernel does with it that would end badly without it: 'disk nvme0n1 is mounted on /srv'. Disks that nothing
   * shows to be in use are opened for a moment, exclusively, where this process may.
   */
  get uses(): string[] {
    return usesOf(hostOf(this), this.bdf).map((each) => each.reason);
  }

  /**
   * Makes virtual functions appear, as many as `count` says, or (0) takes all of them away (Linux 3.8). Those of a
   * device with vfio-pci come up on vfio-pci (Linux 5.7), and opening one takes the token of
   * {@link VfioDevice.setVfToken}. vfio-pci makes them only with its module parameter enable_sriov, which is for the
   * whole host: with `enableSriov` it is set first.
   *
   * `force`: they are taken away although one is open, as {@link BindOptions.force} says.
   *
   * @throws {VfioError} ENOENT no driver holds the device, or it can't have virtual functions now, or the device is no
   * physical function; ERANGE more than `sriov.totalVfs`; EBUSY it has another number of them (0 first), or one of them
   * is open; ETIMEDOUT as in {@link bind}; EACCES not root. `reason` says which.
   */
  async setNumVfs(count: number, o?: { enableSriov?: boolean; force?: boolean }): Promise<void> {
    integer(count, 'count', 0, 0xffff);
    const given = known(o, 'options', ['enableSriov', 'force']);
    const enableSriov = flag(given.enableSriov, 'enableSriov', false);
    const force = flag(given.force, 'force', false);
    await changeNumVfs(this, count, enableSriov, force);
  }

  /**
   * Gives the device to `driver` (default 'vfio-pci') by driver_override; waits until it is there. On failure the
   * driver and override that it had are put back.
   *
   * @throws {VfioError} ENODEV no such driver, or it refused the device; EBUSY the kernel uses it, or something has it
   * open (`force` takes it anyway); ETIMEDOUT the change is not done within 5 seconds and still under way (something
   * holds the device open); EACCES, EPERM not root. ERR_VFIO_DISPOSED its host was disposed before its turn.
   */
  async bind(driver = 'vfio-pci', o?: BindOptions): Promise<void> {
    await changeTogether([this], { driver }, o);
  }

  /**
   * Takes the device from its driver. No driver: nothing.
   *
   * @throws {VfioError} EBUSY something has the device open, or the kernel uses it (`force` takes it anyway); ETIMEDOUT
   * as in {@link bind}; EACCES, EPERM not root.
   */
  async unbind(o?: BindOptions): Promise<void> {
    await changeTogether([this], 'unbind', o);
  }

  /**
   * Gives the device back to the driver that it had before {@link bind}; one that another process gave to a driver, or
   * took from one, to the driver that the kernel picks: `driver` says whether one took it. A device that a
   * driver of the host has, and that was never bound here, is left alone. On failure it stays with the driver that it has.
   *
   * @throws {VfioError} as {@link bind}.
   */
  async restore(o?: BindOptions): Promise<void> {
    await changeTogether([this], 'restore', o);
  }
}
