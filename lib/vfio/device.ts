/**
 * A VFIO device.
 *
 * Life: Host.openDevice opens it (or fromFd, from a descriptor). It is bound to one iommufd until it is disposed, and can be
 * attached to several address spaces, one after the other. Or Group.openDevice opens it: then it uses the address space of its
 * group's container. When its last descriptor is closed, the kernel disables its interrupts, unmaps its regions, and detaches
 * and resets it.
 */

import type { NativeDevice, NativeGroup } from '../addon/files.ts';
import { native } from '../addon/native.ts';
import { array, integer, known, oneOf, options, refusal } from '../base/check.ts';
import { explained, VfioError, type Words, withWords } from '../base/errors.ts';
import { ownOf } from '../base/own.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, fileOf, type Handle, instance, isHandle, observerOf } from '../handles/handle.ts';
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

/** The id that the kernel returns for a function that the iommufd does not own. */
const NOT_OWNED = 0xffffffff;

/** The name of a region of a PCI device. */
export type RegionName = (typeof regionNames)[number];
/** The name of a kind of interrupt of a PCI device. */
export type IrqName = (typeof irqNames)[number];

/** The properties of a device (VFIO_DEVICE_GET_INFO). */
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
   * Its id in the iommufd that the device is bound to; null: it is not bound to that, or the device was opened by its group.
   */
  deviceId: number | null;
  /**
   * Whether {@link VfioDevice.hotReset} may reset it: it is bound to the same iommufd, or it is in the same group as a device
   * that is. If the device was opened by its group: whether this function's group has joined the same container, by a
   * {@link Group} of this process.
   */
  owned: boolean;
}

/** The host's part of a device that was opened through it. */
export interface DeviceContext {
  /** The reason and the hint of a failed call. `token`: it was given a token. */
  words(error: VfioError, token?: boolean): Words | undefined;
  /** Records that the device was bound. Returns the function to call when it is closed. */
  bound?(): () => void;
  /** The IOMMU group of a function, as sysfs shows it. */
  groupOf(bdf: string): number | null;
  /** The groups that share its address space, if it was opened by its group. */
  groups?(): GroupFile[];
  /** The address space of its group's iommufd. Referred to here, so that it is not collected while the device uses it. */
  readonly space?: Ioas | null;
}

/** A device that this program has opened (by its character device, Linux 6.6; by its group, Linux 3.6). */
export class VfioDevice extends IommufdDevice {
  readonly #file: NativeDevice;
  readonly #context: DeviceContext | undefined;
  #closed: (() => void) | undefined;
  readonly #endHold: () => void;
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
    this.#endHold = holdDevice(this, bdf, parent instanceof GroupFile ? parent : undefined);
  }

  /**
   * A device from a descriptor that another process or another thread opened. The descriptor is duplicated; the caller's
   * stays open.
   *
   * @throws {VfioError} EBADF no such descriptor. @throws {TypeError} ERR_INVALID_FD_TYPE it leads to another kind of file.
   */
  static fromFd(fd: number): VfioDevice {
    return new VfioDevice(OURS, undefined, native.adopt(fd, 'device'), null);
  }

  /** The file descriptor. It belongs to this object: don't close it. */
  get fd(): number {
    alive(this);
    return this.#file.fd;
  }

  /** The PCI address; null: unknown, since it was opened by a path or a descriptor. */
  get bdf(): string | null {
    return bindingOf(this).bdf;
  }

  /** The device's id in its iommufd; null until {@link bind} has bound it. */
  get id(): number | null {
    return bindingOf(this).id;
  }

  /** The iommufd that it is bound to; null: none. */
  get iommufd(): Iommufd | null {
    const { iommufd } = bindingOf(this);
    return iommufd === undefined ? null : iommufdOf(iommufd);
  }

  /** Its properties. @throws {VfioError} EINVAL it is not bound. */
  get info(): DeviceInfo {
    alive(this);
    this.#info ??= this.#file.deviceInfo();
    return this.#info;
  }

  /**
   * Binds the device to an iommufd (VFIO_DEVICE_BIND_IOMMUFD, Linux 6.6): takes DMA ownership of its group, opens and
   * resets the device. Only disposing the device undoes it.
   *
   * `token` (Linux 6.17): for a virtual function, the UUID that was set for its physical function ({@link
   * VfioDevice.setVfToken}). Kernels before 6.17 ask for no token here; {@link Group.openDevice} asks for it on every kernel.
   *
   * @throws {VfioError} EPERM the group has another owner (a host driver, another iommufd), or interrupts are not isolated;
   * EBUSY the group's file is open; EINVAL it is bound already, by this or another descriptor, or a token was given before
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
          this.#context?.words(failed, token !== undefined),
      );
    }
    bound(this, iommufd, id);
    this.#closed = this.#context?.bound?.();
  }

  /**
   * Attaches the device to an address space or a page table (VFIO_DEVICE_ATTACH_IOMMUFD_PT, Linux 6.6). If it is attached
   * already, the new one replaces the old one; on failure the old one stays. Returns the id of the page table in use: for an
   * Ioas, the kernel makes one or uses one that it has. With `pasid` (Linux 6.15) it is used for accesses with that PASID only:
   * 1 to 2^n-1, where n is `maxPasidLog2` of `hwInfo()`. The page table must be made with `pasid: true`, and so must the one
   * that is used without a PASID, if there is one. Members of the group that have no PASIDs are skipped; if none has any, the
   * attach succeeds without effect. PASID 0 means none, but ends and is replaced with `pasid: 0` only.
   *
   * @throws {VfioError} EADDRINUSE a mapping or allowed range lies where the device reserves addresses; EBUSY the PASID is in
   * use by the kernel, the device is attached without a PASID and `pasid` is 0, or the other way round, or (before 6.16) the
   * kernel has turned on the device's page requests; EINVAL another device of the group is attached to another page table, the
   * page table is for another IOMMU or not for PASIDs, the device does not have that PASID, the page table has a fault queue
   * and the device is a virtual function with PRI or (before 6.16) does not stall behind an SMMUv3, or the alignment does not
   * suit; ENODEV the page table has a fault queue and the device or its IOMMU has no page requests; EFAULT, ENOMEM memory can't
   * be pinned; EOPNOTSUPP the driver of the IOMMU attaches no page tables with a PASID.
   */
  attach(to: Ioas | Hwpt, o?: { pasid?: number }): number {
    alive(this);
    const { pasid } = options(o, 'options');
    if (pasid !== undefined) integer(pasid, 'pasid', 0, 0xfffff);
    if (!(to instanceof Ioas || to instanceof Hwpt) || !isHandle(to))
      throw refusal('an Ioas or a Hwpt', 'to', to);
    const { id } = to;
    // The kernel would look the id up in the device's own iommufd.
    const { iommufd, spaces } = bindingOf(this);
    if (iommufd && differs(iommufd, to.iommufd))
      throw refusal('an Ioas or a Hwpt of the iommufd that the device is bound to', 'to', to);
    try {
      const table = this.#file.attach(id, pasid);
      spaces.set(pasid, to);
      observerOf(this)?.attached(this.bdf, pasid, to);
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
   * Detaches the device from its address space: its DMA is blocked (VFIO_DEVICE_DETACH_IOMMUFD_PT, Linux 6.6; PASID 6.15). If
   * it is not attached, nothing happens.
   *
   * @throws {VfioError} EINVAL the device is not bound, or the kernel does not know PASIDs.
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
    observerOf(this)?.attached(this.bdf, pasid, undefined);
  }

  /**
   * Sets the token, a UUID, that a program must give to open a virtual function of this physical function
   * (VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, Linux 5.7). It stays until another one is set; the first is random. It can't be read
   * back.
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
      const info = explained(
        () => this.#file.irqInfo(index),
        (error) =>
          error.code === 'EINVAL' && irqNames[index] === 'err'
            ? { reason: "vfio-pci has the interrupt 'err' for PCI Express devices only" }
            : undefined,
      );
      irq = new Irq(OURS, this, index, info);
      this.#irqs.set(index, irq);
    }
    return irq;
  }

  /**
   * Resets the function (VFIO_DEVICE_RESET), off the event loop: it takes 100 ms and more on hardware.
   *
   * @throws {VfioError} EINVAL it has no reset (`info.resettable` is false). Conventional devices often have none, such as
   * QEMU's edu: {@link hotReset} may work instead; EAGAIN another reset is under way.
   */
  async reset(): Promise<void> {
    alive(this);
    observerOf(this)?.resets(this);
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
      // ENODEV says that no reset exists. With another error, EINVAL had another cause: the device is not bound.
      return error instanceof VfioError && error.code === 'ENODEV'
        ? { reason: `${reason}, and neither its slot nor its bus can be reset` }
        : undefined;
    }
  }

  /**
   * The functions that {@link hotReset} would reset (VFIO_DEVICE_GET_PCI_HOT_RESET_INFO): all those of its slot or bus, itself
   * included.
   *
   * @throws {VfioError} ENODEV neither the slot nor the bus can be reset; EPERM one of the functions is in no group; EAGAIN
   * the devices on the bus are changing; EINVAL the device is not bound.
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
   * Resets the slot or bus of the device, with every function on it (VFIO_DEVICE_PCI_HOT_RESET), off the event loop. This
   * program must own all of them: they must be bound to one iommufd or, for a device that was opened by its group, be in
   * `groups`. Default: the groups of these functions that have joined the same container.
   *
   * @throws {VfioError} EINVAL this program does not own a function, or it is not bound to a VFIO driver: `reason` says which;
   * or `groups` was given for a device that was not opened by its group; ENODEV neither the slot nor the bus can be reset;
   * EBUSY another reset is under way.
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
    observerOf(this)?.resets(this);
    try {
      await this.#file.hotReset(files);
    } catch (error) {
      throw withWords(error, (failed) => wordsForHotReset(failed, this.#inTheWay(given, groups), byGroups));
    }
  }

  /** Its name in error texts. */
  get #name(): string {
    return bindingOf(this).bdf ?? 'the device';
  }

  #release(): void {
    this.#closed?.();
    this.#endHold();
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

  /** The functions of a reset that are not in these groups. Empty if they can't be determined. */
  #inTheWay(given: readonly GroupFile[], named: readonly GroupFile[] | undefined): ResetFunction[] {
    try {
      const functions = this.hotResetInfo();
      if (named === undefined) return functions.filter((each) => !each.owned);
      const ids = new Set(given.map((each) => each.id));
      return functions.filter((each) => each.group === null || !ids.has(each.group));
    } catch {
      return []; // the device was removed
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
