/**
 * The host: the machine's kernel or a software host. This folder is the only place that asks which of them it is.
 *
 * Life: made by Host.open; disposing it disposes the handles that were opened through it. A software host lives until its Host
 * is disposed and every file that was opened on it is closed.
 */
import { existsSync } from 'node:fs';
import type { NativeFiles, NativeGroup } from '../addon/files.ts';
import { type NativeHost, native } from '../addon/native.ts';
import { deviceName, flag, integer, known, oneOf, options, refusal, text, UUID } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, Handle, observe, openBelow } from '../handles/handle.ts';
import { Iommufd } from '../iommufd/iommufd.ts';
import { nodesFor, type SvaNode } from '../sva/nodes.ts';
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
import { type FaultInjection, faultInjection } from './software/faults.ts';
import { type HotPlug, hotPlug } from './software/hot-plug.ts';
import { type DmaReport, NO_REPORT } from './software/sanitizer/report.ts';
import { Sanitizer } from './software/sanitizer/sanitizer.ts';
import { type Settling, settle } from './software/settle.ts';
import { type Topology, topologyText } from './software/topology.ts';
import { type VirtualTime, virtualTime } from './software/virtual-time.ts';

export interface HostOptions {
  /**
   * 'auto' (default; the environment variable VFIO_BACKEND overrides it): the kernel where /dev/iommu or
   * /dev/vfio/vfio exists, else software. If a permission is missing, later calls fail with a hint; the software host is not
   * chosen then.
   */
  backend?: 'auto' | 'kernel' | 'software';
  /** The options of the software host, if one is chosen. Refused with `backend: 'kernel'`. */
  software?: SoftwareOptions;
}

/** The options of a software host. */
export interface SoftwareOptions {
  /**
   * The kernel release that it behaves as, '6.6' to '7.3': later commands fail with ENOTTY, later flags with EOPNOTSUPP, and
   * where errors have changed, it returns those of that release. '6.12' is the long-term series, with the changes that were
   * carried back into it. Default: the newest known, '7.3'.
   */
  kernel?: string;
  /** The machine, as docs/topology.md describes it. Default: the one of docs/software-host.md. */
  topology?: Topology;
  /**
   * Time is virtual: devices work only in `step()`, `advance()` and `settle()` of {@link Host.software}, so that the same program
   * sees the same order and times in each run. Default false: devices work by themselves, in real time.
   */
  deterministic?: boolean;
  /**
   * Decides, for injected faults, what has a probability; with `deterministic`, also in which order devices work that have work
   * at the same time. With the default, 0, that is the order in which the work came up. An integer from 0 to 2^53-1.
   */
  seed?: number;
  /**
   * Whether it reports the mistakes that drivers make with DMA ({@link SoftwareControls.report}). Default true. It costs a stack
   * for each map and unmap, and for stores to registers.
   */
  sanitizer?: boolean;
}

const MACHINE: Differences = {
  backend: 'kernel',
  seed: null,
  showsInterrupts: true,
  hugePagesHint: 'DmaBuffer.alloc(size, { hugePages: "2M" }) needs some: sysctl vm.nr_hugepages=64',
};
const SIMULATED = { backend: 'software', showsInterrupts: false, hugePagesHint: null } as const;

/** An access by a device that the IOMMU refused: an entry of the fault log. */
export interface DmaFault {
  bdf: string;
  iova: bigint;
  length: bigint;
  write: boolean;
  /** The reason in words: 'not mapped', 'not writable' ... */
  reason: string;
}

/** The calls that only a software host has. */
export interface SoftwareControls extends HotPlug, Settling, FaultInjection, VirtualTime {
  /** The accesses that the IOMMU has refused since the last call, oldest first. */
  takeFaults(): DmaFault[];
  /**
   * From now on the program runs as this user: nodes and sysfs have the permissions of a real kernel. 0: as root again, who
   * may do everything.
   */
  become(uid: number): void;
  /**
   * The mistakes with DMA that the sanitizer has found until now. It can still be read when the host is disposed: then it has
   * what was left too.
   */
  readonly report: DmaReport;
  /** As {@link Host.openHandles}. */
  openHandles(): OpenHandle[];
}

/** An open handle, to find out who has not disposed it. */
export interface OpenHandle {
  /** What it is: 'Ioas', 'VfioDevice 0000:00:10.0' ... */
  readonly kind: string;
  /** The stack of the call that opened it; null: not known, or NODE_ENV is 'production'. */
  readonly opened: string | null;
}

/** A sanitizer for a new host. If there can't be one, nothing is left of the host. */
function watch(made: NativeHost): Sanitizer {
  try {
    return new Sanitizer(made);
  } catch (error) {
    made.dispose();
    throw error;
  }
}

/** Not made in the constructor of the host, which is never collected if a closure beside its release has it. */
function controlsOf(
  host: Host,
  made: NativeHost,
  deterministic: boolean,
  sanitizer: Sanitizer | undefined,
): SoftwareControls {
  return {
    ...hotPlug(made, sanitizer && ((bdf, change) => sanitizer.changed(bdf, change))),
    report: sanitizer?.report() ?? NO_REPORT,
    takeFaults: () => made.takeFaults(),
    become: (uid) => made.become(integer(uid, 'uid', 0, 0xfffffffe)),
    settle: () => settle(made, deterministic),
    openHandles: () => openBelow(host),
    ...faultInjection(made),
    ...virtualTime(made, deterministic),
  };
}

/**
 * The machine's kernel or a software host. Disposing it disposes the handles that were opened through it; a software host
 * itself lives until its last file is closed.
 */
export class Host extends Handle implements Opener {
  /** Which of them it is. */
  readonly backend: 'kernel' | 'software';
  /** Present on the software host only. */
  declare readonly software?: SoftwareControls;
  readonly #native: NativeHost;
  readonly #differences: Differences;
  #sanitizer: Sanitizer | undefined;

  private constructor(key: typeof OURS, backend: 'kernel' | 'software', software?: SoftwareOptions) {
    ours(key, 'Host');
    const { kernel, topology, deterministic, seed, sanitizer } = known(software, 'software', [
      'kernel',
      'topology',
      'deterministic',
      'seed',
      'sanitizer',
    ]);
    const sanitized = flag(sanitizer, 'software.sanitizer', true);
    const isVirtual = flag(deterministic, 'software.deterministic', false);
    const chosen = seed === undefined ? 0 : integer(seed, 'software.seed', 0, Number.MAX_SAFE_INTEGER);
    // Made before the handle: if the options are refused, no handle is left behind.
    const made = new native.Host(
      backend,
      kernel,
      topology === undefined ? undefined : topologyText(topology, 'software.topology'),
      isVirtual,
      chosen,
    );
    const watching = backend === 'software' && sanitized ? watch(made) : undefined;
    super(key, 'Host', undefined, [], (self: Host) => self.#release());
    this.backend = backend;
    this.#native = made;
    this.#differences = backend === 'software' ? { ...SIMULATED, seed: chosen } : MACHINE;
    if (backend === 'software') {
      if (watching !== undefined) observe(this, watching);
      this.#sanitizer = watching;
      this.software = controlsOf(this, made, isVirtual, watching);
    }
  }

  /** Makes a new software host. */
  static open(o: HostOptions & { backend: 'software' }): SoftwareHost;
  /** Opens the machine's kernel, or makes a new software host: see {@link HostOptions.backend}. */
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

  /** What this host can do. Where it can't, the checks say why, and how to repair it. */
  report(): HostReport {
    alive(this);
    return reportOf(this.#native, this.#differences);
  }

  /**
   * Whether this process can use the device and, if not, why, and which commands repair it. Some reasons can be found only by
   * an attempt: the device is opened, bound, attached and closed again, which resets it (`attempt: false`: it is not). `memory`:
   * how many bytes the program is going to map for devices. If its locked-memory limit is lower, that is a reason.
   */
  diagnose(bdf: string, o?: { attempt?: boolean; memory?: number }): Diagnosis {
    return diagnose(this, this.#native, bdf, o);
  }

  /**
   * Gives a user all nodes of the device's group, and lets everybody open /dev/iommu, which by itself reaches no device. This
   * lasts until the next boot, or until the devices change drivers: `lasting` has the rules that make it permanent. Needs root.
   *
   * @throws {VfioError} EPERM a device of the group is bound to a host driver, or nodes belong to another user (`force` takes
   * them), or this process is not root; ENODEV no device of the group is bound to a VFIO driver.
   */
  grant(bdf: string, uid: number, o?: { force?: boolean; name?: string }): Grant {
    const { force, name } = known(o, 'options', ['force', 'name']);
    integer(uid, 'uid', 0, 0xfffffffe);
    // The name becomes part of rules that root copies.
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

  /**
   * The character devices whose own driver binds the process that opens them: queues of accelerators (uacce, Linux 5.7), work
   * queues of Intel's DSA and IAA (idxd, Linux 5.11). {@link Sva.bind} opens one. The software host has none.
   */
  svaNodes(): SvaNode[] {
    alive(this);
    return nodesFor(this, this.#native);
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
   * must be bound to a VFIO driver: see {@link PciDevice.bind}.
   *
   * @throws {VfioError} ENODEV no such device, or it has no VFIO driver; EACCES: `reason` says who may.
   * @throws {TypeError} ERR_INVALID_FD_TYPE the path or the descriptor leads to another kind of file, or to a file of another
   * host.
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
      words: (error, token = false) => {
        const group = device.group;
        return wordsForJoin(
          error,
          device,
          group === null ? undefined : new IommuGroup(OURS, this.#native, group),
          token,
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
   * Opens a group (/dev/vfio/N, Linux 3.6). It can be open only once on a host. One of its devices must be bound to a VFIO
   * driver.
   *
   * `unsafeNoIommu`: opens also a group that has no IOMMU (/dev/vfio/noiommu-N), with CAP_SYS_RAWIO. UNSAFE: its devices reach
   * all memory of the machine.
   *
   * @throws {VfioError} ENOENT, ENODEV no such group, or none of its devices is bound to a VFIO driver; EBUSY it is open, or a
   * device of it is used by its character device; EPERM without CAP_SYS_RAWIO; EACCES. `reason` says which.
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
   * Opens the device with an address space of its own, by the first way that works (requirement A3: one flow for programs that
   * do not care about groups): its character device and an iommufd; its group and an iommufd; its group and a container of
   * type1; and only with `unsafeNoIommu` without an IOMMU. If a step fails, the earlier ones are undone.
   *
   * @throws {VfioError} the error of the first way that the host offers at all; `reason` says which device, which group, and
   * who else uses it (requirement A4), and `cause` has the errors of all ways that were tried, as an AggregateError.
   */
  attach(bdf: string, o?: AttachOptions): UserDevice {
    alive(this);
    return attach(this, deviceName(bdf), o);
  }

  /** The handles of this host that are open now, children before their parents: what a program has left to dispose. */
  openHandles(): OpenHandle[] {
    alive(this);
    if (!(#native in this)) throw refusal('a Host', 'this', this);
    return openBelow(this);
  }

  #release(): void {
    try {
      this.#sanitizer?.close();
    } finally {
      this.#native.dispose();
    }
  }

  readonly #groupOf = (bdf: string): number | null =>
    this.disposed ? null : new PciDevice(OURS, this.#native, bdf).group;

  /** `checked`: the program gave the path, so that the kind of the file has to be checked. */
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
