/** PCI devices: what sysfs shows of them, and changes of their drivers. */
import type { NativeHost } from '../addon/native.ts';
import { flag, integer, known } from '../base/check.ts';
import type { OURS } from '../base/private.ts';
import { type BindOptions, changeNumVfs, changeTogether } from './driver-change.ts';
import { hostOf, PciFacts } from './facts/pci-facts.ts';
import { usesOf } from './facts/uses.ts';

/**
 * A PCI device as sysfs shows it. A live view: each property is read anew at each access. After a device was removed, its ids
 * throw a VfioError ENODEV, and the other properties are null. The ids of a mediated device throw too: it looks like a PCI
 * device only once it is open.
 */
export class PciDevice extends PciFacts {
  // Written out: the default constructor passes its arguments on by an iterator, which a program may have replaced.
  constructor(key: typeof OURS, host: NativeHost, bdf: string) {
    super(key, host, bdf);
  }

  /**
   * How the kernel uses it, as far as taking it away would do harm: 'disk nvme0n1 is mounted on /srv'. A disk that no table
   * shows to be in use is opened exclusively for a moment, if this process may open it.
   */
  get uses(): string[] {
    return usesOf(hostOf(this), this.bdf).map((each) => each.reason);
  }

  /**
   * Makes `count` virtual functions, or removes all of them (0) (Linux 3.8). If the device is bound to vfio-pci, so are its
   * virtual functions (Linux 5.7), and to open one takes the token of {@link VfioDevice.setVfToken}. vfio-pci makes virtual
   * functions only if its module parameter enable_sriov is set, which applies to the whole host: `enableSriov` sets it first.
   *
   * `force`: removes them also if one is open, as {@link BindOptions.force} says.
   *
   * @throws {VfioError} ENOENT the device has no driver, or the driver can't make virtual functions now, or the device is no
   * physical function; ERANGE `count` is more than `sriov.totalVfs`; EBUSY it has another number of them (set 0 first), or one
   * of them is open; ETIMEDOUT as in {@link bind}; EACCES not root. `reason` says which.
   */
  async setNumVfs(count: number, o?: { enableSriov?: boolean; force?: boolean }): Promise<void> {
    integer(count, 'count', 0, 0xffff);
    const given = known(o, 'options', ['enableSriov', 'force']);
    const enableSriov = flag(given.enableSriov, 'enableSriov', false);
    const force = flag(given.force, 'force', false);
    await changeNumVfs(this, count, enableSriov, force);
  }

  /**
   * Binds the device to `driver` (default 'vfio-pci') by driver_override; waits until it is bound. On failure the driver and
   * override that it had are put back.
   *
   * @throws {VfioError} ENODEV no such driver, or it refused the device; EBUSY the kernel uses the device, or a program has it
   * open (`force` changes it anyway); ETIMEDOUT the change took more than 5 seconds and is still under way (a program has the
   * device open); EACCES, EPERM not root. Code ERR_VFIO_DISPOSED: its host was disposed before the change began.
   */
  async bind(driver = 'vfio-pci', o?: BindOptions): Promise<void> {
    await changeTogether([this], { driver }, o);
  }

  /**
   * Unbinds the device from its driver. If it has none, nothing happens.
   *
   * @throws {VfioError} EBUSY a program has the device open, or the kernel uses it (`force` unbinds it anyway); ETIMEDOUT
   * as in {@link bind}; EACCES, EPERM not root.
   */
  async unbind(o?: BindOptions): Promise<void> {
    await changeTogether([this], 'unbind', o);
  }

  /**
   * Binds the device again to the driver that it had before {@link bind}. If another process bound or unbound it, the kernel
   * chooses the driver: afterwards `driver` says which, if any. A device that is bound to a driver of the host, and was never
   * bound by this process, is not changed. On failure it keeps the driver that it has.
   *
   * @throws {VfioError} as {@link bind}.
   */
  async restore(o?: BindOptions): Promise<void> {
    await changeTogether([this], 'restore', o);
  }
}
