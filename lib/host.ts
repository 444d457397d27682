/**
 * The host: the machine's kernel, or the software host. The only place that knows which.
 *
 * Life: made by Host.open; disposing it disposes what was opened through it. A software host lives until it and all
 * that was opened on it are gone.
 */
import { existsSync } from 'node:fs';
import { type AttachOptions, attach, type UserDevice } from './attach.ts';
import { bdf as checkBdf, flag, integer, known, oneOf, refusal } from './check.ts';
import { Container } from './container.ts';
import { VfioDevice } from './device.ts';
import { VfioError, withWords } from './errors.ts';
import { wordsForOpenGroup } from './explain-group.ts';
import { wordsForJoin, wordsForNode, wordsForOpen } from './explain-host.ts';
import { Group } from './group.ts';
import { IommuGroup, markInUse } from './groups.ts';
import { Handle } from './handle.ts';
import { type HotPlug, hotPlug } from './hot-plug.ts';
import { Iommufd } from './iommufd.ts';
import { type NativeFile, type NativeHost, native } from './native.ts';
import { PciDevice } from './pci.ts';
import { type Topology, topologyText } from './topology.ts';

export interface HostOptions {
  /**
   * 'auto' (default; the environment variable VFIO_BACKEND overrides it): the kernel where /dev/iommu or
   * /dev/vfio/vfio exists, else software. A missing permission is an error with a hint, never a fall back.
   */
  backend?: 'auto' | 'kernel' | 'software';
  /** What the software host is to be, where it is chosen. Refused with `backend: 'kernel'`. */
  software?: SoftwareOptions;
}

/** What a software host is to be. */
export interface SoftwareOptions {
  /**
   * The kernel release that it answers as, '6.6' to '7.3': later commands give ENOTTY, later flags EOPNOTSUPP, and
   * errors that changed are that release's. '6.12' is its long-term series, with what was carried back into it.
   * Default: the newest known, '7.3'.
   */
  kernel?: string;
  /** The machine: docs/topology.md. Default: the one of docs/software-host.md. */
  topology?: Topology;
}

/** One thing that a host has or lacks. */
export interface HostCheck {
  /** What was looked for. */
  name: string;
  /** Whether it is there. */
  ok: boolean;
  /** What was found. */
  detail: string;
  /** What can be done, where it is not. */
  fix?: string;
}

/** What a host can do and, for what it can't, why and how to fix it. */
export interface HostReport {
  backend: 'kernel' | 'software';
  /** The kernel's release: the running one's, or the one that the software host answers as. */
  kernel: string;
  checks: HostCheck[];
}

/** A translation that failed: what the IOMMU's fault log holds. */
export interface DmaFault {
  bdf: string;
  iova: bigint;
  length: bigint;
  write: boolean;
  /** In words: 'not mapped', 'not writable' ... */
  reason: string;
}

/** What only a software host can be asked. */
export interface SoftwareControls extends HotPlug {
  /** Translations that failed since last asked, oldest first. */
  takeFaults(): DmaFault[];
  /** Resolves once no device has work left. */
  settle(): Promise<void>;
}

/**
 * The machine's kernel, or a software host. Disposing it disposes what was opened through it; a software host itself
 * lives until its last file is closed.
 */
export class Host extends Handle {
  /** Which one it is. */
  readonly backend: 'kernel' | 'software';
  /** Present on the software host only. */
  declare readonly software?: SoftwareControls;
  readonly #native: NativeHost;

  private constructor(backend: 'kernel' | 'software', software?: SoftwareOptions) {
    const { kernel, topology } = known(software, 'software', ['kernel', 'topology']);
    // Before the handle is made: what is refused leaves nothing behind.
    const made = new native.Host(
      backend,
      kernel,
      topology === undefined ? undefined : topologyText(topology, 'software.topology'),
    );
    super('Host', undefined, []);
    this.backend = backend;
    this.#native = made;
    if (backend === 'software') {
      const host = this.#native;
      this.software = {
        ...hotPlug(host),
        takeFaults: () => host.takeFaults(),
        settle: () => host.settle(),
      };
    }
  }

  /** Opens the machine's kernel or a new software host: see {@link HostOptions.backend}. */
  static open(o?: HostOptions): Host {
    const { backend, software } = known(o, 'options', ['backend', 'software']);
    const wanted = oneOf(backend ?? process.env['VFIO_BACKEND'] ?? 'auto', 'backend', [
      'auto',
      'kernel',
      'software',
    ]);
    if (backend === 'kernel' && software !== undefined)
      throw refusal("no software host's options with backend 'kernel'", 'software', software);
    const found = existsSync('/dev/iommu') || existsSync('/dev/vfio/vfio') ? 'kernel' : 'software';
    const chosen = wanted === 'auto' ? found : wanted;
    return new Host(chosen, chosen === 'software' ? software : undefined);
  }

  /** What this host can do and, for what it can't, why and how to fix it. */
  report(): HostReport {
    this.alive();
    const check = (name: string, ok: boolean, yes: string, no: string, fix: string): HostCheck =>
      ok ? { name, ok, detail: yes } : { name, ok, detail: no, fix };
    const groups = this.#native.list('/sys/kernel/iommu_groups')?.length ?? 0;
    const nodes = new Set(this.#native.list('/dev') ?? []);
    const vfio = this.#native.list('/sys/bus/pci/drivers/vfio-pci') !== null;
    return {
      backend: this.backend,
      kernel: this.#native.release(),
      checks: [
        check(
          'iommufd',
          nodes.has('iommu'),
          '/dev/iommu',
          'no /dev/iommu',
          'Linux 6.2 or later with CONFIG_IOMMUFD: "modprobe iommufd"',
        ),
        check('vfio-pci', vfio, 'the driver is there', 'no driver vfio-pci', '"modprobe vfio-pci"'),
        check(
          'IOMMU',
          groups > 0,
          `${groups} groups`,
          'no IOMMU group: it is off or absent',
          'Boot with intel_iommu=on or amd_iommu=on',
        ),
      ],
    };
  }

  /** All PCI devices, by address. */
  devices(): PciDevice[] {
    this.alive();
    return (this.#native.list('/sys/bus/pci/devices') ?? [])
      .sort()
      .map((bdf) => new PciDevice(this.#native, bdf));
  }

  /** A PCI device. @throws {VfioError} ENODEV there is none at this address. */
  device(bdf: string): PciDevice {
    this.alive();
    const address = checkBdf(bdf);
    if (this.#native.list(`/sys/bus/pci/devices/${address}`) === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: `/sys/bus/pci/devices/${address}`,
        reason: `there is no PCI device ${address}`,
      });
    return new PciDevice(this.#native, address);
  }

  /** All IOMMU groups, by number. */
  groups(): IommuGroup[] {
    this.alive();
    return (this.#native.list('/sys/kernel/iommu_groups') ?? [])
      .map(Number)
      .sort((a, b) => a - b)
      .map((id) => new IommuGroup(this.#native, id));
  }

  /** An IOMMU group. @throws {VfioError} ENODEV there is no such group. */
  group(id: number): IommuGroup {
    this.alive();
    integer(id, 'id', 0, 0x7fffffff);
    if (this.#native.list(`/sys/kernel/iommu_groups/${id}`) === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: `/sys/kernel/iommu_groups/${id}`,
        reason: `there is no group ${id}`,
      });
    return new IommuGroup(this.#native, id);
  }

  /** Opens /dev/iommu (Linux 6.2). @throws {VfioError} ENOENT no iommufd; EACCES: `reason` says who may. */
  openIommufd(): Iommufd {
    this.alive();
    return new Iommufd(this, this.#open('/dev/iommu'));
  }

  /**
   * Opens a device's character device (Linux 6.6): by PCI address, by path, or from a descriptor (duplicated). It
   * must be with a VFIO driver: see {@link PciDevice.bind}.
   *
   * @throws {VfioError} ENODEV no such device, or it has no VFIO driver; EACCES: `reason` says who may.
   */
  openDevice(where: string | { path: string } | { fd: number }): VfioDevice {
    this.alive();
    if (typeof where === 'object' && where !== null) {
      if ('fd' in where) return new VfioDevice(this, native.adopt(where.fd), null);
      if ('path' in where && typeof where.path === 'string')
        return new VfioDevice(this, this.#open(where.path), null);
    }
    if (typeof where !== 'string') throw refusal('a PCI address, { path } or { fd }', 'where', where);
    const device = this.device(where);
    const path = device.vfioNode;
    if (path === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: `/sys/bus/pci/devices/${device.bdf}/vfio-dev`,
        ...wordsForNode(device),
      });
    return new VfioDevice(this, this.#open(path), device.bdf, {
      words: (error) => {
        const group = device.group;
        return wordsForJoin(error, device, group === null ? undefined : new IommuGroup(this.#native, group));
      },
      bound: () => markInUse(this.#native, device.bdf),
      groupOf: this.#groupOf,
    });
  }

  /**
   * Opens a container (/dev/vfio/vfio, Linux 3.6). @throws {VfioError} ENOENT, ENODEV the kernel has none; EACCES.
   */
  openContainer(): Container {
    this.alive();
    return new Container(this, this.#open('/dev/vfio/vfio'), undefined);
  }

  /**
   * Opens a group (/dev/vfio/N, Linux 3.6): one file at a time on a host. A member must be with a VFIO driver.
   *
   * `unsafeNoIommu`: also a group that has no IOMMU (/dev/vfio/noiommu-N), with CAP_SYS_RAWIO. UNSAFE: its devices
   * reach all memory of the machine.
   *
   * @throws {VfioError} ENOENT, ENODEV no such group, or no member is with a VFIO driver; EBUSY it is open, or used
   * by a character device; EPERM without CAP_SYS_RAWIO; EACCES. `reason` says which.
   */
  openGroup(id: number, o?: { unsafeNoIommu?: boolean }): Group {
    this.alive();
    integer(id, 'id', 0, 0x7fffffff);
    const { unsafeNoIommu } = known(o, 'options', ['unsafeNoIommu']);
    const unsafe = flag(unsafeNoIommu, 'unsafeNoIommu', false);
    this.alive();
    const sysfs = () => this.groups().find((each) => each.id === id);
    const noIommu = unsafe && (sysfs()?.noIommu ?? false);
    const path = `/dev/vfio/${noIommu ? 'noiommu-' : ''}${id}`;
    let file: NativeFile;
    try {
      file = this.#native.open(path);
    } catch (error) {
      throw withWords(
        error,
        (failed) => wordsForOpenGroup(failed, id, sysfs(), path) ?? wordsForOpen(failed, path),
      );
    }
    return new Group(this, file, id, noIommu, {
      sysfs: () => (this.disposed ? undefined : sysfs()),
      owned: () => {
        const returned = (sysfs()?.devices ?? []).map(({ bdf }) => markInUse(this.#native, bdf));
        return () => {
          for (const each of returned) each();
        };
      },
      device: () => ({ groupOf: this.#groupOf }),
    });
  }

  /**
   * One call, any host (A3): opens the device and gives it an address space of its own, by the first way that works:
   * its character device and an iommufd; its group and an iommufd; its group and a container of type1; and only with
   * `unsafeNoIommu` without an IOMMU. What was done is undone if a step fails.
   *
   * @throws {VfioError} that of the first way that the host offers at all; `reason` says which device, which group,
   * and who else uses it (A4), and `cause` has the errors of all ways that were tried, as an AggregateError.
   */
  attach(bdf: string, o?: AttachOptions): UserDevice {
    this.alive();
    return attach(this, checkBdf(bdf), o);
  }

  protected release(): void {
    this.#native.dispose();
  }

  readonly #groupOf = (bdf: string): number | null =>
    this.disposed ? null : new PciDevice(this.#native, bdf).group;

  #open(path: string): NativeFile {
    try {
      return this.#native.open(path);
    } catch (error) {
      throw withWords(error, (failed) => wordsForOpen(failed, path));
    }
  }
}
