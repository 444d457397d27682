/**
 * The DMA sanitizer of a software host. It hears of what the driver does (lib/handles/observer.ts), takes the incidents that
 * the machine has seen (native/soft/core/dma_watch.h), and finds for each what the driver had done before.
 *
 * Life: one for each Host handle. It knows what was mapped by handles of that host; mappings that were made by a handle of a
 * descriptor (`fromFd`), so those of other threads, are unknown to it. It refers to handles weakly.
 */

import type { NativeHost, NativeIncident } from '../../../addon/native.ts';
import { VfioError } from '../../../base/errors.ts';
import { hex } from '../../../base/hex.ts';
import { type Handle, kindOf, type Observer, openedAt, parentsOf } from '../../../handles/handle.ts';
import type { MadeMapping } from '../../../handles/observer.ts';
import type { OwnedChange } from '../../../simulation/ownership.ts';
import { Doorbells } from './doorbells.ts';
import { Findings, type Found } from './findings.ts';
import { History, type Record } from './history.ts';
import { type DmaReport, reportText } from './report.ts';
import { framesOf, Stack } from './stacks.ts';
import { accessText, besideText, changeText, guessOf, nearestOf, rangeText } from './words.ts';

// A test may replace the clock of its process (fake timers). This one is compared with times of the machine.
const now = process.hrtime.bigint;

const DEVICE = 'VfioDevice';
/** More than a region has bytes whose numbers are exact beside it. */
const REGION = 2 ** 40;
/** How many spaces that have ended, and how many changes of a device's attachment, are remembered. */
const KEPT = 64;

/** A change of what a device is attached to. */
interface Attachment {
  readonly time: bigint;
  readonly stack: Stack;
  /** Undefined: it was detached. */
  readonly space: WeakRef<Handle> | undefined;
}

/** The address of a device's handle; null: unknown. Undefined: the handle belongs to no device. */
function deviceOf(handle: Handle): string | null | undefined {
  const kind = kindOf(handle);
  if (kind === DEVICE) return null;
  if (kind.startsWith(`${DEVICE} `)) return kind.slice(DEVICE.length + 1);
  const parent = parentsOf(handle)[0];
  return parent === undefined ? undefined : deviceOf(parent);
}

/** The keys of an object whose values are not undefined. */
function given<T extends object>(all: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

export class Sanitizer implements Observer {
  readonly #host: NativeHost;
  readonly #findings = new Findings();
  readonly #histories = new WeakMap<Handle, History>();
  readonly #all: History[] = [];
  readonly #byPages = new WeakMap<object, Set<Record>>();
  readonly #disposedBuffers = new WeakMap<object, Stack>();
  /** The memory to which DMA is an incident: the mappings of disposed buffers, by the process's address. */
  readonly #forbidden = new Map<number, Record>();
  readonly #doorbells = new Map<string | null, Doorbells>();
  readonly #doorbellsOf = new WeakMap<Handle, Doorbells>();
  readonly #attachments = new Map<string, Attachment[]>();
  readonly #resets = new Map<string | null, { time: bigint; stack: Stack }>();
  readonly #disposed = new WeakMap<Handle, Stack>();
  /** What the unmap that is under way would end. */
  #ending: Record[] = [];
  #closed = false;

  constructor(host: NativeHost) {
    this.#host = host;
    host.watch();
  }

  /** The report, which outlives the host. */
  report(): DmaReport {
    const findings = this.#findings;
    const taken = () => {
      this.take();
      return findings;
    };
    return {
      enabled: true,
      get findings() {
        return taken().all;
      },
      get dropped() {
        return taken().dropped;
      },
      toString() {
        const { all, dropped } = taken();
        return reportText(all, dropped);
      },
      clear() {
        taken().clear();
      },
    };
  }

  /** Takes the incidents of the machine into the report. */
  take(): void {
    this.#ask((host) => {
      const { incidents, lost } = host.takeIncidents();
      this.#findings.drop(lost);
      for (const each of incidents) this.#judge(each);
    });
  }

  /** The machine may lack memory. Then the report lacks something, and says so; the driver's call goes on. */
  #ask(call: (host: NativeHost) => void): void {
    if (this.#closed) return;
    try {
      call(this.#host);
    } catch (error) {
      if (!(error instanceof VfioError)) throw error;
      this.#findings.drop(1);
    }
  }

  /** The host's handle ends: the machine is asked no more. */
  close(): void {
    this.take();
    this.#closed = true;
  }

  // ---------------------------------------------------------------- what the driver does

  mapped(space: Handle, mapping: MadeMapping): void {
    let history = this.#histories.get(space);
    if (history === undefined) {
      history = new History();
      this.#histories.set(space, history);
      this.#all.push(history);
      const old = this.#all.length > KEPT ? this.#all.findIndex((each) => each.live.length === 0) : -1;
      if (old >= 0) this.#all.splice(old, 1);
    }
    const record = history.add(mapping, new Stack(), now());
    const { memory } = record;
    if (memory === undefined) return;
    const { pages, address } = memory;
    for (const [start, other] of this.#forbidden)
      if (
        other.memory?.pages !== pages &&
        start < address + Number(record.length) &&
        address < start + Number(other.length)
      ) {
        // Other memory is there now, whatever else is known of the disposed buffer.
        this.#forbidden.delete(start);
        this.#ask((host) => host.forbidDma(BigInt(start), 0n));
      }
    const records = this.#byPages.get(pages);
    if (records === undefined) this.#byPages.set(pages, new Set([record]));
    else records.add(record);
  }

  unmaps(space: Handle, iova: bigint, length: bigint, number?: number): void {
    const history = this.#histories.get(space);
    if (history === undefined) return;
    const one = number === undefined ? undefined : history.byNumber(number);
    this.#ending = number === undefined ? history.within(iova, length) : one === undefined ? [] : [one];
    this.#end(history, this.#ending, new Stack());
  }

  unmapFailed(
    space: Handle,
    iova: bigint,
    length: bigint,
    left: readonly { iova: bigint; length: bigint }[],
  ): void {
    const history = this.#histories.get(space);
    const ending = this.#ending;
    this.#ending = [];
    if (history === undefined) return;
    for (const each of ending)
      if (left.some((other) => other.iova <= each.iova && each.iova < other.iova + other.length)) {
        history.revive(each);
        if (each.memory !== undefined) this.#byPages.get(each.memory.pages)?.add(each);
      }
    const before = ending.length > 0 ? undefined : history.at(iova, now());
    if (before?.until === undefined || before.iova !== iova) return;
    this.#findings.add({
      kind: 'double-unmap',
      message: `${rangeText({ iova, length })} was unmapped, but it had been unmapped before`,
      device: null,
      iova,
      length,
      stacks: given({ map: before.mapped.text, unmap: before.unmapped?.text, call: new Stack().text }),
    });
  }

  bufferDisposed(pages: object): void {
    const records = this.#byPages.get(pages);
    if (this.#closed || records === undefined || records.size === 0) return;
    this.#disposedBuffers.set(pages, new Stack());
    for (const each of records) {
      const { address } = each.memory as { address: number };
      const other = this.#forbidden.get(address);
      if (other !== undefined && other.length >= each.length) continue;
      this.#forbidden.set(address, each);
      this.#ask((host) => host.forbidDma(BigInt(address), each.length));
    }
  }

  attached(bdf: string | null, pasid: number | undefined, space: Handle | undefined): void {
    const key = `${bdf}/${pasid ?? ''}`;
    const changes = this.#attachments.get(key) ?? [];
    this.#attachments.set(key, changes);
    changes.push({ time: now(), stack: new Stack(), space: space && new WeakRef(space) });
    if (changes.length > KEPT) changes.shift();
  }

  stores(device: Handle, region: number, offset: number): void {
    let doorbells = this.#doorbellsOf.get(device);
    if (doorbells === undefined) {
      const bdf = deviceOf(device) ?? null;
      doorbells = this.#doorbells.get(bdf) ?? new Doorbells();
      this.#doorbells.set(bdf, doorbells);
      this.#doorbellsOf.set(device, doorbells);
    }
    doorbells.add(now(), region * REGION + offset);
  }

  resets(device: Handle): void {
    this.#resets.set(deviceOf(device) ?? null, { time: now(), stack: new Stack() });
  }

  ends(handle: Handle, left: readonly Handle[]): void {
    const stack = new Stack();
    const kind = kindOf(handle);
    const closes = kind === 'Host' || kind.startsWith(DEVICE);
    for (const each of [handle, ...left]) {
      this.#disposed.set(each, stack);
      const history = this.#histories.get(each);
      if (history !== undefined) this.#spaceEnds(history, stack);
      const opened = each === handle || !closes ? undefined : openedAt(each);
      if (opened === undefined) continue;
      this.#findings.add({
        kind: 'left-at-close',
        message: `the ${kindOf(each)} was not disposed before the ${kind} was`,
        device: deviceOf(each) ?? null,
        stacks: { map: framesOf(opened), dispose: stack.text },
      });
    }
  }

  usedDisposed(handle: Handle): void {
    const kind = kindOf(handle);
    if (this.#closed || !(kind.startsWith(DEVICE) || kind === 'MappedRegion')) return;
    this.#findings.add({
      kind: 'use-after-dispose',
      message: `the ${kind} was used after it was disposed`,
      device: deviceOf(handle) ?? null,
      stacks: given({ call: new Stack().text, dispose: this.#disposed.get(handle)?.text }),
    });
  }

  #spaceEnds(history: History, stack: Stack): void {
    const live = history.live;
    for (const { iova, length, memory, mapped } of live) {
      const forgotten = memory !== undefined && !this.#disposedBuffers.has(memory.pages);
      this.#findings.add({
        kind: 'left-at-close',
        message: `${rangeText({ iova, length })} was still mapped when its address space ended${forgotten ? ', and its DmaBuffer was not disposed' : ''}`,
        device: null,
        iova,
        length,
        stacks: { map: mapped.text, dispose: stack.text },
      });
    }
    this.#end(history, live, stack);
  }

  #end(history: History, records: readonly Record[], stack: Stack): void {
    const time = now();
    for (const each of records) {
      history.end(each, stack, time);
      if (each.memory === undefined) continue;
      const others = this.#byPages.get(each.memory.pages);
      others?.delete(each);
      if (this.#forbidden.get(each.memory.address) === each) this.#allow(each);
    }
  }

  #allow(record: Record): void {
    const { address, pages } = record.memory as { address: number; pages: object };
    this.#forbidden.delete(address);
    if (this.#closed) return;
    // Another mapping of the same memory may be left.
    const other = [...(this.#byPages.get(pages) ?? [])].find((each) => each.memory?.address === address);
    this.#ask((host) => host.forbidDma(BigInt(address), other?.length ?? 0n));
    if (other !== undefined) this.#forbidden.set(address, other);
  }

  // ---------------------------------------------------------------- what the machine has seen

  /** The driver has changed what it had given to this device. */
  changed(bdf: string, { iova, pasid, before, after, owned, since }: OwnedChange): void {
    if (this.#closed) return;
    const length = BigInt(after.length);
    const place = { kind: 'fault', bdf, iova, length, write: false, pasid, reason: '', time: since } as const;
    this.#findings.add({
      kind: 'changed-while-owned',
      message: changeText(bdf, iova, before, after, owned),
      device: bdf,
      iova,
      length,
      write: false,
      pasid,
      mapping: owned,
      stacks: given({ map: this.#recordAt(place)?.mapped.text, doorbell: this.#doorbell(place) }),
    });
  }

  #judge(incident: NativeIncident): void {
    const found = this.#foundOf(incident);
    if (found !== undefined) this.#findings.add(found);
  }

  #doorbell({ bdf, time }: NativeIncident): string | undefined {
    return (this.#doorbells.get(bdf) ?? this.#doorbells.get(null))?.before(time);
  }

  /** Where the device was reset, if the driver has made only one store to its registers since. */
  #newlyReset({ bdf, time }: NativeIncident): Stack | undefined {
    const reset = this.#resets.get(bdf) ?? this.#resets.get(null);
    const doorbells = this.#doorbells.get(bdf) ?? this.#doorbells.get(null);
    if (reset === undefined || reset.time > time) return undefined;
    return doorbells?.between(reset.time, time) === 1 ? reset.stack : undefined;
  }

  /** The last change of what translates accesses like this one; undefined: none is known. */
  #attachment({ bdf, pasid, time }: NativeIncident): Attachment | undefined {
    const changes = this.#attachments.get(`${bdf}/${pasid ?? ''}`) ?? [];
    return changes.findLast((each) => each.time <= time);
  }

  /** The histories of the space that translates the access; those of all spaces, if it is unknown. */
  #historiesFor(incident: NativeIncident): readonly History[] {
    const chain = (handle: Handle): readonly History[] => {
      const own = this.#histories.get(handle);
      return own === undefined ? parentsOf(handle).flatMap(chain) : [own];
    };
    const space = this.#attachment(incident)?.space?.deref();
    const known = space === undefined ? [] : chain(space);
    return known.length === 0 ? this.#all : known;
  }

  #recordAt(incident: NativeIncident): Record | undefined {
    return this.#historiesFor(incident)
      .flatMap((each) => each.at(incident.iova, incident.time) ?? [])
      .reduce<Record | undefined>(
        (best, each) =>
          best === undefined || (best.until !== undefined && (each.until ?? each.from) > best.until)
            ? each
            : best,
        undefined,
      );
  }

  #foundOf(incident: NativeIncident): Found | undefined {
    const { kind, bdf, iova, length, write, pasid, reason, time } = incident;
    if (kind === 'interrupt') {
      const vector = Number(iova);
      return {
        kind: 'lost-interrupt',
        message: `${bdf} raised interrupt ${vector}, and nobody hears of it: ${reason}`,
        device: bdf,
        vector,
        stacks: given({ doorbell: this.#doorbell(incident) }),
      };
    }
    if (length === 0n) return undefined; // the host could do no work: no mistake of the driver's
    const doorbell = this.#doorbell(incident);
    const access = { device: bdf, iova, length, write, pasid };
    const record = this.#recordAt(incident);
    if (kind === 'disposed')
      return {
        ...access,
        kind: 'disposed-buffer',
        message: `${accessText(incident, false)}, whose DmaBuffer was disposed before`,
        mapping: record === undefined ? null : { iova: record.iova, length: record.length },
        stacks: given({
          map: record?.mapped.text,
          dispose: record?.memory && this.#disposedBuffers.get(record.memory.pages)?.text,
          doorbell,
        }),
      };
    if (kind === 'overlap')
      return {
        ...access,
        kind: 'overlapping-writes',
        other: reason,
        message: `${accessText(incident, false)}, where ${reason} wrote after the last store to a register of ${bdf}: both may write there at once`,
        stacks: given({ map: record?.mapped.text, doorbell }),
      };
    if (kind === 'after-reset') {
      const reset = this.#resets.get(bdf) ?? this.#resets.get(null);
      return {
        ...access,
        kind: 'after-reset',
        message: `${accessText(incident, false)}, though the driver has written to no register of it since its reset`,
        stacks: given({ reset: reset !== undefined && reset.time <= time ? reset.stack.text : undefined }),
      };
    }
    return this.#faultOf(incident, access, record, doorbell);
  }

  #faultOf(
    incident: NativeIncident,
    access: { device: string; iova: bigint; length: bigint; write: boolean; pasid: number | null },
    record: Record | undefined,
    doorbell: string | undefined,
  ): Found {
    const { reason, iova, time, write, pasid, bdf } = incident;
    const tried = accessText(incident, true);
    switch (reason) {
      case 'not mapped': {
        if (record !== undefined)
          return {
            ...access,
            kind: 'use-after-unmap',
            message: `${tried}, byte ${iova - record.iova} of ${rangeText(record)}, which was unmapped before`,
            mapping: { iova: record.iova, length: record.length },
            stacks: given({ map: record.mapped.text, unmap: record.unmapped?.text, doorbell }),
          };
        const alive = this.#historiesFor(incident).flatMap((each) => each.alive(time));
        const nearest = nearestOf(iova, alive);
        const [first] = nearest;
        const where = first === undefined ? 'nothing is mapped' : `it is ${besideText(iova, first)}`;
        const reset = this.#newlyReset(incident);
        const guess = reset === undefined ? guessOf(iova, alive) : RESET_GUESS;
        const near = alive.find((each) => each.iova === first?.iova);
        return {
          ...access,
          kind: 'unmapped',
          message: `${tried}, where nothing is mapped: ${where}${guess === undefined ? '' : `; ${guess}`}`,
          nearest,
          stacks: given({ map: near?.mapped.text, reset: reset?.text, doorbell }),
        };
      }
      case 'not writable':
      case 'not readable':
        return {
          ...access,
          kind: 'permission',
          message: `${tried}, in memory that is mapped without ${write ? 'write' : 'read'}`,
          stacks: given({ map: record?.mapped.text, doorbell }),
        };
      case 'blocked':
      case 'no address space for this PASID': {
        const last = this.#attachment(incident);
        const detached = last !== undefined && last.space === undefined;
        const before = detached
          ? this.#attachments.get(`${bdf}/${pasid ?? ''}`)?.findLast((each) => each.time < last.time)
          : undefined;
        return {
          ...access,
          kind: 'not-attached',
          message: `${tried}, but it is ${detached ? 'not attached to an address space any more' : 'attached to no address space'}`,
          stacks: given({ map: before?.stack.text, unmap: detached ? last.stack.text : undefined, doorbell }),
        };
      }
      case 'bus mastering is off':
        return {
          ...access,
          kind: 'bus-master',
          message: `${tried}${iova === MESSAGE && write ? ' (a message-signalled interrupt)' : ''}, but its bus mastering is off: set device.config.busMaster first`,
          stacks: given({ doorbell }),
        };
      default:
        return {
          ...access,
          kind: 'refused',
          message: `${tried} (${hex(iova)}): ${reason}`,
          stacks: given({ map: record?.mapped.text, doorbell }),
        };
    }
  }
}

const RESET_GUESS =
  'possible: the device was not set up again after its reset, since when the driver has made one store to its registers';
/** Where devices write their interrupts on PCs. */
const MESSAGE = 0xfee00000n;
