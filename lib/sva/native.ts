/**
 * The native way: the IOMMU uses the page table of the process. The software host has calls for it (native/uapi/sva.h); no VFIO
 * of a real kernel has any, and answers ENOTTY.
 *
 * Life of a bonding: the descriptor of the bond is open until it is disposed; that is the unbind.
 */
import { constants } from 'node:os';
import type { NativeBond, NativeBondEvent } from '../addon/files.ts';
import { type NativeWatch, native } from '../addon/native.ts';
import { explained, type VfioError, type Words } from '../base/errors.ts';
import { fileOf } from '../handles/handle.ts';
import { DmaBuffer } from '../memory/dma-buffer.ts';
import type { VfioDevice } from '../vfio/device.ts';
import { ALREADY_BOUND, type Bonding, type BondingEvents, type BondingRequest, type NoWay } from './way.ts';

/** Whether the device, its IOMMU and the host can do it. */
export function supportsNative(device: VfioDevice): boolean {
  return fileOf(device).svaSupported();
}

class NativeBonding implements Bonding {
  readonly way = 'native';
  readonly #file: NativeBond;
  readonly #events: BondingEvents;
  readonly #deviceId: number;
  readonly #watch: NativeWatch;
  readonly #onReadable: () => void;
  readonly #other: boolean;
  #awaited = false;
  #open = true;

  /** `other`: the memory is another process's. */
  constructor(file: NativeBond, events: BondingEvents, deviceId: number, other: boolean) {
    this.#file = file;
    this.#events = events;
    this.#deviceId = deviceId;
    this.#other = other;
    this.#onReadable = () => this.#serve();
    this.#watch = new native.Watch(file, this.#onReadable);
    this.#listen();
  }

  pasid(): number | null {
    return this.#open ? this.#file.bondInfo().pasid : null;
  }

  ended(): boolean {
    return this.#open && this.#file.bondInfo().exited;
  }

  awaitEnd(on: boolean): void {
    this.#awaited = on && this.#other && !this.ended();
    this.#listen();
  }

  /** Every byte of the process can be reached. */
  reach(): void {}

  allocate(size: number): ArrayBuffer {
    return DmaBuffer.alloc(size).buffer;
  }

  adopt(): void {}

  dispose(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch.dispose();
    this.#file.dispose();
  }

  /** Tells each event in a turn of its own: what a program's function throws is its own affair, and no event is lost by it. */
  #serve(): void {
    try {
      for (const event of this.#file.readBondEvents()) {
        if (event === 'exit') this.#awaited = false;
        queueMicrotask(() => this.#tell(event));
      }
    } finally {
      this.#listen();
    }
  }

  #listen(): void {
    this.#watch.rest();
    this.#watch.watch(!this.#awaited);
  }

  #tell(event: NativeBondEvent): void {
    if (!this.#open) return;
    if (event === 'exit') {
      this.#events.exit();
      return;
    }
    const { pasid, address, group, access, reason, lost } = event;
    this.#events.fault({
      deviceId: this.#deviceId,
      pasid,
      address,
      group,
      last: true,
      access,
      cookie: 0,
      reason,
      lost,
    });
  }
}

/** Binds by the host's own call. */
export function bindNative({ device, pid, exclusive, events }: BondingRequest): Bonding | NoWay {
  if (!supportsNative(device))
    return {
      code: 'EOPNOTSUPP',
      reason:
        'no call of this host binds a process to the device: VFIO of a real kernel has none, and the software host needs a ' +
        'device and an IOMMU that have PASIDs and page requests',
    };
  const file = explained(
    () => fileOf(device).svaBind(exclusive, pid),
    (error) => wordsFor(error, pid),
  );
  try {
    return new NativeBonding(file, events, device.id ?? -1, pid !== undefined);
  } catch (error) {
    file.dispose(); // nobody would ever unbind it
    throw error;
  }
}

function wordsFor(error: VfioError, pid: number | undefined): Words | undefined {
  switch (error.errno) {
    case -constants.errno.EEXIST:
      return { reason: ALREADY_BOUND };
    case -constants.errno.EINVAL:
      return {
        reason: 'possibly other devices share its group, or SVA was disabled meanwhile',
      };
    case -constants.errno.EOVERFLOW:
      return { reason: 'the PASID of the process has more bits than this device can carry' };
    case -constants.errno.ENOSPC:
      return { reason: 'no PASID is left that the device can carry' };
    case -constants.errno.EBUSY:
      return { reason: 'the PASID of the process is attached to something else on this device' };
    case -constants.errno.ESRCH:
      return {
        reason: `process ${pid} has no memory, or is not there: a zombie, a thread of the kernel, or none`,
      };
    case -constants.errno.EPERM:
      return {
        reason: `this process may not access the memory of process ${pid}`,
        hint: 'That takes the same user, and what ptrace takes: /proc/sys/kernel/yama/ptrace_scope 0, or CAP_SYS_PTRACE',
      };
    default:
      return undefined;
  }
}
