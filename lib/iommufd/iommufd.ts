/**
 * An open /dev/iommu. It owns I/O address spaces and page tables, and devices are bound to it.
 *
 * Life: made by Host.openIommufd or fromFd. Disposing it disposes the handles that were made of it. The kernel keeps its open
 * file while devices are still bound to it, until they are closed.
 */

import type { NativeIommufd } from '../addon/files.ts';
import { native } from '../addon/native.ts';
import type { HwInfo } from '../addon/records.ts';
import { flag, integer, oneOf, options, refusal } from '../base/check.ts';
import { explained } from '../base/errors.ts';
import { OURS } from '../base/private.ts';
import { alive, type Handle, instance, isHandle } from '../handles/handle.ts';
import {
  differs,
  forgetIn,
  handleIn,
  type IommufdDevice,
  IommufdFile,
  keepIn,
  ownDevice,
  usersOf,
} from '../handles/iommufd-file.ts';
import { Container } from '../type1/container.ts';
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

/** The features that {@link Iommufd.supports} can be asked for. */
export type IommufdFeature = (typeof features)[number];

declare module '../handles/iommufd-file.ts' {
  interface HandleClasses {
    Iommufd: Iommufd;
  }
}

/** An open /dev/iommu (Linux 6.2). */
export class Iommufd extends IommufdFile {
  readonly #file: NativeIommufd;
  /** The last known compatibility IOAS. Referred to here, so that its handle is not collected while a container uses it. */
  #compat: Ioas | undefined;

  constructor(key: typeof OURS, parent: Handle | undefined, file: NativeIommufd) {
    super(key, 'Iommufd', parent, file, (self: Iommufd) => self.#release());
    this.#file = file;
  }

  /**
   * An iommufd from a descriptor that another process or another thread opened. The descriptor is duplicated; the caller's
   * stays open.
   *
   * @throws {VfioError} EBADF no such descriptor. @throws {TypeError} ERR_INVALID_FD_TYPE it leads to another kind of file.
   */
  static fromFd(fd: number): Iommufd {
    return new Iommufd(OURS, undefined, native.adopt(fd, 'iommufd'));
  }

  /** The file descriptor. It belongs to this object: don't close it. */
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
   * - `parent` an Ioas: the page table has the mappings of the Ioas. With `nestParent` others can be nested in it; with
   *   `dirtyTracking` it can tell which pages devices wrote (Linux 6.7).
   * - `parent` a Hwpt made with `nestParent`, or a Viommu (Linux 6.13): a nested page table, which the program fills itself.
   *   `data` says where it is and which format it has. The addresses in it are translated by the parent.
   *
   * `faultQueue` (Linux 6.11): page faults of devices attached to the page table are put there, and wait for a response.
   * `pasid` (Linux 6.15): it may be attached with a PASID, and without one to a device that has others attached with PASIDs.
   *
   * @throws {VfioError} EOPNOTSUPP the IOMMU or the kernel can't (`reason` says which); EINVAL the data or the parent does
   * not suit; EADDRINUSE the Ioas has mappings where the IOMMU does not translate; EFAULT, ENOMEM its memory can't be
   * pinned; ENOTTY before 6.6.
   */
  allocHwpt(o: {
    device: IommufdDevice;
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
    if (!(parent instanceof Ioas || parent instanceof Hwpt || parent instanceof Viommu) || !isHandle(parent))
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
    const its = ownDevice(this, device);
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

  /** Makes a queue for page faults of devices (IOMMU_FAULT_QUEUE_ALLOC, Linux 6.11). @throws {VfioError} ENOTTY before 6.11. */
  allocFaultQueue(): FaultQueue {
    const { object, file } = this.#asked(() => this.#file.faultQueueAlloc());
    return keepIn(this, new FaultQueue(OURS, this, object, file));
  }

  /**
   * Makes a virtual IOMMU: a slice of the IOMMU of `device` for a virtual machine (IOMMU_VIOMMU_ALLOC, Linux 6.13). `parent`
   * is a page table made with `nestParent`, which maps the guest's memory.
   *
   * @throws {VfioError} EOPNOTSUPP the IOMMU has no such type; EINVAL the parent was made without `nestParent`; ENOTTY
   * before 6.13.
   */
  allocViommu(o: { device: IommufdDevice; parent: Hwpt; type: ViommuType }): Viommu {
    alive(this);
    const { device, parent, type } = options(o, 'options');
    const kind = oneOf(type as ViommuType, 'type', ['arm-smmuv3', 'tegra241-cmdqv']);
    const table = this.#own(instance(parent, Hwpt, 'parent'), 'a Hwpt', 'parent');
    const its = ownDevice(this, device);
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
   * The kind and the abilities of a device's IOMMU (IOMMU_GET_HW_INFO, Linux 6.6). `type` (Linux 6.17) asks for information of
   * that kind instead of the default one.
   *
   * @throws {VfioError} EOPNOTSUPP the IOMMU has no information of that kind; ENOTTY before 6.6.
   */
  hwInfo(device: IommufdDevice, o?: { type?: 'tegra241-cmdqv' }): HwInfo {
    alive(this);
    const { type } = options(o, 'options');
    if (type !== undefined) oneOf(type, 'type', ['tegra241-cmdqv']);
    const its = ownDevice(this, device);
    return this.#asked(() => this.#file.hwInfo(its.id, type));
  }

  /**
   * Whether this kernel has a feature. The kernel is asked; its release is not looked up: each feature's request is made with
   * too short an argument. A kernel that has the request refuses that with EINVAL before it does anything, and a kernel that
   * lacks it with ENOTTY. 'pasid' is a flag of a request, which can't be asked for without a device: it came in the same
   * release as 'veventq', so that is asked. Whether a device's IOMMU has the feature, {@link hwInfo} and the call itself tell.
   */
  supports(feature: IommufdFeature): boolean {
    alive(this);
    return this.#file.supports(oneOf(feature, 'feature', features));
  }

  /**
   * Whether pinned memory is charged to the user, over all processes (default), or to this process, as VmLck of
   * /proc/self/status shows (IOMMU_OPTION_RLIMIT_MODE, Linux 6.2). Set it before the first object is made.
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
   * The address space that the requests of a VFIO container work on (IOMMU_VFIO_IOAS, Linux 6.2): see {@link container}. Null:
   * there is none. When a group joins this iommufd and there is none, the kernel makes one.
   *
   * @throws {VfioError} ENOENT the Ioas was destroyed.
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
   * A container that works on {@link vfioCompatIoas}: an iommufd takes the requests of a VFIO container (type1) too (Linux
   * 6.2), for programs that were written for these (requirement D4: with the same results).
   */
  container(): Container {
    alive(this);
    return new Container(OURS, this, this.#file, {
      iommufd: this,
      compatIoas: () => this.vfioCompatIoas,
      space: (ioas) => this.#ioasOf(ioas),
    });
  }

  /**
   * Charges all memory that was mapped from files to the calling process (IOMMU_IOAS_CHANGE_PROCESS, Linux 6.13): for use after
   * the iommufd was handed to another process, or after an exec.
   *
   * @throws {VfioError} EINVAL memory is mapped by its address ({@link Ioas.map}); ENOMEM over the locked-memory limit: nothing
   * has changed; ENOTTY before 6.13.
   */
  changeProcess(): void {
    this.#asked(() => this.#file.changeProcess());
  }

  /**
   * Destroys any object by its id (IOMMU_DESTROY, Linux 6.2). A handle destroys its object itself when it is disposed. If the
   * object that is destroyed here has a handle, that is disposed too.
   *
   * @throws {VfioError} ENOENT no such object; EBUSY it is in use: `reason` says by what.
   */
  destroy(id: number): void {
    alive(this);
    integer(id, 'id', 0, 0xffffffff);
    const handle = handleIn(this, id);
    explained(
      () => this.#file.destroy(id),
      (error) =>
        error.code === 'EBUSY'
          ? wordsForBusy([
              ...(handle instanceof RecordQueue
                ? ['its descriptor is open: disposing the handle closes that']
                : []),
              ...usersOf(this, id, handle),
            ])
          : undefined,
    );
    // The object is destroyed: its handle is disposed too.
    forgetIn(this, id);
    handle?.[Symbol.dispose]();
  }

  #ioasOf(id: number): Ioas {
    alive(this);
    const known = handleIn(this, id);
    return known instanceof Ioas
      ? known
      : keepIn(this, new Ioas(OURS, this, this.#file, this.#file.ioasOf(id)));
  }

  #release(): void {
    this.#file.dispose();
  }

  #own<T extends { readonly iommufd: IommufdFile }>(object: T, what: string, name: string): T {
    if (differs(object.iommufd, this)) throw refusal(`${what} of this iommufd`, name, object);
    return object;
  }

  #asked<T>(call: () => T): T {
    alive(this);
    return explained(call, (error) => wordsForMissing(error, this.#file));
  }
}
