/**
 * Page faults of devices: a device has accessed memory that its page table does not map, and waits for a response (requirement
 * C7: page faults are queued, answered and flushed).
 *
 * Life: Iommufd.allocFaultQueue makes a queue; page tables that are made with it report to it. A group of faults is open from
 * the time its records are read until it is answered. When the queue is disposed, the kernel answers the open ones with
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
 * The response to a fault. 'success': the page is mapped now, the device tries again. 'invalid': it is not, the device should
 * give up. 'failure' is the third response of PCI, which no kernel takes from user space so far (EINVAL).
 */
export type FaultResponse = (typeof codes)[number];

/** A group of faults that is not answered yet. */
interface Group {
  readonly cookie: number;
  /** Its faults for which {@link FaultQueue.respond} has not been called yet. */
  readonly open: Set<IoPageFault>;
  /** The worst response so far. */
  worst: FaultResponse;
}

/**
 * A queue of page faults (IOMMU_FAULT_QUEUE_ALLOC, Linux 6.11). `for await` reads it. Each fault must be answered, since the
 * device waits for the response.
 */
export class FaultQueue extends RecordQueue<IoPageFault> {
  readonly #records: NativeFaultQueue;
  readonly #groups = new Map<number, Group>();

  constructor(key: typeof OURS, iommufd: IommufdFile, object: NativeObject, records: NativeFaultQueue) {
    super(key, 'FaultQueue', iommufd, [iommufd], object, records, () => this.#read());
    this.#records = records;
  }

  /**
   * Answers one fault. The kernel takes one response for a whole group: it is given when every fault of the group is
   * answered, and is the worst of the responses. {@link respondGroup} answers all at once.
   *
   * @throws {VfioError} EINVAL the kernel does not know the group any more (its device was detached), or refuses the code.
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
   * Answers the whole group that a fault belongs to. Any object with the fault's `cookie` will do, such as a copy that came
   * from another thread.
   *
   * @throws {VfioError} EINVAL the kernel does not know the group any more (its device was detached), or refuses the code.
   */
  respondGroup(fault: { readonly cookie: number }, code: FaultResponse): void {
    alive(this);
    oneOf(code, 'code', codes);
    this.#answer(this.#groupOf(fault), code);
  }

  #read(): IoPageFault[] {
    const faults = this.#records.readFaults();
    // A read returns whole groups. If a cookie is known already, the kernel has answered that group itself and uses the cookie
    // again.
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
