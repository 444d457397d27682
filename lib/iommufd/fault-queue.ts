/**
 * Page faults of devices: a device touched memory that its page table does not have, and waits for an answer.
 * Requirement C7.
 *
 * Life: made by Iommufd.allocFaultQueue; page tables that are made with it report to it. A group of faults is open from
 * when its records are read until it is answered. What is open when the queue is disposed, the kernel answers with
 * 'invalid'.
 */

import type { NativeFaultQueue, NativeObject } from '../addon/files.ts';
import type { IoPageFault } from '../addon/records.ts';
import { oneOf, refusal } from '../base/check.ts';
import { explained } from '../base/errors.ts';
import { own } from '../base/own.ts';
import type { OURS } from '../base/private.ts';
import { alive } from '../handles/handle.ts';
import type { IommufdFile } from '../handles/iommufd-file.ts';
import { RecordQueue } from './record-queue.ts';

const codes = ['success', 'invalid', 'failure'] as const;

/**
 * How a fault is answered: 'success', the page is there, try again; 'invalid', it is not, and the device should give up.
 * 'failure' is PCI's third answer, which no kernel takes from user space so far (EINVAL).
 */
export type FaultResponse = (typeof codes)[number];

/** A group of faults that waits for its answer. */
interface Group {
  readonly cookie: number;
  /** Faults of it that {@link FaultQueue.respond} has not been told of. */
  readonly open: Set<IoPageFault>;
  /** The worst answer so far. */
  worst: FaultResponse;
}

/**
 * A queue of page faults (IOMMU_FAULT_QUEUE_ALLOC, Linux 6.11). `for await` reads it; each fault must be answered, the
 * device waits for it.
 */
export class FaultQueue extends RecordQueue<IoPageFault> {
  readonly #records: NativeFaultQueue;
  readonly #groups = new Map<number, Group>();

  constructor(key: typeof OURS, iommufd: IommufdFile, object: NativeObject, records: NativeFaultQueue) {
    super(key, 'FaultQueue', iommufd, [iommufd], object, records, () => this.#read());
    this.#records = records;
  }

  /**
   * Answers one fault. The kernel takes one answer for a whole group: it is given when each fault of the group is
   * answered, and is the worst of the answers. {@link respondGroup} answers all at once.
   *
   * @throws {VfioError} EINVAL the kernel does not know the group any more (its device was detached), or the code.
   */
  respond(fault: IoPageFault, code: FaultResponse): void {
    alive(this);
    oneOf(code, 'code', codes);
    const group = this.#groupOf(fault);
    if (!group.open.has(fault)) throw refusal('a fault of this queue that has no answer yet', 'fault', fault);
    const worst = codes.indexOf(code) > codes.indexOf(group.worst) ? code : group.worst;
    if (group.open.size === 1) this.#answer(group, worst);
    group.open.delete(fault);
    group.worst = worst;
  }

  /**
   * Answers the whole group that a fault belongs to. Anything with its `cookie` will do: also a copy that came from
   * another thread.
   *
   * @throws {VfioError} EINVAL the kernel does not know the group any more (its device was detached), or the code.
   */
  respondGroup(fault: { readonly cookie: number }, code: FaultResponse): void {
    alive(this);
    oneOf(code, 'code', codes);
    this.#answer(this.#groupOf(fault), code);
  }

  #read(): IoPageFault[] {
    const faults = this.#records.readFaults();
    // A read gives whole groups. A cookie that is known already was answered by the kernel itself, and used again.
    for (const { cookie } of faults) this.#groups.delete(cookie);
    for (const fault of faults) {
      const { cookie } = fault;
      const group = this.#groups.get(cookie) ?? { cookie, open: new Set(), worst: 'success' };
      group.open.add(fault);
      this.#groups.set(cookie, group);
    }
    return faults;
  }

  #groupOf(fault: { readonly cookie: number }): Group {
    const cookie = typeof fault === 'object' && fault !== null ? own(fault, 'cookie') : undefined;
    const group = cookie === undefined ? undefined : this.#groups.get(cookie);
    if (group === undefined) throw refusal('a fault of this queue that has no answer yet', 'fault', fault);
    return group;
  }

  #answer(group: Group, code: FaultResponse): void {
    explained(
      () => this.#records.respondFault(group.cookie, codes.indexOf(code)),
      (error) => {
        if (error.code !== 'EINVAL') return undefined;
        if (code === 'failure') return { reason: "this kernel takes 'success' and 'invalid' only" };
        this.#groups.delete(group.cookie);
        return {
          reason: 'the kernel has answered it: the device was detached, or has another page table now',
        };
      },
    );
    this.#groups.delete(group.cookie);
  }
}
