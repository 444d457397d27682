/**
 * A VFIO device.
 *
 * Life: opened by Host.openDevice (or made of a descriptor), bound to an iommufd once and for its life, attached to
 * address spaces in turn; or opened by Group.openDevice, with the address space of its group's container. Disposing
 * it disables its interrupts, unmaps its regions, detaches and resets it: the kernel does so at the last close.
 */

import type { NativeDevice, NativeGroup } from '../addon/files.ts';
import { native } from '../addon/native.ts';
import { array, integer, known, oneOf, options, refusal } from '../base/check.ts';
import { VfioError, type Words, withWords } from '../base/errors.ts';
import { ownOf } from '../base/own.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, fileOf, type Handle, instance, made } from '../handles/handle.ts';
import { holdDevice } from '../handles/holds.ts';
import { bindingOf, bound, differs, IommufdDevice, iommufdOf } from '../handles/iommufd-file.ts';
import { Hwpt } from '../iommufd/hwpt.ts';
import { Ioas } from '../iommufd/ioas.ts';
import { Iommufd } from '../iommufd/iommufd.ts';
import { wordsForPasid, wordsForToken } from '../iommufd/iommufd-words.ts';
import { wordsForMemlock } from '../memory/map-words.ts';
import { PciConfig } from './config-space.ts';
import { GroupFile } from './group-file.ts';
import { type ResetFunction, wordsForHotReset } from './group-words.ts';
import { Irq } from './irq.ts';
import { Region } from './region.ts';

const regionNames = ['bar0', 'bar1', 'bar2', 'bar3', 'bar4', 'bar5', 'rom', 'config', 'vga'] as const;
const irqNames = ['intx', 'msi', 'msix', 'err', 'req'] as const;

/** The id that the kernel gives for a function that the iommufd does not own. */
const NOT_OWNED = 0xffffffff;

/** The name of a region of a PCI device. */
export type RegionName = (typeof regionNames)[number];
/** The name of a kind of interrupt of a PCI device. */
export type IrqName = (typeof irqNames)[number];

/** What a device is and has (VFIO_DEVICE_GET_INFO). */
export interface DeviceInfo {
  /** How many regions it may have: the highest index + 1. */
  readonly numRegions: number;
  /** How many kinds of interrupt it may have: the highest index + 1. */
  readonly numIrqs: number;
  /** Whether it is a PCI device. */
  readonly pci: boolean;
  /** Whether {@link VfioDevice.reset} works. */
  readonly resettable: boolean;
}

/** A function that a hot reset of a device resets with it. */
export interface HotResetFunction {
  /** Its PCI address. */
  bdf: string;
  /** Its IOMMU group; null: unknown. */
  group: number | null;
  /**
   * Its id in the iommufd that the device is bound to; null: it has none there, or the device was opened by its
   * group.
   */
  deviceId: number | null;
  /**
   * Whether {@link VfioDevice.hotReset} may reset it: it is bound to the same iommufd, or shares a group with one
   * that is. Of a device that was opened by its group: its group has joined the same container, by a {@link Group} of
   * this process.
   */
  owned: boolean;
}

/** What the host knows of a device that was opened through it. */
export interface DeviceContext {
  /** Puts a failed call into words. */
  words(error: VfioError): Words | undefined;
  /** The device was bound; returns what to call when it is closed. */
  bound?(): () => void;
  /** The IOMMU group of a function, as sysfs shows it. */
  groupOf(bdf: string): number | null;
  /** The groups that share its address space, if it was opened by its group. */
  groups?(): GroupFile[];
  /** The address space that its group's iommufd gave it: kept, so that it is not collected under the device. */
  readonly space?: Ioas | null;
}

/** A device in the hands of this program (VFIO character device, Linux 6.6; by its group, Linux 3.6). */
export class VfioDevice extends IommufdDevice {
  readonly #file: NativeDevice;
  readonly #context: DeviceContext | undefined;
  #closed: (() => void) | undefined;
  readonly #letGo: () => void;
  readonly #regions = new Map<number, Region>();
  readonly #irqs = new Map<number, Irq>();
  #info: DeviceInfo | undefined;
  #config: PciConfig | undefined;

  constructor(
    key: typeof OURS,
    parent: Handle | undefined,
    file: NativeDevice,
    bdf: string | null,
    context?: DeviceContext,
  ) {
    ours(key, 'VfioDevice');
    const kind = bdf === null ? 'VfioDevice' : `VfioDevice ${bdf}`;
    super(key, kind, parent, file, bdf, (self: VfioDevice) => self.#release());
    this.#file = file;
    this.#context = context && ownOf(context);
    this.#letGo = holdDevice(this, bdf, parent instanceof GroupFile ? parent : undefined);
  }

  /**
   * A device from a descriptor: another process's, another thread's. The descriptor is duplicated; the caller's stays
   * open.
   *
   * @throws {VfioError} EBADF no such descriptor. @throws {TypeError} ERR_INVALID_FD_TYPE it leads to another kind of file.
   */
  static fromFd(fd: number): VfioDevice {
    return new VfioDevice(OURS, undefined, native.adopt(fd, 'device'), null);
  }

  /** The file descriptor. Belongs to this object: don't close it. */
  get fd(): number {
    alive(this);
    return this.#file.fd;
  }

  /** The PCI address, where it is known. */
  get bdf(): string | null {
    return bindingOf(this).bdf;
  }

  /** The device's id in its iommufd, once bound by {@link bind}. */
  get id(): number | null {
    return bindingOf(this).id;
  }

  /** The iommufd that it is bound to. */
  get iommufd(): Iommufd | null {
    const { iommufd } = bindingOf(this);
    return iommufd === undefined ? null : iommufdOf(iommufd);
  }

  /** What it is and has. @throws {VfioError} EINVAL it is not bound. */
  get info(): DeviceInfo {
    alive(this);
    this.#info ??= this.#file.deviceInfo();
    return this.#info;
  }

  /**
   * Binds the device to an iommufd (VFIO_DEVICE_BIND_IOMMUFD, Linux 6.6): takes DMA ownership of its group, opens and
   * resets the device. Undone only by disposing it.
   *
   * `token` (Linux 6.17): the UUID that a virtual function's physical function was given ({@link
   * VfioDevice.setVfToken}). Kernels before 6.17 ask for none here; {@link Group.openDevice} always has.
   *
   * @throws {VfioError} EPERM the group has another owner (a host driver, another iommufd), or interrupts are not
   * isolated; EBUSY the group's file is open; EINVAL bound already, here or by another descriptor, or a token before
   * 6.17; EACCES the token is wrong or missing. `reason` says which.
   */
  bind(iommufd: Iommufd, o?: { token?: string }): void {
    alive(this);
    const { token } = options(o, 'options');
    const file = fileOf(instance(iommufd, Iommufd, 'iommufd'));
    let id: number;
    try {
      id = this.#file.bindIommufd(file, token);
    } catch (error) {
      throw withWords(
        error,
        (failed) =>
          (token === undefined ? undefined : wordsForToken(failed, this.#file)) ??
          this.#context?.words(failed),
      );
    }
    bound(this, iommufd, id);
    this.#closed = this.#context?.bound?.();
  }

  /**
   * Gives the device an address space or a page table (VFIO_DEVICE_ATTACH_IOMMUFD_PT, Linux 6.6), or another one:
   * attached already, it is replaced, and on failure the old one stays. Returns the id of the page table in use: of
   * an Ioas, one that the kernel makes or shares. With `pasid` (Linux 6.15) it is for accesses with that PASID alone.
   *
   * @throws {VfioError} EADDRINUSE a mapping or allowed range lies where the device reserves addresses; EINVAL
   * another device of the group rules it, the page table is another IOMMU's, or the alignment does not suit; EFAULT,
   * ENOMEM memory can't be pinned; EOPNOTSUPP PASID.
   */
  attach(to: Ioas | Hwpt, o?: { pasid?: number }): number {
    alive(this);
    const { pasid } = options(o, 'options');
    if (pasid !== undefined) integer(pasid, 'pasid', 0, 0xfffff);
    if (!(to instanceof Ioas || to instanceof Hwpt) || !made(to))
      throw refusal('an Ioas or a Hwpt', 'to', to);
    const { id } = to;
    // The kernel would take the id for that of an object of the device's own iommufd.
    const { iommufd, spaces } = bindingOf(this);
    if (iommufd && differs(iommufd, to.iommufd))
      throw refusal('an Ioas or a Hwpt of the iommufd that the device is bound to', 'to', to);
    try {
      const table = this.#file.attach(id, pasid);
      spaces.set(pasid, to);
      return table;
    } catch (error) {
      throw withWords(
        error,
        (failed) =>
          (pasid === undefined ? undefined : wordsForPasid(failed, this.#file)) ??
          this.#wordsForAttach(failed, to),
      );
    }
  }

  /**
   * Takes the address space away: DMA is blocked (VFIO_DEVICE_DETACH_IOMMUFD_PT, Linux 6.6; PASID 6.15). Not
   * attached: nothing.
   *
   * @throws {VfioError} EINVAL the device is not bound, or the kernel knows no PASID.
   */
  detach(o?: { pasid?: number }): void {
    alive(this);
    const { pasid } = options(o, 'options');
    if (pasid !== undefined) integer(pasid, 'pasid', 0, 0xfffff);
    try {
      this.#file.detach(pasid);
    } catch (error) {
      throw withWords(error, (failed) =>
        pasid === undefined ? undefined : wordsForPasid(failed, this.#file),
      );
    }
    bindingOf(this).spaces.delete(pasid);
  }

  /**
   * Sets the UUID that whoever opens a virtual function of this physical one must show
   * (VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, Linux 5.7). It holds until another is set; at first it is a random one. It can't
   * be read back.
   *
   * @throws {VfioError} ENOTTY the device is no SR-IOV physical function; EINVAL it is not bound.
   */
  setVfToken(token: string): void {
    alive(this);
    try {
      this.#file.setVfToken(token);
    } catch (error) {
      throw withWords(error, (failed) =>
        failed.code === 'ENOTTY'
          ? { reason: `${this.#name} is no SR-IOV physical function: it has no token to set` }
          : undefined,
      );
    }
  }

  /** A region by index or name. @throws {VfioError} EINVAL no such index. */
  region(which: number | RegionName): Region {
    alive(this);
    const index = indexOf(which, regionNames, 'region');
    let region = this.#regions.get(index);
    if (!region) {
      region = new Region(OURS, this, index, this.#file.regionInfo(index));
      this.#regions.set(index, region);
    }
    return region;
  }

  /** Config space. */
  get config(): PciConfig {
    alive(this);
    this.#config ??= new PciConfig(OURS, this.region('config'));
    return this.#config;
  }

  /** A kind of interrupt by index or name. @throws {VfioError} EINVAL no such index. */
  irq(which: number | IrqName): Irq {
    alive(this);
    const index = indexOf(which, irqNames, 'irq');
    let irq = this.#irqs.get(index);
    if (!irq) {
      irq = new Irq(OURS, this, index, this.#file.irqInfo(index));
      this.#irqs.set(index, irq);
    }
    return irq;
  }

  /**
   * Resets the function (VFIO_DEVICE_RESET), off the event loop: it takes 100 ms and more on hardware.
   *
   * @throws {VfioError} EINVAL it has no reset (`info.resettable` is false): a conventional device often has none, such as
   * QEMU's edu, and {@link hotReset} may do instead; EAGAIN another reset is going on.
   */
  async reset(): Promise<void> {
    alive(this);
    try {
      await this.#file.reset();
    } catch (error) {
      throw withWords(error, (failed) => (failed.code === 'EINVAL' ? this.#wordsWithoutReset() : undefined));
    }
  }

  #wordsWithoutReset(): { reason: string; hint?: string } | undefined {
    const { bdf: own } = bindingOf(this);
    const reason = `${this.#name} has no function reset`;
    try {
      const others = this.hotResetInfo().flatMap(({ bdf }) => (bdf === own ? [] : [bdf]));
      return { reason, hint: `hotReset() resets it${others.length > 0 ? ` with ${others.join(', ')}` : ''}` };
    } catch (error) {
      // Any other than ENODEV: it was not for want of a reset (the device is not bound).
      return error instanceof VfioError && error.code === 'ENODEV'
        ? { reason: `${reason}, and neither its slot nor its bus can be reset` }
        : undefined;
    }
  }

  /**
   * What {@link hotReset} would reset (VFIO_DEVICE_GET_PCI_HOT_RESET_INFO): all functions of its slot or bus, itself
   * among them.
   *
   * @throws {VfioError} ENODEV neither the slot nor the bus can be reset; EPERM one of the functions has no group;
   * EAGAIN the bus changes at the moment; EINVAL the device is not bound.
   */
  hotResetInfo(): HotResetFunction[] {
    alive(this);
    let answer: ReturnType<NativeDevice['hotResetInfo']>;
    try {
      answer = this.#file.hotResetInfo();
    } catch (error) {
      throw withWords(error, (failed) => wordsForHotReset(failed, [], false));
    }
    if (!answer.deviceIds) {
      const ours = new Set(this.#groups().map((each) => each.id));
      return answer.functions.map(({ bdf, id }) => ({ bdf, group: id, deviceId: null, owned: ours.has(id) }));
    }
    return answer.functions.map(({ bdf, id }) => ({
      bdf,
      group: this.#context?.groupOf(bdf) ?? null,
      deviceId: id === 0 || id === NOT_OWNED ? null : id,
      owned: id !== NOT_OWNED,
    }));
  }

  /**
   * Resets the slot or bus of the device, with every function on it (VFIO_DEVICE_PCI_HOT_RESET), off the event loop.
   * All of them must be in the hands of this program: bound to one iommufd, or, for a device that was opened by its
   * group, of `groups`. Default: those of the reset that have joined the same container.
   *
   * @throws {VfioError} EINVAL a function is not in these hands, or not with a VFIO driver: `reason` says which; or
   * `groups` for a device that was not opened by its group; ENODEV neither the slot nor the bus can be reset; EBUSY
   * another reset is going on.
   */
  async hotReset(o?: { groups?: readonly GroupFile[] }): Promise<void> {
    alive(this);
    const { groups } = known(o, 'options', ['groups']);
    const byGroups = this.#context?.groups !== undefined || groups !== undefined;
    const given = groups === undefined ? this.#groupsOfReset() : array(groups, 'groups');
    const files: NativeGroup[] = [];
    for (let i = 0; i < given.length; i++)
      files[i] = fileOf(instance(given[i], GroupFile, `groups[${i}]`, 'Group'));
    alive(this);
    try {
      await this.#file.hotReset(files);
    } catch (error) {
      throw withWords(error, (failed) => wordsForHotReset(failed, this.#inTheWay(given, groups), byGroups));
    }
  }

  /** In words. */
  get #name(): string {
    return bindingOf(this).bdf ?? 'the device';
  }

  #release(): void {
    this.#closed?.();
    this.#letGo();
    this.#file.dispose();
  }

  /** The groups that share its address space; none if it was not opened by its group. */
  #groups(): GroupFile[] {
    return this.#context?.groups?.() ?? [];
  }

  #groupsOfReset(): GroupFile[] {
    const ours = this.#groups();
    if (ours.length === 0) return [];
    const ids = new Set(this.hotResetInfo().map((each) => each.group));
    return ours.filter((each) => ids.has(each.id));
  }

  /** Which functions of a reset these groups do not cover, as far as can be said. */
  #inTheWay(given: readonly GroupFile[], named: readonly GroupFile[] | undefined): ResetFunction[] {
    try {
      const functions = this.hotResetInfo();
      if (named === undefined) return functions.filter((each) => !each.owned);
      const ids = new Set(given.map((each) => each.id));
      return functions.filter((each) => each.group === null || !ids.has(each.group));
    } catch {
      return []; // the device itself is gone
    }
  }

  #wordsForAttach(error: VfioError, to: Ioas | Hwpt): Words | undefined {
    const name = `${to instanceof Ioas ? 'IOAS' : 'page table'} ${to.id}`;
    if (error.code === 'EADDRINUSE')
      return {
        reason: `${this.#name} reserves addresses that a mapping or an allowed range of ${name} uses, or a mapping is not aligned to its pages`,
      };
    if (error.code === 'ENOENT' && to.iommufd !== bindingOf(this).iommufd)
      return { reason: `${name} is not of the iommufd that the device is bound to` };
    if (error.code === 'ENOMEM' && to instanceof Ioas)
      return wordsForMemlock(
        to.mappings().reduce((sum, each) => sum + Number(each.length), 0),
        this.#file.pinned(),
      );
    if (error.code === 'EFAULT')
      return {
        reason: `memory that is mapped in ${name} can't be pinned for the device: it is not there, or not writable`,
      };
    if (error.code === 'EINVAL' && to instanceof Hwpt)
      return {
        reason: `${name} is not for the IOMMU of ${this.#name}, or another device of its group is attached to another one`,
      };
    return this.#context?.words(error);
  }
}

function indexOf(which: unknown, names: readonly string[], what: string): number {
  if (typeof which === 'number') return integer(which, what, 0, 0xffffffff);
  if (typeof which !== 'string') throw refusal('an index or a name', what, which);
  return names.indexOf(oneOf(which, what, names));
}
