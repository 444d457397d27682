/**
 * An open /dev/iommu: the home of I/O address spaces and page tables, and of the devices bound to it.
 *
 * Life: made by Host.openIommufd or fromFd. Disposing it disposes what was made of it; devices that are still bound
 * keep the kernel's side of it until they are closed.
 */

import { type NativeFile, native } from '../addon/native.ts';
import type { HwInfo } from '../addon/records.ts';
import { flag, instance, integer, oneOf, options, refusal } from '../base/check.ts';
import { explained } from '../base/errors.ts';
import { OURS } from '../base/private.ts';
import { alive, fileOf, Handle, keepFile, livingChildren, made } from '../handles/handle.ts';
import { Container } from '../type1/container.ts';
import { isAttachedTo, VfioDevice } from '../vfio/device.ts';
import { FaultQueue } from './fault-queue.ts';
import { dataFields, Hwpt, type HwptData } from './hwpt.ts';
import { Ioas } from './ioas.ts';
import { type HwptRequest, wordsForBusy, wordsForHwpt, wordsForMissing } from './iommufd-words.ts';
import { RecordQueue } from './record-queue.ts';
import { Viommu, type ViommuType } from './viommu.ts';

const features = [
  'hwpt',
  'hw-info',
  'dirty-tracking',
  'nesting',
  'fault-queue',
  'map-file',
  'viommu',
  'vdevice',
  'change-process',
  'veventq',
  'pasid',
  'hw-queue',
  'noiommu-physical-address',
] as const;

/** What {@link Iommufd.supports} can be asked. */
export type IommufdFeature = (typeof features)[number];

/** Does the other one lead to another open file? */
export function differs(one: Iommufd, other: Iommufd): boolean {
  return one !== other && !fileOf(one).same(fileOf(other));
}

/** Remembers the handle of an object by its id. */
export let keepIn: <T extends Handle & { readonly id: number }>(iommufd: Iommufd, handle: T) => T;
/** The handle of an address space, by its id. */
export let ioasOf: (iommufd: Iommufd, id: number) => Ioas;
/** A device was bound to it. */
export let boundTo: (iommufd: Iommufd, device: VfioDevice) => void;
/** What is known to need an object, in words. */
export let usersOf: (iommufd: Iommufd, handle: Handle & { readonly id: number }) => string[];
/** A device that is bound to this iommufd, and its id. */
export let ownDevice: (iommufd: Iommufd, device: unknown) => { device: VfioDevice; id: number };

/** An open /dev/iommu (Linux 6.2). */
export class Iommufd extends Handle {
  readonly #file: NativeFile;
  readonly #objects = new Map<number, WeakRef<Handle & { readonly id: number }>>();
  readonly #devices = new Set<WeakRef<VfioDevice>>();
  /** The compatibility IOAS, as far as is known: kept, since requests reach it without its handle. */
  #compat: Ioas | undefined;

  static {
    keepIn = (iommufd, handle) => iommufd.#keep(handle);
    ioasOf = (iommufd, id) => iommufd.#ioasOf(id);
    boundTo = (iommufd, device) => iommufd.#bound(device);
    usersOf = (iommufd, handle) => iommufd.#usersOf(handle.id, handle);
    ownDevice = (iommufd, device) => iommufd.#ownDevice(device);
  }

  constructor(key: typeof OURS, parent: Handle | undefined, file: NativeFile) {
    super(key, 'Iommufd', parent, [file], (self: Iommufd) => self.#release());
    this.#file = file;
    keepFile(this, 'Iommufd', file);
  }

  /**
   * An iommufd from a descriptor: another process's, another thread's. The descriptor is duplicated; the caller's
   * stays open.
   *
   * @throws {VfioError} EBADF no such descriptor. @throws {TypeError} ERR_INVALID_FD_TYPE it leads to another kind of file.
   */
  static fromFd(fd: number): Iommufd {
    return new Iommufd(OURS, undefined, native.adopt(fd, 'iommufd'));
  }

  /** The file descriptor. Belongs to this object: don't close it. */
  get fd(): number {
    alive(this);
    return this.#file.fd;
  }

  /** Makes an I/O address space (IOMMU_IOAS_ALLOC, Linux 6.2). */
  allocIoas(): Ioas {
    alive(this);
    return keepIn(this, new Ioas(OURS, this, this.#file, this.#file.ioasAlloc()));
  }

  /**
   * Makes a page table (IOMMU_HWPT_ALLOC, Linux 6.6) for the IOMMU of `device`, which is bound to this iommufd.
   *
   * - `parent` an Ioas: it has what is mapped there. With `nestParent` others can be made on top of it; with
   *   `dirtyTracking` it can tell what devices wrote (Linux 6.7).
   * - `parent` a Hwpt made with `nestParent`, or a Viommu (Linux 6.13): a page table of one's own, `data` says where it
   *   is, and of which format. What it leads to are addresses of the parent.
   *
   * `faultQueue` (Linux 6.11): faults of devices attached to it wait for an answer there. `pasid` (Linux 6.15): it may be
   * attached with a PASID beside others that are.
   *
   * @throws {VfioError} EOPNOTSUPP the IOMMU or the kernel can't (`reason` says which); EINVAL the data or the parent does
   * not suit; EADDRINUSE the Ioas has mappings where the IOMMU does not translate; EFAULT, ENOMEM its memory can't be
   * pinned; ENOTTY before 6.6.
   */
  allocHwpt(o: {
    device: VfioDevice;
    parent: Ioas | Hwpt | Viommu;
    nestParent?: boolean;
    dirtyTracking?: boolean;
    pasid?: boolean;
    faultQueue?: FaultQueue;
    data?: HwptData;
  }): Hwpt {
    alive(this);
    const { device, parent, nestParent, dirtyTracking, pasid, faultQueue, data } = options(o, 'options');
    const queue =
      faultQueue === undefined
        ? undefined
        : this.#own(instance(faultQueue, FaultQueue, 'faultQueue'), 'a FaultQueue', 'faultQueue');
    if (!(parent instanceof Ioas || parent instanceof Hwpt || parent instanceof Viommu) || !made(parent))
      throw refusal('an Ioas, a Hwpt or a Viommu', 'parent', parent);
    this.#own(parent, 'an Ioas, a Hwpt or a Viommu', 'parent');
    const own = data === undefined ? undefined : dataFields(data);
    const asked: HwptRequest = {
      nestParent: flag(nestParent, 'nestParent', false),
      dirtyTracking: flag(dirtyTracking, 'dirtyTracking', false),
      pasid: flag(pasid, 'pasid', false),
      faultQueue: queue !== undefined,
      parent: parent instanceof Ioas ? 'Ioas' : parent instanceof Hwpt ? 'Hwpt' : 'Viommu',
      format: own?.format,
    };
    const its = this.#ownDevice(device);
    const object = explained(
      () =>
        this.#file.hwptAlloc(
          its.id,
          parent.id,
          asked.nestParent,
          asked.dirtyTracking,
          asked.pasid,
          queue?.id,
          asked.format,
          own?.fields,
        ),
      (error) => wordsForHwpt(error, asked, this.#file),
    );
    return keepIn(this, new Hwpt(OURS, this, queue ? [parent, queue] : [parent], this.#file, object));
  }

  /** A queue for page faults of devices (IOMMU_FAULT_QUEUE_ALLOC, Linux 6.11). @throws {VfioError} ENOTTY before 6.11. */
  allocFaultQueue(): FaultQueue {
    const { object, file } = this.#asked(() => this.#file.faultQueueAlloc());
    return keepIn(this, new FaultQueue(OURS, this, object, file));
  }

  /**
   * A slice of the IOMMU of `device` for a virtual machine (IOMMU_VIOMMU_ALLOC, Linux 6.13). `parent` is a page table made
   * with `nestParent`: the guest's memory.
   *
   * @throws {VfioError} EOPNOTSUPP the IOMMU has no such type; EINVAL the parent was made without `nestParent`; ENOTTY
   * before 6.13.
   */
  allocViommu(o: { device: VfioDevice; parent: Hwpt; type: ViommuType }): Viommu {
    alive(this);
    const { device, parent, type } = options(o, 'options');
    const kind = oneOf(type as ViommuType, 'type', ['arm-smmuv3', 'tegra241-cmdqv']);
    const table = this.#own(instance(parent, Hwpt, 'parent'), 'a Hwpt', 'parent');
    const its = this.#ownDevice(device);
    const parts = explained(
      () => this.#file.viommuAlloc(its.id, table.id, kind),
      (error) =>
        wordsForMissing(error, this.#file) ??
        (error.code === 'EOPNOTSUPP'
          ? { reason: `the device's IOMMU makes no virtual one of type '${kind}'` }
          : error.code === 'EINVAL'
            ? { reason: 'the parent was made without { nestParent: true }' }
            : undefined),
    );
    return keepIn(this, new Viommu(OURS, this, table, this.#file, parts, kind));
  }

  /**
   * What the IOMMU of a device is (IOMMU_GET_HW_INFO, Linux 6.6). `type` (Linux 6.17) asks for another view of it than
   * the usual one.
   *
   * @throws {VfioError} EOPNOTSUPP it has no such view; ENOTTY before 6.6.
   */
  hwInfo(device: VfioDevice, o?: { type?: 'tegra241-cmdqv' }): HwInfo {
    alive(this);
    const { type } = options(o, 'options');
    if (type !== undefined) oneOf(type, 'type', ['tegra241-cmdqv']);
    const its = this.#ownDevice(device);
    return this.#asked(() => this.#file.hwInfo(its.id, type));
  }

  /**
   * Whether this kernel has a feature. It is asked, not looked up by release: each feature's request is made with too
   * short an argument, which a kernel that has it refuses with EINVAL before it does anything, and one that lacks it with
   * ENOTTY. 'pasid' is a flag, which can't be asked without a device: it came in the release of 'veventq'. Whether a
   * device's IOMMU can do it, {@link hwInfo} and the call itself tell.
   */
  supports(feature: IommufdFeature): boolean {
    alive(this);
    return this.#file.supports(oneOf(feature, 'feature', features));
  }

  /**
   * Who is charged for pinned memory (IOMMU_OPTION_RLIMIT_MODE, Linux 6.2): the user, over all processes (default), or
   * this process (visible as VmLck). Set it before the first object is made.
   *
   * @throws {VfioError} EPERM without CAP_SYS_RESOURCE; EBUSY an object exists.
   */
  get rlimitMode(): 'user' | 'process' {
    alive(this);
    return this.#file.getOption('RLIMIT_MODE', 0) === 0n ? 'user' : 'process';
  }

  set rlimitMode(mode: 'user' | 'process') {
    alive(this);
    this.#file.setOption('RLIMIT_MODE', 0, oneOf(mode, 'rlimitMode', ['user', 'process']) === 'user' ? 0 : 1);
  }

  /**
   * The address space that the requests of a VFIO container work on (IOMMU_VFIO_IOAS, Linux 6.2): see {@link container}.
   * Null: none. A group that is joined to this iommufd makes one if there is none.
   *
   * @throws {VfioError} ENOENT the Ioas is gone.
   */
  get vfioCompatIoas(): Ioas | null {
    alive(this);
    const id = this.#file.getVfioIoas();
    if (id === null) this.#compat = undefined;
    else this.#compat = this.#ioasOf(id);
    return this.#compat ?? null;
  }

  set vfioCompatIoas(ioas: Ioas | null) {
    alive(this);
    if (ioas === null) this.#file.clearVfioIoas();
    else
      this.#file.setVfioIoas(
        this.#own(instance(ioas, Ioas, 'vfioCompatIoas'), 'an Ioas', 'vfioCompatIoas').id,
      );
    this.#compat = ioas ?? undefined;
  }

  /**
   * The requests of a VFIO container (type1), which an iommufd takes too, on {@link vfioCompatIoas} (Linux 6.2): for
   * programs that were written for those. Requirement D4.
   */
  container(): Container {
    alive(this);
    return new Container(OURS, this, this.#file, this);
  }

  /**
   * Charges all memory that was mapped from files to the calling process (IOMMU_IOAS_CHANGE_PROCESS, Linux 6.13): after an
   * iommufd was handed over, or an exec.
   *
   * @throws {VfioError} EINVAL something is mapped by address ({@link Ioas.map}); ENOMEM over the locked-memory limit:
   * nothing has changed; ENOTTY before 6.13.
   */
  changeProcess(): void {
    this.#asked(() => this.#file.changeProcess());
  }

  /**
   * Destroys any object by its id (IOMMU_DESTROY, Linux 6.2). Objects of this package do it when they are disposed; the
   * handle of one that is destroyed this way is disposed with it.
   *
   * @throws {VfioError} ENOENT no such object; EBUSY something uses it: `reason` says what.
   */
  destroy(id: number): void {
    alive(this);
    integer(id, 'id', 0, 0xffffffff);
    const handle = this.#handleOf(id);
    explained(
      () => this.#file.destroy(id),
      (error) => (error.code === 'EBUSY' ? wordsForBusy(this.#usersOf(id, handle)) : undefined),
    );
    // The handle is over too.
    this.#objects.delete(id);
    handle?.[Symbol.dispose]();
  }

  #keep<T extends Handle & { readonly id: number }>(handle: T): T {
    this.#objects.set(handle.id, new WeakRef<Handle & { readonly id: number }>(handle));
    return handle;
  }

  #ioasOf(id: number): Ioas {
    alive(this);
    const known = this.#handleOf(id);
    return known instanceof Ioas
      ? known
      : this.#keep(new Ioas(OURS, this, this.#file, this.#file.ioasOf(id)));
  }

  #bound(device: VfioDevice): void {
    for (const each of this.#devices) if (each.deref() === undefined) this.#devices.delete(each);
    this.#devices.add(new WeakRef(device));
  }

  #ownDevice(device: unknown): { device: VfioDevice; id: number } {
    const found = instance(device, VfioDevice, 'device');
    fileOf(found); // alive
    if (found.id === null || !found.iommufd || differs(found.iommufd, this))
      throw refusal('a device that is bound to this iommufd', 'device', device);
    return { device: found, id: found.id };
  }

  #release(): void {
    this.#file.dispose();
  }

  /** The handle of the object that has this id now. */
  #handleOf(id: number): (Handle & { readonly id: number }) | undefined {
    const handle = this.#objects.get(id)?.deref();
    if (handle === undefined || handle.disposed) return undefined;
    try {
      return handle.id === id ? handle : undefined;
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ERR_VFIO_DISPOSED') throw error;
      return undefined; // the kernel has destroyed it, and the id may be another's
    }
  }

  #usersOf(id: number, handle: Handle | undefined): string[] {
    const devices = [...this.#devices].flatMap((each) => each.deref() ?? []).filter((each) => !each.disposed);
    const self = devices.find((each) => each.id === id);
    return [
      ...(self
        ? [`it is ${self.bdf === null ? 'a device' : `device ${self.bdf}`}, which goes when that is closed`]
        : []),
      ...devices
        .filter((each) => handle !== undefined && isAttachedTo(each, handle))
        .map((each) => `device ${each.bdf ?? each.id} is attached to it`),
      ...(handle instanceof RecordQueue ? ['its descriptor is open: disposing the handle closes that'] : []),
      ...(handle === undefined ? [] : livingChildren(handle).map((kind) => `a ${kind} was made of it`)),
    ];
  }

  #own<T extends { readonly iommufd: Iommufd }>(object: T, what: string, name: string): T {
    if (differs(object.iommufd, this)) throw refusal(`${what} of this iommufd`, name, object);
    return object;
  }

  #asked<T>(call: () => T): T {
    alive(this);
    return explained(call, (error) => wordsForMissing(error, this.#file));
  }
}
