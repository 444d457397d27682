/**
 * The host: the machine's kernel, or the software host. The only place that knows which.
 *
 * Life: made by Host.open; disposing it disposes what was opened through it. A software host lives until it and all
 * that was opened on it are gone.
 */
import { existsSync } from 'node:fs';
import type { NativeFiles, NativeGroup } from '../addon/files.ts';
import { type NativeHost, native } from '../addon/native.ts';
import { deviceName, flag, integer, known, oneOf, options, refusal, text, UUID } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, Handle } from '../handles/handle.ts';
import { Iommufd } from '../iommufd/iommufd.ts';
import { type Differences, type HostReport, reportOf } from '../system/doctor/report.ts';
import { wordsForJoin, wordsForNode, wordsForOpen } from '../system/explain/host-words.ts';
import { markInUse } from '../system/facts/group-facts.ts';
import { devicePath } from '../system/facts/pci-facts.ts';
import { type Grant, grant } from '../system/grant.ts';
import { IommuGroup } from '../system/groups.ts';
import { PciDevice } from '../system/pci.ts';
import { Container } from '../type1/container.ts';
import { VfioDevice } from '../vfio/device.ts';
import { Group } from '../vfio/group.ts';
import { wordsForOpenGroup } from '../vfio/group-words.ts';
import { type AttachOptions, attach, type UserDevice } from './attach.ts';
import { type Diagnosis, diagnose } from './diagnose.ts';
import type { Opener } from './opener.ts';
import { type HotPlug, hotPlug } from './software/hot-plug.ts';
import { type Topology, topologyText } from './software/topology.ts';

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

const MACHINE: Differences = {
  backend: 'kernel',
  showsInterrupts: true,
  hugePagesHint: 'DmaBuffer.alloc(size, { hugePages: "2M" }) needs some: sysctl vm.nr_hugepages=64',
};
const SIMULATED: Differences = { backend: 'software', showsInterrupts: false, hugePagesHint: null };

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
  /**
   * The program is this user's from now on: nodes and sysfs have the permissions of a kernel. 0: root's again, who may
   * do everything.
   */
  become(uid: number): void;
  /** Resolves once no device has work left. */
  settle(): Promise<void>;
}

/**
 * The machine's kernel, or a software host. Disposing it disposes what was opened through it; a software host itself
 * lives until its last file is closed.
 */
export class Host extends Handle implements Opener {
  /** Which one it is. */
  readonly backend: 'kernel' | 'software';
  /** Present on the software host only. */
  declare readonly software?: SoftwareControls;
  readonly #native: NativeHost;

  private constructor(key: typeof OURS, backend: 'kernel' | 'software', software?: SoftwareOptions) {
    ours(key, 'Host');
    const { kernel, topology } = known(software, 'software', ['kernel', 'topology']);
    // Before the handle is made: what is refused leaves nothing behind.
    const made = new native.Host(
      backend,
      kernel,
      topology === undefined ? undefined : topologyText(topology, 'software.topology'),
    );
    super(key, 'Host', undefined, [], (self: Host) => self.#release());
    this.backend = backend;
    this.#native = made;
    if (backend === 'software') {
      const host = this.#native;
      this.software = {
        ...hotPlug(host),
        takeFaults: () => host.takeFaults(),
        become: (uid) => host.become(integer(uid, 'uid', 0, 0xfffffffe)),
        settle: () => host.settle(),
      };
    }
  }

  /** Opens a new software host. */
  static open(o: HostOptions & { backend: 'software' }): SoftwareHost;
  /** Opens the machine's kernel or a new software host: see {@link HostOptions.backend}. */
  static open(o?: HostOptions): Host;
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
    return new Host(OURS, chosen, chosen === 'software' ? software : undefined);
  }

  /** What this host can do and, for what it can't, why and how to fix it. */
  report(): HostReport {
    alive(this);
    return reportOf(this.#native, this.backend === 'software' ? SIMULATED : MACHINE);
  }

  /**
   * Whether a program of this process can use the device and, if not, why and which commands repair it. What can't be
   * read from the host is tried: the device is opened, bound, attached and closed again, which resets it. `memory`: how
   * many bytes the program is going to map for devices; if its limit is below that, that is a reason.
   */
  diagnose(bdf: string, o?: { attempt?: boolean; memory?: number }): Diagnosis {
    return diagnose(this, this.#native, bdf, o);
  }

  /**
   * Gives a user the nodes of all of the device's group, and lets everybody open /dev/iommu, which reaches no device.
   * Until the next boot, or until the devices change drivers: `lasting` is what makes it last. Root's.
   *
   * @throws {VfioError} EPERM a part of the group is held by a host driver, or is another user's (`force` takes it), or
   * this process is not root; ENODEV no member is with VFIO.
   */
  grant(bdf: string, uid: number, o?: { force?: boolean; name?: string }): Grant {
    const { force, name } = known(o, 'options', ['force', 'name']);
    integer(uid, 'uid', 0, 0xfffffffe);
    // It becomes part of rules that root copies.
    if (name !== undefined && !/^[\w.-]+\$?$/.test(text(name, 'name')))
      throw refusal('the name of a user', 'name', name);
    return grant(this.#native, this.device(bdf), uid, name ?? String(uid), flag(force, 'force', false));
  }

  /** All PCI devices, by address. */
  devices(): PciDevice[] {
    alive(this);
    return (this.#native.list('/sys/bus/pci/devices') ?? [])
      .sort()
      .map((bdf) => new PciDevice(OURS, this.#native, bdf));
  }

  /** A PCI device, or a mediated one by its UUID. @throws {VfioError} ENODEV there is none. */
  device(bdf: string): PciDevice {
    alive(this);
    const name = deviceName(bdf);
    if (this.#native.list(devicePath(name)) === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: devicePath(name),
        reason: `there is no ${UUID.test(name) ? 'mediated' : 'PCI'} device ${name}`,
      });
    return new PciDevice(OURS, this.#native, name);
  }

  /** All IOMMU groups, by number. */
  groups(): IommuGroup[] {
    alive(this);
    return (this.#native.list('/sys/kernel/iommu_groups') ?? [])
      .map(Number)
      .sort((a, b) => a - b)
      .map((id) => new IommuGroup(OURS, this.#native, id));
  }

  /** An IOMMU group. @throws {VfioError} ENODEV there is no such group. */
  group(id: number): IommuGroup {
    alive(this);
    integer(id, 'id', 0, 0x7fffffff);
    if (this.#native.list(`/sys/kernel/iommu_groups/${id}`) === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: `/sys/kernel/iommu_groups/${id}`,
        reason: `there is no group ${id}`,
      });
    return new IommuGroup(OURS, this.#native, id);
  }

  /** Opens /dev/iommu (Linux 6.2). @throws {VfioError} ENOENT no iommufd; EACCES: `reason` says who may. */
  openIommufd(): Iommufd {
    alive(this);
    return new Iommufd(OURS, this, this.#open('/dev/iommu', 'iommufd'));
  }

  /**
   * Opens a device's character device (Linux 6.6): by PCI address or UUID, by path, or from a descriptor (duplicated). It
   * must be with a VFIO driver: see {@link PciDevice.bind}.
   *
   * @throws {VfioError} ENODEV no such device, or it has no VFIO driver; EACCES: `reason` says who may.
   * @throws {TypeError} ERR_INVALID_FD_TYPE the path or the descriptor leads to another kind of file, or to another host's.
   */
  openDevice(where: string | { path: string } | { fd: number }): VfioDevice {
    alive(this);
    if (typeof where === 'object' && where !== null) {
      const wanted = options<{ fd?: number; path?: string }>(where, 'where');
      if ('fd' in wanted)
        return new VfioDevice(OURS, this, this.#native.adopt(wanted.fd as number, 'device'), null);
      if (typeof wanted.path === 'string')
        return new VfioDevice(OURS, this, this.#open(wanted.path, 'device', true), null);
    }
    if (typeof where !== 'string') throw refusal('a PCI address, { path } or { fd }', 'where', where);
    const device = this.device(where);
    const path = device.vfioNode;
    if (path === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: `${devicePath(device.bdf)}/vfio-dev`,
        ...wordsForNode(
          device,
          device.group === null ? undefined : new IommuGroup(OURS, this.#native, device.group),
        ),
      });
    return new VfioDevice(OURS, this, this.#open(path, 'device'), device.bdf, {
      words: (error) => {
        const group = device.group;
        return wordsForJoin(
          error,
          device,
          group === null ? undefined : new IommuGroup(OURS, this.#native, group),
        );
      },
      bound: () => markInUse(this.#native, device.bdf),
      groupOf: this.#groupOf,
    });
  }

  /**
   * Opens a container (/dev/vfio/vfio, Linux 3.6). @throws {VfioError} ENOENT, ENODEV the kernel has none; EACCES.
   */
  openContainer(): Container {
    alive(this);
    return new Container(OURS, this, this.#open('/dev/vfio/vfio', 'container'), undefined);
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
    alive(this);
    integer(id, 'id', 0, 0x7fffffff);
    const { unsafeNoIommu } = known(o, 'options', ['unsafeNoIommu']);
    const unsafe = flag(unsafeNoIommu, 'unsafeNoIommu', false);
    alive(this);
    const sysfs = () => this.groups().find((each) => each.id === id);
    const noIommu = unsafe && (sysfs()?.noIommu ?? false);
    const path = `/dev/vfio/${noIommu ? 'noiommu-' : ''}${id}`;
    let file: NativeGroup;
    try {
      file = this.#native.open(path, 'group', false);
    } catch (error) {
      throw withWords(
        error,
        (failed) => wordsForOpenGroup(failed, id, sysfs(), path) ?? wordsForOpen(failed, this.#native, path),
      );
    }
    return new Group(OURS, this, file, id, noIommu, {
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
    alive(this);
    return attach(this, deviceName(bdf), o);
  }

  #release(): void {
    this.#native.dispose();
  }

  readonly #groupOf = (bdf: string): number | null =>
    this.disposed ? null : new PciDevice(OURS, this.#native, bdf).group;

  /** `checked`: the path is the caller's, and what is there may be anything. */
  #open<Kind extends keyof NativeFiles>(path: string, kind: Kind, checked = false): NativeFiles[Kind] {
    try {
      return this.#native.open(path, kind, checked);
    } catch (error) {
      throw withWords(error, (failed) => wordsForOpen(failed, this.#native, path));
    }
  }
}

/** A {@link Host} that was opened with `backend: 'software'`. */
export interface SoftwareHost extends Host {
  readonly backend: 'software';
  readonly software: SoftwareControls;
}
