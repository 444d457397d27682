/**
 * A virtual IOMMU: a slice of an IOMMU for a virtual machine, which the guest's own IOMMU driver uses.
 *
 * Life: Iommufd.allocViommu makes a Viommu on a page table made with `nestParent`. Devices are put behind it as Vdevices, a
 * VeventQueue gives the events of its devices, and hardware can read a guest's command queue by itself (HwQueue). Each of these
 * is destroyed when it or its Viommu is disposed; a Vdevice also when its device is closed.
 */

import type { NativeEventQueue, NativeIommufd, NativeObject } from '../addon/files.ts';
import type { ViommuEvent } from '../addon/records.ts';
import { integer, oneOf, options, type U64Like, u64 } from '../base/check.ts';
import { explained } from '../base/errors.ts';
import { OURS } from '../base/private.ts';
import { alive, type Handle } from '../handles/handle.ts';
import { type IommufdDevice, type IommufdFile, keepIn, ownDevice } from '../handles/iommufd-file.ts';
import { type Hwpt, type Invalidations, invalidate } from './hwpt.ts';
import { IommufdObject } from './iommufd-object.ts';
import { wordsForMissing } from './iommufd-words.ts';
import { RecordQueue } from './record-queue.ts';

/** The kind of a virtual IOMMU: Arm's SMMUv3 (Linux 6.13), or one with Tegra241's command queues (Linux 6.17). */
export type ViommuType = 'arm-smmuv3' | 'tegra241-cmdqv';

/** A virtual IOMMU (IOMMU_VIOMMU_ALLOC, Linux 6.13). */
export class Viommu extends IommufdObject {
  /** Its kind. */
  readonly type: ViommuType;
  /** 'tegra241-cmdqv': the part of the iommufd to mmap, in bytes, to reach the virtual interface page. Null for others. */
  readonly mmap: { readonly offset: bigint; readonly length: bigint } | null;
  readonly #file: NativeIommufd;

  constructor(
    key: typeof OURS,
    iommufd: IommufdFile,
    parent: Hwpt,
    file: NativeIommufd,
    made: { object: NativeObject; mmap: { offset: bigint; length: bigint } | null },
    type: ViommuType,
  ) {
    super(key, 'Viommu', iommufd, [parent], made?.object);
    this.#file = file;
    this.type = type;
    this.mmap = made.mmap;
  }

  /**
   * Puts a device behind it (IOMMU_VDEVICE_ALLOC, Linux 6.13). `virtId`: the guest's number for the device, a stream id.
   *
   * @throws {VfioError} EEXIST the device has a Vdevice already, or the id is taken; EINVAL the device is behind another
   * IOMMU, or the id is too large; ENOTTY before 6.13.
   */
  allocVdevice(o: { device: IommufdDevice; virtId: U64Like }): Vdevice {
    alive(this);
    const { device, virtId } = options(o, 'options');
    const found = ownDevice(this.iommufd, device);
    const name = u64(virtId, 'virtId');
    const made = this.#asked(() => this.#file.vdeviceAlloc(this.id, found.id, name));
    return keepIn(this.iommufd, new Vdevice(OURS, this.iommufd, [this, found.device], made, name));
  }

  /**
   * Makes a queue for the events of its devices, such as faults (IOMMU_VEVENTQ_ALLOC, Linux 6.15). `depth`: how many events
   * it holds; the events after that are lost, and counted.
   *
   * @throws {VfioError} EEXIST it has a queue of this type; EINVAL depth 0; EOPNOTSUPP the type is not supported; ENOTTY before
   * 6.15.
   */
  allocEventQueue(o: { depth: number; type?: ViommuType }): VeventQueue {
    alive(this);
    const { depth, type = this.type } = options(o, 'options');
    oneOf(type, 'type', ['arm-smmuv3', 'tegra241-cmdqv']);
    const size = integer(depth, 'depth', 0, 0xffffffff);
    const made = this.#asked(() => this.#file.veventqAlloc(this.id, type, size));
    return keepIn(this.iommufd, new VeventQueue(OURS, this.iommufd, this, made, type));
  }

  /**
   * Lets hardware read one of the guest's queues by itself (IOMMU_HW_QUEUE_ALLOC, Linux 6.17). `index`: the number of the
   * queue; `iova` and `length`: its place in the guest's memory, in bytes.
   *
   * @throws {VfioError} EOPNOTSUPP it has no such queues; EINVAL length 0; EOVERFLOW the range wraps; ENOENT or EFAULT the
   * memory is not mapped or not contiguous; ENOTTY before 6.17.
   */
  allocHwQueue(o: { index: number; iova: U64Like; length: U64Like; type?: 'tegra241-cmdqv' }): HwQueue {
    alive(this);
    const { index, iova, length, type = 'tegra241-cmdqv' } = options(o, 'options');
    oneOf(type, 'type', ['tegra241-cmdqv']);
    const which = integer(index, 'index', 0, 0xffffffff);
    const start = u64(iova, 'iova');
    const size = u64(length, 'length');
    const made = this.#asked(() => this.#file.hwQueueAlloc(this.id, type, which, start, size));
    return keepIn(this.iommufd, new HwQueue(OURS, this.iommufd, [this], made));
  }

  /**
   * Carries out the guest's commands that invalidate the IOMMU's caches (IOMMU_HWPT_INVALIDATE, Linux 6.13): returns how many
   * were handled.
   *
   * @throws {VfioError} EINVAL the type is not this one's, or there are no commands; EIO a command is not one that
   * invalidates; `handled` says how many were handled before.
   */
  invalidate<T extends 'arm-smmuv3'>(type: T, entries: readonly Invalidations[T][]): number {
    alive(this);
    return invalidate(this.#file, this, type, entries);
  }

  #asked<T>(call: () => T): T {
    return explained(call, (error) => wordsForMissing(error, this.#file));
  }
}

/** A device behind a virtual IOMMU. */
export class Vdevice extends IommufdObject {
  /** The guest's number for it. */
  readonly virtId: bigint;

  constructor(
    key: typeof OURS,
    iommufd: IommufdFile,
    parents: readonly Handle[],
    object: NativeObject,
    virtId: bigint,
  ) {
    super(key, 'Vdevice', iommufd, parents, object);
    this.virtId = virtId;
  }
}

/** A guest's queue that hardware reads by itself. */
export class HwQueue extends IommufdObject {
  constructor(key: typeof OURS, iommufd: IommufdFile, parents: readonly Handle[], object: NativeObject) {
    super(key, 'HwQueue', iommufd, parents, object);
  }
}

/**
 * Events of a virtual IOMMU (IOMMU_VEVENTQ_ALLOC, Linux 6.15). `sequence` counts up to 2^31-1, then from 0 again. A gap, or an
 * event of type 'lost', means that the queue was full.
 */
export class VeventQueue extends RecordQueue<ViommuEvent> {
  /** The kind of its events. */
  readonly type: ViommuType;

  constructor(
    key: typeof OURS,
    iommufd: IommufdFile,
    viommu: Viommu,
    made: { object: NativeObject; file: NativeEventQueue },
    type: ViommuType,
  ) {
    super(key, 'VeventQueue', iommufd, [viommu], made?.object, made?.file, () => made.file.readEvents(type));
    this.type = type;
  }
}
