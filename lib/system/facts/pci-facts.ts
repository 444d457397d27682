/** PCI devices as sysfs shows them: a live view, nothing is cached. The calls that change a device are in pci.ts. */
import type { NativeHost } from '../../addon/native.ts';
import { UUID } from '../../base/check.ts';
import { VfioError, type Words, withWords } from '../../base/errors.ts';
import { type OURS, ours } from '../../base/private.ts';
import { groupNode, openersOf } from './nodes.ts';

/** The path of a device in sysfs, by its PCI address or UUID. */
export const devicePath = (name: string) => `/sys/bus/${UUID.test(name) ? 'mdev' : 'pci'}/devices/${name}`;

/** How long the read of an attribute may take, in milliseconds. It takes no time unless the device's lock is held. */
const READ_TIMEOUT = 1000;

/** @internal The host of a device, for this package's own modules. */
export let hostOf: (device: PciFacts) => NativeHost;

/** The readable state of a PCI device or a mediated device. */
export class PciFacts {
  /** The PCI address: '0000:00:10.0'. For a mediated device, its UUID. */
  readonly bdf: string;
  readonly #host: NativeHost;
  readonly #path: string;

  static {
    hostOf = (device) => device.#host;
  }

  constructor(key: typeof OURS, host: NativeHost, bdf: string) {
    ours(key, 'PciDevice');
    this.#host = host;
    this.bdf = bdf;
    this.#path = devicePath(bdf);
  }

  /**
   * Whether it is a mediated device (Linux 4.10): a share of another device, whose driver confines its DMA. It is bound to a
   * VFIO driver for as long as it exists.
   */
  get mediated(): boolean {
    return this.#path.startsWith('/sys/bus/mdev/');
  }
  /** Vendor id, 16 bits. */
  get vendor(): number {
    return this.#hex('vendor');
  }
  /** Device id, 16 bits. */
  get device(): number {
    return this.#hex('device');
  }
  /** Subsystem vendor id, 16 bits. */
  get subsystemVendor(): number {
    return this.#hex('subsystem_vendor');
  }
  /** Subsystem id, 16 bits. */
  get subsystemDevice(): number {
    return this.#hex('subsystem_device');
  }
  /** 24 bits: class, subclass, programming interface. */
  get classCode(): number {
    return this.#hex('class');
  }
  /** Revision, 8 bits. */
  get revision(): number {
    return this.#hex('revision');
  }
  /** The driver that it is bound to; null: none. */
  get driver(): string | null {
    return basename(this.#host.readlink(`${this.#path}/driver`));
  }
  /**
   * The only driver that may be bound to it, if one was set (driver_override, Linux 3.16).
   *
   * @throws {VfioError} ETIMEDOUT a change of its driver is under way, and waits for a program that has the device open.
   */
  get driverOverride(): string | null {
    const value = this.#lockedText('driver_override');
    return value === null || value === '' || value === '(null)' ? null : value;
  }
  /** Its IOMMU group; null: no IOMMU translates it. */
  get group(): number | null {
    const name = basename(this.#host.readlink(`${this.#path}/iommu_group`));
    return name === null ? null : Number(name);
  }
  /** Its VFIO character device ('/dev/vfio/devices/vfio0'), while it is bound to a VFIO driver (Linux 6.6). */
  get vfioNode(): string | null {
    const name = this.#host.list(`${this.#path}/vfio-dev`)?.[0];
    if (name === undefined || this.#host.readText(`${this.#path}/vfio-dev/${name}/dev`) === null) return null;
    return `/dev/vfio/devices/${name}`;
  }
  /** The NUMA node that it is nearest to; null: unknown. */
  get numaNode(): number | null {
    const node = Number(this.#text('numa_node') ?? -1);
    return node < 0 ? null : node;
  }
  /** The IOMMU that translates it: 'dmar0'. */
  get iommu(): string | null {
    return basename(this.#host.readlink(`${this.#path}/iommu`));
  }
  /** The methods by which the kernel can reset it alone, best first: 'flr', 'pm', 'bus' ... (Linux 5.15); empty: it can't. */
  get resetMethods(): string[] {
    return (this.#text('reset_method') ?? '').split(' ').filter(Boolean);
  }
  /**
   * How many virtual functions it can have and has; null: it is no SR-IOV physical function (Linux 3.8).
   *
   * @throws {VfioError} ETIMEDOUT a change of its driver is under way, and waits for a program that has the device open.
   */
  get sriov(): { totalVfs: number; numVfs: number } | null {
    const total = this.#text('sriov_totalvfs');
    return total === null
      ? null
      : { totalVfs: Number(total), numVfs: Number(this.#lockedText('sriov_numvfs') ?? 0) };
  }
  /** The addresses of its virtual functions, by number; empty: it has none now (Linux 2.6.30). */
  get virtualFunctions(): string[] {
    const links = (this.#host.list(`${this.#path}`) ?? []).filter((name) => /^virtfn\d+$/.test(name));
    const number = (name: string) => Number(name.slice('virtfn'.length));
    return links
      .sort((a, b) => number(a) - number(b))
      .flatMap((name) => basename(this.#host.readlink(`${this.#path}/${name}`)) ?? []);
  }
  /** The address of its physical function, if this is a virtual function; else null (Linux 2.6.30). */
  get physicalFunction(): string | null {
    return basename(this.#host.readlink(`${this.#path}/physfn`));
  }

  #text(attribute: string): string | null {
    return this.#host.readText(`${this.#path}/${attribute}`)?.trim() ?? null;
  }

  /**
   * An attribute that the kernel reads under the device's lock. The read waits while a driver is being unbound or removes
   * virtual functions, and a process can't end while one of its threads waits there.
   */
  #lockedText(attribute: string): string | null {
    const path = `${this.#path}/${attribute}`;
    try {
      return this.#host.readTextWithin(path, READ_TIMEOUT)?.trim() ?? null;
    } catch (error) {
      throw withWords(error, (failed) =>
        failed.code === 'ETIMEDOUT' ? changeUnderWay(this.bdf) : undefined,
      );
    }
  }

  #hex(attribute: string): number {
    // The folder of a mediated device belongs to its driver, which may have made files with such names.
    const value = this.mediated ? null : this.#text(attribute);
    if (value === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: this.#path,
        reason:
          this.mediated && this.group !== null
            ? `${this.bdf} is a mediated device: its ids are in its config space`
            : `there is no device ${this.bdf} any more`,
      });
    return Number(value);
  }
}

/** Why an attribute can't be read while a change of the device's driver is under way, which holds the device's lock. */
export const changeUnderWay = (bdf: string): Words => ({
  reason: `a change of the driver of ${bdf} is under way and goes on: a driver waits for whoever has the device open`,
  hint: "It can't be cancelled, not even by ending this process",
});

/** Whether the device is bound to a VFIO driver: to vfio-pci, or to a driver made from it, such as mlx5_vfio_pci. */
export function usesVfioDriver(device: PciFacts): boolean {
  if (device.mediated) return true;
  const host = hostOf(device);
  if (host.list(`${devicePath(device.bdf)}/vfio-dev`) !== null) return true;
  // Before Linux 6.1 sysfs has no vfio-dev, and only the name of the driver tells.
  return /vfio[-_](pci|platform)$/.test(device.driver ?? '') && host.list('/sys/class/vfio-dev') === null;
}

/** The processes that have the device or its group's node open: 'process 4711 (qemu)'. Without a driver: none. */
export function usersOf(device: PciFacts): string[] {
  if (device.driver === null) return [];
  const host = hostOf(device);
  const nodes = [device.vfioNode, device.group === null ? null : groupNode(host, device.group)];
  const openers = nodes.flatMap((path) => (path === null ? [] : openersOf(host, path)));
  return [...new Set(openers.map((each) => each.name))];
}

/** The last part of a path. */
function basename(path: string | null): string | null {
  return path === null ? null : path.slice(path.lastIndexOf('/') + 1);
}
