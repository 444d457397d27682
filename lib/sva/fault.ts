/**
 * The way 'iommufd-fault': the device may use any pointer of the process. Where its page table maps nothing, it asks for the
 * page and waits; the answer maps the page of the process at the IOVA that is its own address, with pages around it. Memory of
 * `allocate` and `adopt` is mapped ahead, as by 'iommufd-mirror'.
 *
 * The answers come from the event loop of the thread that made the bond: while that is blocked, the device waits.
 *
 * The kernel pins the pages, and follows no change of the process's memory: a page that was mapped for the device and then
 * unmapped by the process (munmap, mremap, MADV_DONTNEED) is still the device's, until its window is evicted. So each `reach`
 * drops the windows of its range: the device asks again, and gets the pages that are there now.
 *
 * Life: `fault` makes the queue and the address space, and attaches the device. A window is made by an answer, and ends when it
 * is evicted, when memory is mapped ahead in its place, or with the bonding. At the end the device is detached: the kernel then
 * answers the open requests with 'invalid'.
 */
import type { IoPageFault } from '../addon/records.ts';
import { VfioError } from '../base/errors.ts';
import { ownOf } from '../base/own.ts';
import type { FaultQueue } from '../iommufd/fault-queue.ts';
import type { Iommufd } from '../iommufd/iommufd.ts';
import { listen } from '../iommufd/record-queue.ts';
import { type Area, areaAt, areas } from './areas.ts';
import { attach, isNoWay, noWay, unsuited } from './attachment.ts';
import { Heap } from './heap.ts';
import { shared } from './shared.ts';
import type { BondingEvents, MakeBonding, SvaFault } from './way.ts';
import { Windows } from './windows.ts';

/** How much a bonding maps in answer to page requests, in bytes. */
export interface FaultLimits {
  /** The size and alignment of a window: the page that the device asks for, and its neighbours. A power of two, 4096 or more. */
  readonly window: number;
  /** How much may be mapped in windows at a time: then the oldest ones go. */
  readonly most: number;
}

const LIMITS: FaultLimits = { window: 65536, most: 2 ** 28 };

/** A way with these limits, for bondings whose device asks for pages. */
export const faultWithin = (limits: FaultLimits): MakeBonding =>
  shared((request) => {
    const unfit = unsuited(request);
    if (unfit !== undefined) return unfit;
    let queue: FaultQueue;
    try {
      areas(); // without them no request could be answered
      queue = (request.device.iommufd as Iommufd).allocFaultQueue();
    } catch (error) {
      return noWay(error, 'page requests of the device can not be answered');
    }
    const attachment = attach(request.device, queue);
    if (isNoWay(attachment)) {
      queue[Symbol.dispose]();
      return attachment;
    }
    const { ioas } = attachment;
    const windows = new Windows(ioas, limits);
    const heap = new Heap({
      ioas,
      addressBits: request.addressBits,
      makeRoom: (start, last) => windows.drop(start, last),
    });
    try {
      answer(queue, heap, windows, request.events);
    } catch (error) {
      attachment.detach();
      queue[Symbol.dispose]();
      return noWay(error, 'page requests of the device can not be answered');
    }
    return {
      way: 'iommufd-fault',
      pasid: () => attachment.pasid,
      ended: () => false,
      reach(address, length) {
        if (length === 0) return;
        heap.inRange(address, length);
        windows.drop(address, address + BigInt(length) - 1n);
      },
      allocate: (size) => heap.allocate(size),
      adopt: (address, length, owner) => heap.adopt(address, length, owner),
      dispose() {
        windows.dispose();
        heap.dispose();
        attachment.detach();
        queue[Symbol.dispose]();
      },
    };
  });

/** Makes a bonding whose device asks for pages (Linux 6.13; with a PASID 6.15). */
export const fault: MakeBonding = faultWithin(LIMITS);

/** Answers the page requests of a queue, group by group, until the queue is disposed. */
function answer(queue: FaultQueue, heap: Heap, windows: Windows, events: BondingEvents): void {
  let group: IoPageFault[] = [];
  listen(queue, {
    record(record) {
      group.push(record);
      if (!record.last) return;
      const faults = group;
      group = [];
      let refused: SvaFault | undefined;
      try {
        refused = firstRefused(faults, heap, windows);
      } catch (error) {
        warn(`A page request of a device could not be resolved: ${textOf(error)}`);
        refused = { ...(faults[0] ?? record), reason: textOf(error) };
      }
      respond(queue, record, refused === undefined);
      if (refused !== undefined) tell(events, refused);
    },
    failed: (error) =>
      warn(`Page requests of a device can't be read any more, and stay unanswered: ${textOf(error)}`),
  });
}

/** An error of the program's function is one of its own, and keeps no other request from its answer. */
function tell(events: BondingEvents, refused: SvaFault): void {
  try {
    events.fault(refused);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** The first fault of a group whose page can't be mapped; the rest is not tried then, as the kernel's own handler does. */
function firstRefused(faults: readonly IoPageFault[], heap: Heap, windows: Windows): SvaFault | undefined {
  const list = areas();
  const usable = heap.usable();
  windows.begin();
  for (const each of faults) {
    const area = areaAt(list, each.address);
    const range = usable.find(({ start, last }) => start <= each.address && each.address <= last);
    const reason =
      area === undefined
        ? 'the process has no memory there'
        : range === undefined
          ? 'the device can not address it'
          : (forbidden(area, each) ?? windows.map(each, area, range));
    if (reason !== undefined) return { ...each, reason };
  }
  return undefined;
}

/** Why an access is not allowed; undefined: the process may access the area so. No device may make an access of the kernel's. */
function forbidden({ read, write, execute }: Area, { access }: IoPageFault): string | undefined {
  if (access.privileged) return 'it is an access of the kernel, which no process can allow';
  if (access.write && !write) return 'the process may not write there';
  if (access.execute && !execute) return 'the process may not execute there';
  if (access.read ? !read : !read && !write) return 'the process may not read there';
  return undefined;
}

function respond(queue: FaultQueue, record: IoPageFault, success: boolean): void {
  try {
    queue.respondGroup(record, success ? 'success' : 'invalid');
  } catch (error) {
    // EINVAL: the kernel has answered it by itself, as the device was detached or reset.
    if (!(error instanceof VfioError && error.code === 'EINVAL'))
      warn(`A page request of a device could not be answered: ${textOf(error)}`);
  }
}

const textOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

const warn = (text: string) =>
  process.emitWarning(text, ownOf({ type: 'VfioSvaWarning', code: 'VFIO_SVA_UNANSWERED' }));
