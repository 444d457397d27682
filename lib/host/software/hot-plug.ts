/** Hot-plug of a software host, and the kernel drivers of its devices. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NativeHost } from '../../addon/native.ts';
import { bdf as checkBdf, flag, known, options, refusal, text } from '../../base/check.ts';
import { VfioError } from '../../base/errors.ts';
import { ownOf } from '../../base/own.ts';
import { type DeviceModel, topologyText } from './topology.ts';

/** Where a device is plugged in, and who takes it. */
export interface PlugOptions {
  /** The bridge or port that it is behind. Default: the one whose bus its address is on. */
  behind?: string;
  /** Which IOMMU translates it, by index. Default: that of the bridge in front of it, or 0. */
  iommu?: number;
  /** How many PASID bits it has; default 0. */
  pasidBits?: number;
  /** The driver that takes it; null: none. Default: 'vfio-pci'. */
  driver?: string | null;
}

/** What a hand at the machine, or its kernel, does to a device. */
export interface HotPlug {
  /**
   * Plugs a device in (B5), into the group that its place gives it, which somebody may own: `device` is what a topology
   * says of one (docs/topology.md), without `bdf`. A driver that can't have it, since it does DMA for the kernel and a
   * user owns the group, leaves it without one.
   *
   * @throws {TypeError} no such device can be there: an address that is taken or on no bus, a bridge ...
   */
  addDevice(bdf: string, device: DeviceModel, o?: PlugOptions): void;
  /**
   * Unplugs a device, and what is behind it. One that is open can't be opened any more, its REQ interrupt fires at once
   * and every 10 seconds, and it goes when the last descriptor and mapping of it are closed. Resolves when it has gone, or
   * with its host: the device that was there when this was called, whatever is plugged in at its address later.
   *
   * @throws {VfioError} ENODEV there is no such device.
   */
  removeDevice(bdf: string): Promise<void>;
  /**
   * Gives a device to a driver of the kernel's, taking it from the one that has it. Any name is one; it does DMA for the
   * kernel, unless it is one that does not (B2). With `exclusive` the driver gives the device a page table of its own,
   * as iommu_attach_device does (B4): the device has to be alone in its group, and until the driver lets go nobody
   * shares it, no other driver of the kernel's either.
   *
   * @throws {VfioError} EBUSY a user owns the group, the device is open, or another driver has the group for itself;
   * EINVAL `exclusive`, and the group has other devices, or the driver does no DMA for the kernel; ENODEV there is no
   * such device, or the driver doesn't take it.
   */
  bindKernelDriver(bdf: string, driver: string, o?: { exclusive?: boolean }): void;
}

/** How long it takes to notice that a device was closed. */
const PERIOD = 5;

/** @internal */
export function hotPlug(host: NativeHost): HotPlug {
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

    removeDevice(bdf) {
      const address = checkBdf(bdf);
      const life = host.life(address);
      const first = host.removeDevice(address, life);
      if (first < 0 && first !== -16) throw failure(first, address, missing(address));
      return first === 0 ? Promise.resolve() : gone(host, address, life);
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
          `${address} is open, a user owns the DMA of its group, or another driver has the group for itself`,
        );
      if (result === -22 && exclusive)
        throw failure(
          result,
          address,
          `${address} is not alone in its group, or ${driver} does no DMA for the kernel: no page table can be its own`,
        );
      if (result === -19 && host.list(`/sys/bus/pci/devices/${address}`) !== null)
        throw failure(result, address, `driver ${driver} does not take ${address}`);
      if (result < 0) throw failure(result, address, missing(address));
    },
  };
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
