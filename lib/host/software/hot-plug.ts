/** Hot-plug of a software host, and the kernel drivers of its devices. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NativeHost } from '../../addon/native.ts';
import { bdf as checkBdf, flag, known, options, refusal, text } from '../../base/check.ts';
import { VfioError } from '../../base/errors.ts';
import { ownOf } from '../../base/own.ts';
import type { OwnedChange } from '../../simulation/ownership.ts';
import { isSimulated, plugSimulated, type SimulatedDevice } from '../../simulation/simulated-device.ts';
import { type DeviceModel, topologyText } from './topology.ts';

/** Where a device is plugged in, and which driver is bound to it. */
export interface PlugOptions {
  /** The bridge or port that it is behind. Default: the one whose bus its address is on. */
  behind?: string;
  /** The index of the IOMMU that translates its accesses. Default: that of the bridge in front of it, or 0. */
  iommu?: number;
  /** The width of its PASIDs in bits; default 0: none. */
  pasidBits?: number;
  /** The driver that is bound to it; null: none. Default: 'vfio-pci'. */
  driver?: string | null;
}

/** Hot-plug, and the kernel drivers of devices. */
export interface HotPlug {
  /**
   * Plugs a device in. Its place on the buses decides its group, which may be in use (requirement B5: a device that joins an
   * owned group later breaks no rule). `device` is described as in a topology (docs/topology.md), without `bdf`, or is a model of
   * your own ({@link SimulatedDevice}). If the driver
   * does DMA for the kernel and a user owns the group, the device is left without a driver.
   *
   * @throws {TypeError} no such device can be there: the address is taken or on no bus, it is a bridge ...
   */
  addDevice(bdf: string, device: DeviceModel | SimulatedDevice, o?: PlugOptions): void;
  /**
   * Unplugs a device and the devices behind it. If it is open, it can't be opened again, its REQ interrupt fires at once and
   * every 10 seconds, and it is removed when its last descriptor and mapping are closed. Resolves when it has been removed, or
   * when its host is disposed. It waits for the device that was there at the call, whatever is plugged in at its address later.
   *
   * @throws {VfioError} ENODEV there is no such device.
   */
  removeDevice(bdf: string): Promise<void>;
  /**
   * Binds a device to a kernel driver, and unbinds the one that it has. Every name is a driver. It claims the group's DMA for
   * the kernel (requirement B2: users and kernel drivers exclude each other), except the few drivers that do not, such as
   * pci-stub. With `exclusive` the driver attaches a page table of its own, as iommu_attach_device does (requirement B4): the
   * device must be alone in its group, and until the driver is unbound no other driver and no user can claim the group.
   *
   * @throws {VfioError} EBUSY a user owns the group, the device is open, or another driver has claimed the group exclusively;
   * EINVAL `exclusive`, and the group has other devices, or the driver does no DMA for the kernel; ENODEV there is no such
   * device, or the driver doesn't take it.
   */
  bindKernelDriver(bdf: string, driver: string, o?: { exclusive?: boolean }): void;
}

/** How often removeDevice looks whether the device was closed, in milliseconds. */
const PERIOD = 5;

/** @internal The hot-plug calls of a software host. `changed` is told what drivers change while a device owns it. */
export function hotPlug(
  host: NativeHost,
  changed: ((bdf: string, change: OwnedChange) => void) | undefined,
): HotPlug {
  const failure = (result: number, bdf: string, reason: string) =>
    new VfioError(-result, { syscall: 'write', path: `/sys/bus/pci/devices/${bdf}`, reason });
  const missing = (bdf: string) => `there is no PCI device ${bdf}`;
  return {
    addDevice(bdf, device, o) {
      const { behind, iommu, pasidBits, driver } = known(o, 'options', [
        'behind',
        'iommu',
        'pasidBits',
        'driver',
      ]);
      if (device === undefined) throw refusal('a device of a topology { model }', 'device', device);
      const given = { behind, iommu, pasidBits };
      const place = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
      if (isSimulated(device)) {
        const at = { driver: driver === undefined ? 'vfio-pci' : driver, ...place, bdf: checkBdf(bdf) };
        plugSimulated(device, {
          host,
          place: at,
          text: (all) => topologyText(all, 'device'),
          eject: () => void eject(host, at.bdf),
          changed: changed && ((change) => changed(at.bdf, change)),
        });
        return;
      }
      host.addDevice(
        topologyText(
          {
            driver: driver === undefined ? 'vfio-pci' : driver,
            ...(options(device, 'device') as DeviceModel),
            ...place,
            bdf: checkBdf(bdf),
          },
          'device',
        ),
      );
    },

    async removeDevice(bdf) {
      const address = checkBdf(bdf);
      const life = host.life(address);
      const first = host.removeDevice(address, life);
      if (first < 0 && first !== -16) throw failure(first, address, missing(address));
      if (first !== 0) await gone(host, address, life);
    },

    bindKernelDriver(bdf, driver, o) {
      const address = checkBdf(bdf);
      if (!/^[^/\s\0]{1,63}$/.test(text(driver, 'driver')) || driver === '.' || driver === '..')
        throw refusal("the name of a driver such as 'nvme'", 'driver', driver);
      const exclusive = flag(known(o, 'options', ['exclusive']).exclusive, 'exclusive', false);
      const result = host.bindDriver(address, driver, exclusive);
      if (result === -16)
        throw failure(
          result,
          address,
          `${address} is open, a user owns the DMA of its group, or another driver has claimed the group exclusively`,
        );
      if (result === -22 && exclusive)
        throw failure(
          result,
          address,
          `${address} is not alone in its group, or ${driver} does no DMA for the kernel: it can't have a page table of its own`,
        );
      if (result === -19 && host.list(`/sys/bus/pci/devices/${address}`) !== null)
        throw failure(result, address, `driver ${driver} does not take ${address}`);
      if (result < 0) throw failure(result, address, missing(address));
    },
  };
}

/** Removes a device that has left the bus: at once, or when nobody has it open. */
async function eject(host: NativeHost, bdf: string): Promise<void> {
  try {
    const life = host.life(bdf);
    if (host.removeDevice(bdf, life) === -16) await gone(host, bdf, life);
  } catch {
    // The host was disposed: the device ends with the last open file.
  }
}

async function gone(host: NativeHost, bdf: string, life: bigint): Promise<void> {
  for (;;) {
    await sleep(PERIOD, undefined, ownOf({ ref: false }));
    try {
      if (host.removeDevice(bdf, life) !== -16) return;
    } catch {
      return; // the host was disposed
    }
  }
}
