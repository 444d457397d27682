/**
 * A PCI device that is written in TypeScript: the model behind a device of the software host.
 *
 * Life: the program makes it and plugs it in with `host.software.addDevice`. It belongs to the thread that plugged it in. When
 * it is unplugged or its host ends, its DMA and its interrupts do nothing any more; it can't be plugged in again.
 *
 * Its functions are called while a driver waits for the access: in the middle of the driver's call if that is in the same
 * thread, else between two turns of the event loop. Work that takes time is begun there and goes on by itself: an async
 * function, `post`, a timer. An exception is an error of the device: it is reported, and the access goes on without it.
 */

import type { NativeHost, NativePort } from '../addon/native.ts';
import { integer, refusal, type U64Like } from '../base/check.ts';
import { later } from '../base/later.ts';
import { OURS } from '../base/private.ts';
import type { RegisterFile } from '../registers/register-bank.ts';
import type { RegisterWidth } from '../registers/register-map.ts';
import { access, onTheBus, type Requester, range } from './arguments.ts';
import { type DeviceIdentity, describe, type SimulatedBar, type VirtualFunctions } from './description.ts';
import { DmaError } from './dma-error.ts';
import { Doorbell, type DoorbellWrite } from './doorbell.ts';
import { type OwnedChange, Ownership } from './ownership.ts';
import { deadlockError, within } from './patience.ts';

/** An error that a model threw. */
export interface DeviceError {
  /**
   * What threw, or rejected later: 'onPlug', 'onRead', 'onWrite', 'onReset', 'onRemove', or 'post', a job; 'access': an access
   * could not be made.
   */
  readonly during: string;
  readonly error: unknown;
}

/**
 * What resets a device: 'flr' the function alone (also when a driver opens or closes the device), 'bus' all that is on its bus.
 */
export type ResetKind = 'flr' | 'bus';

const KINDS: readonly ResetKind[] = ['flr', 'bus'];

/** Where a model is plugged in. */
export interface Slot {
  readonly host: NativeHost;
  /** The options of a topology's device. They go before what the model says. */
  readonly place: object;
  /** Makes the text of a topology's device. */
  text(device: object): string;
  /** Has the device unplugged as soon as nobody has it open. */
  eject(): void;
  /** Is told of memory that the device owned and its driver changed; undefined: nobody wants to know. */
  readonly changed: ((change: OwnedChange) => void) | undefined;
}

/** @internal Plugs a model in. */
export let plugSimulated: (device: SimulatedDevice, slot: Slot) => void;

/** @internal Whether the constructor of SimulatedDevice made this value. */
export let isSimulated: (value: unknown) => value is SimulatedDevice;

/** The devices of this thread that are plugged in: they are told when the thread ends. */
const plugged = new Set<SimulatedDevice>();
let endOf: (device: SimulatedDevice) => void;

/**
 * Another thread that waits for a model can't be stopped, and Node stops the workers of a thread before it frees anything: so
 * the waits end before that.
 */
function endAll(): void {
  for (const each of plugged) endOf(each);
}

/** How a transfer ended. `bytes`: what a read brought. */
interface Moved {
  readonly whole: boolean;
  readonly bytes: Uint8Array;
}

/** A transfer that the device's reset or removal dropped. */
const DROPPED: Moved = { whole: false, bytes: new Uint8Array(0) };

/** Errors that are kept for `errors`, so that a model that fails at each access fills no memory. */
const MOST_ERRORS = 1000;

/**
 * A PCI device written in TypeScript, for testing a driver without hardware.
 *
 * ```ts
 * class Adder extends SimulatedDevice {
 *   readonly identity = { vendor: 0x1af4, device: 0x10f0, classCode: 0xff0000 };
 *   override readonly bars = [{ size: 4096 }];
 *   #sum = 0;
 *   override onRead() { return this.#sum; }
 *   override onWrite(bar: number, offset: number, width: number, value: bigint) {
 *     this.#sum = (this.#sum + Number(value)) >>> 0;
 *     this.interrupt(0);
 *   }
 * }
 * host.software.addDevice('0000:00:1c.0', new Adder());
 * ```
 */
export abstract class SimulatedDevice {
  #port: NativePort | undefined;
  #state: 'new' | 'plugged' | 'removed' = 'new';
  #eject: () => void = () => {};
  #patience: number | undefined;
  /** Undefined: the host has no sanitizer, or the device is not plugged in. */
  #owned: Ownership | undefined;
  #banks: readonly (RegisterFile | undefined)[] = [];
  #hasMemory: readonly boolean[] = [];
  readonly #memory: Uint8Array[] = [];
  readonly #errors: DeviceError[] = [];
  /** What waits for the host, by number: jobs until they are due, transfers until they have ended. */
  #last = 0;
  readonly #jobs = new Map<number, () => unknown>();
  readonly #transfers = new Map<number, (moved: Moved) => void>();
  readonly #doorbells = new Map<number, Set<Doorbell>>();

  static {
    isSimulated = (value): value is SimulatedDevice =>
      typeof value === 'object' && value !== null && #port in value;
    endOf = (device) => device.#port?.end();
    plugSimulated = (device, slot) => device.#plug(slot);
  }

  /** What the device is. Read once, when it is plugged in; so are the other descriptions. */
  abstract readonly identity: DeviceIdentity;
  /** Its BARs, at most 6; null: none in that place. Default: none. */
  readonly bars: readonly (SimulatedBar | null)[] = [];
  /** How many MSI vectors it has: a power of two up to 32. Default: none. */
  readonly msi: number = 0;
  /** How many MSI-X vectors it has, up to 2048. Their table is at the end of the last memory BAR. Default: none. */
  readonly msix: number = 0;
  /** Whether it has an INTx pin (INTA). Default: false. */
  readonly pin: boolean = false;
  /** Whether it is a PCI Express device. Default: false. */
  readonly express: boolean = false;
  /** Whether it has a function-level reset; needs `express`. Default: false. */
  readonly functionReset: boolean = false;
  /** Whether it has power management: in D3hot it answers no access to its BARs and does no DMA. Default: false. */
  readonly power: boolean = false;
  /** The width of its PASIDs in bits, 0 to 20; default 0: none. An option of `addDevice` goes before it. */
  readonly pasidBits: number = 0;
  /** Whether it can request pages that are not mapped (ATS and PRI, if it is `express`). Default: false. */
  readonly pageRequests: boolean = false;
  /** Its vendor-specific capabilities, at most 8: the bytes of each behind the byte of its length. Default: none. */
  readonly vendorSpecific: readonly Uint8Array[] = [];
  /** The virtual functions (SR-IOV) that it can have; needs `express`. Default: none. */
  readonly sriov: VirtualFunctions | undefined = undefined;

  /**
   * How many milliseconds one of its functions may run before it is stopped, as an error of the device: a model that loops for
   * ever does not hang its thread then. What an async function does after its first wait is not limited. It costs some 0.1 ms
   * for each call. Default: no limit.
   */
  readonly patience: number | undefined = undefined;

  /**
   * A load by a driver from a place that no register of `bars` has: `offset` in bytes from the start of the BAR, a multiple of
   * `width`. Returns the value; bits above the width are cut off. Default: 0.
   */
  onRead?(bar: number, offset: number, width: RegisterWidth): bigint | number;
  /** A store by a driver to such a place. If it is async, the store is answered when it first waits. */
  onWrite?(bar: number, offset: number, width: RegisterWidth, value: bigint): void | Promise<void>;
  /** A reset of the function. The registers of `bars` have their reset values already. Until it returns, DMA, interrupts and
   * `post` do nothing. */
  onReset?(kind: ResetKind): void | Promise<void>;
  /** It was plugged in. An async loop over doorbells can be here: it may go on until the removal. */
  onPlug?(): void | Promise<void>;
  /** The device was unplugged, or its host ended. */
  onRemove?(): void | Promise<void>;

  /** Whether it is plugged in. It is told of its removal between two turns of the event loop. */
  get plugged(): boolean {
    return this.#state === 'plugged';
  }

  /** What the model threw so far, oldest first; at most 1,000. */
  get errors(): readonly DeviceError[] {
    return [...this.#errors];
  }

  /**
   * Reads memory as the device: through the IOMMU, at an address that the driver gave it.
   *
   * @throws {DmaError} not all bytes arrived: nothing is mapped there, bus mastering is off, the device is in reset or was
   * unplugged. Bytes before the fault are in `into`.
   */
  protected dmaRead(iova: U64Like, into: Uint8Array, o?: { pasid?: number }): void {
    this.#move(false, iova, into, o);
  }

  /**
   * Writes memory as the device.
   *
   * @throws {DmaError} as {@link dmaRead}.
   */
  protected dmaWrite(iova: U64Like, from: Uint8Array, o?: { pasid?: number }): void {
    this.#move(true, iova, from, o);
  }

  /**
   * Reads memory as the device, and waits for pages that are missing: with `pageRequests`, behind an IOMMU that takes page
   * requests, for an address space with a fault queue, the device asks for them. Else it is as {@link dmaRead}. `into` gets the
   * bytes at the end; bytes that did not arrive are 0.
   *
   * The promise rejects with a DmaError as dmaRead throws it, and when the device is reset or removed meanwhile. A pending one
   * does not keep the process alive: a driver that waits for an interrupt does.
   *
   * With a PASID, page requests can also ask to `execute`, or as the supervisor (`privileged`), as the bits of a PASID prefix on the
   * bus do (PCIe 6.20). Page tables do not look at this, only who handles the requests does: shared virtual addressing refuses to
   * execute where the process may not; VT-d refuses to execute and read, and each privileged request.
   */
  protected dmaReadAsync(
    iova: U64Like,
    into: Uint8Array,
    o?: { pasid?: number; execute?: boolean; privileged?: boolean },
  ): Promise<void> {
    return seen(this.#moveLater(false, iova, into, o));
  }

  /** Writes memory as the device, and waits as {@link dmaReadAsync}. The bytes are those that `from` has at the call. */
  protected dmaWriteAsync(
    iova: U64Like,
    from: Uint8Array,
    o?: { pasid?: number; privileged?: boolean },
  ): Promise<void> {
    return seen(this.#moveLater(true, iova, from, o));
  }

  /**
   * Tells the host's sanitizer that the driver has given this memory to the device: descriptors, when their doorbell is rung. The
   * device reads it now. At each access of the device to it, and at {@link release}, the sanitizer looks whether the driver has
   * changed it since: `changed-while-owned`. What the device writes itself is no change; memory that it writes by
   * {@link dmaWriteAsync} is given back, without a look. Nothing happens where no sanitizer is on. A reset and the removal give
   * all memory back.
   */
  protected own(iova: U64Like, length: number, o?: { pasid?: number }): void {
    const { address, size, pasid } = range(iova, length, o);
    this.#owned?.take(address, size, pasid);
  }

  /** Gives memory that the device owned back to the driver, after a last look: see {@link own}. */
  protected release(iova: U64Like, length: number, o?: { pasid?: number }): void {
    const { address, size, pasid } = range(iova, length, o);
    this.#owned?.give(address, size, pasid);
  }

  /**
   * Raises a message-signalled interrupt (MSI or MSI-X). False: nobody hears of it, since the driver has turned messages off,
   * or the device is in reset or unplugged.
   */
  protected interrupt(vector: number): boolean {
    const last = Math.max(this.msi, this.msix, 1) - 1;
    const which = integer(vector, 'vector', 0, last);
    return this.#port?.message(which) ?? false;
  }

  /** Sets the level of the INTx pin. */
  protected setLine(asserted: boolean): void {
    if (typeof asserted !== 'boolean') throw refusal('a boolean', 'asserted', asserted);
    this.#port?.line(asserted);
  }

  /** Whether the driver has turned messages (MSI or MSI-X) on. */
  protected get messagesEnabled(): boolean {
    return this.#port?.messagesEnabled() ?? false;
  }

  /**
   * The memory of a BAR that has `memory` or `areas`: all bytes of the BAR, which the driver reads and writes as well. Bytes
   * outside the areas are nobody's. The array stays usable when the device is unplugged.
   *
   * @throws {TypeError} the BAR has no memory, or the device is not plugged in.
   */
  protected memory(bar: number): Uint8Array {
    integer(bar, 'bar', 0, 5);
    if (this.#state === 'plugged' && this.#hasMemory[bar] !== true)
      throw refusal('a BAR with memory', 'bar', bar);
    const kept = this.#memory[bar];
    if (this.#state === 'plugged' && kept !== undefined && kept.length > 0) return kept;
    const buffer = this.#port?.memory(bar);
    if (buffer === undefined) throw this.#absent();
    this.#memory[bar] = new Uint8Array(buffer);
    return this.#memory[bar];
  }

  /**
   * Runs `job` in the model's thread, at least `delayMs` milliseconds later (default 0; fractions count), and not in the middle
   * of anything. A reset or the removal drops it. If it throws, or is async and rejects, that is an error of the device. It does
   * not keep the program running.
   *
   * @throws {TypeError} the device is not plugged in, or in reset.
   */
  protected post(job: () => void | Promise<void>, delayMs = 0): void {
    if (typeof job !== 'function') throw refusal('a function', 'job', job);
    if (typeof delayMs !== 'number' || !(delayMs >= 0 && delayMs <= MOST_DELAY))
      throw refusal(`milliseconds from 0 to ${MOST_DELAY}`, 'delayMs', delayMs);
    const id = ++this.#last;
    this.#jobs.set(id, job);
    if (this.#port?.post(id, Math.round(delayMs * 1000)) === true) return;
    this.#jobs.delete(id);
    throw this.#absent();
  }

  /**
   * The stores of drivers to one register, from now on: `for await (const write of this.doorbell(0, 0x10))`. `offset` is where
   * the store begins. The register's own handler, or `onWrite`, has run before. A reset drops the stores that the loop has not
   * taken; the loop ends at the removal. An error in the loop is one of the function that has the loop: `onPlug` is the place.
   */
  protected doorbell(bar: number, offset: number): AsyncIterableIterator<DoorbellWrite> {
    const key = place(integer(bar, 'bar', 0, 5), integer(offset, 'offset', 0, 2 ** 40 - 1));
    const doorbell: Doorbell = new Doorbell({
      hold: () => this.#port?.hold(),
      release: () => this.#port?.release(),
      left: (each) => void this.#doorbells.get(key)?.delete(each),
    });
    if (this.#state === 'removed') {
      doorbell.end();
      return doorbell;
    }
    const others = this.#doorbells.get(key);
    if (others) others.add(doorbell);
    else this.#doorbells.set(key, new Set([doorbell]));
    return doorbell;
  }

  /**
   * Takes the device off the bus without a word, as when a card is pulled: loads give all ones, stores go nowhere, DMA and
   * interrupts do nothing. Memory that a driver has mapped stays as it is. The driver gets its REQ interrupt, and the host
   * forgets the device when nobody has it open.
   */
  protected remove(): void {
    if (this.#port?.vanish() !== true) throw this.#absent();
    this.#memory.length = 0;
    this.#eject();
  }

  #absent(): Error {
    return refusal('a device that is plugged in and not in reset', 'device', this);
  }

  #move(write: boolean, iova: U64Like, bytes: Uint8Array, o: { pasid?: number } | undefined): void {
    const { address, length, pasid } = access(write ? 'dmaWrite' : 'dmaRead', iova, bytes, o);
    const port = this.#port;
    this.#owned?.check(address, length, pasid);
    const moved = write ? port?.dmaWrite(address, bytes, pasid) : port?.dmaRead(address, bytes, pasid);
    if (write && moved === true) this.#owned?.wrote(address, length, pasid);
    else if (write) this.#owned?.drop(address, length, pasid); // nobody knows which bytes arrived
    if (moved !== true) throw new DmaError(OURS, address, length, write, pasid);
  }

  async #moveLater(
    write: boolean,
    iova: U64Like,
    bytes: Uint8Array,
    o: Requester | undefined,
  ): Promise<void> {
    const call = write ? 'dmaWriteAsync' : 'dmaReadAsync';
    const { address, length, pasid, execute, privileged } = access(call, iova, bytes, o);
    const port = this.#port;
    this.#owned?.check(address, length, pasid);
    // Nobody knows when the bytes arrive.
    if (write) this.#owned?.drop(address, length, pasid);
    const id = ++this.#last;
    const ended = new Promise<Moved>((resolve) => this.#transfers.set(id, resolve));
    const begun = write
      ? port?.startWrite(id, address, bytes, pasid, execute, privileged)
      : port?.startRead(id, address, length, pasid, execute, privileged);
    if (begun !== true) this.#moved(id, DROPPED);
    const moved = await ended;
    if (!write && moved.bytes.length > 0) {
      if (bytes.length !== length) throw refusal('an array that keeps its length', 'into', bytes);
      bytes.set(moved.bytes);
    }
    if (!moved.whole) throw new DmaError(OURS, address, length, write, pasid);
  }

  #moved(id: number, moved: Moved): void {
    this.#transfers.get(id)?.(moved);
    this.#transfers.delete(id);
  }

  #plug({ host, place, text, eject, changed }: Slot): void {
    const { device, banks, memory } = describe(this);
    const { patience } = this;
    // A getter of the program may have plugged it in meanwhile.
    if (this.#state !== 'new') throw refusal('a device that was never plugged in', 'device', 'one that was');
    if (patience !== undefined) integer(patience, 'patience', 1, MOST_DELAY);
    this.#patience = patience;
    this.#banks = banks;
    this.#hasMemory = memory;
    this.#eject = eject;
    const port = host.plugSimulated(text({ ...device, ...place }), {
      read: (bar, offset, width) =>
        this.#guarded('onRead', () =>
          onTheBus(banks[bar]?.read(offset, width) ?? this.onRead?.(bar, offset, width) ?? 0),
        ),
      write: (bar, offset, width, value) => {
        this.#guarded('onWrite', () => this.#store(bar, offset, width, value));
        if (this.#doorbells.size !== 0) this.#ring(bar, offset, width, value);
      },
      reset: (kind) => this.#guarded('onReset', () => this.#reset(KINDS[kind] ?? 'flr')),
      removed: () => {
        if (this.#state !== 'plugged') return; // it could not be plugged in after all
        this.#state = 'removed';
        plugged.delete(this);
        if (plugged.size === 0) process.off('exit', endAll);
        this.#drop();
        for (const each of this.#doorbells.values()) for (const doorbell of each) doorbell.end();
        this.#doorbells.clear();
        this.#guarded('onRemove', () => this.#late('onRemove', this.onRemove?.()));
      },
      lost: (...deadlock) => this.#record('access', deadlockError(...deadlock)),
      run: (id) => {
        const job = this.#jobs.get(id);
        this.#jobs.delete(id);
        if (job) this.#guarded('post', () => this.#late('post', job()));
      },
      moved: (id, whole, bytes) => this.#moved(id, { whole, bytes }),
    });
    this.#port = port;
    if (changed !== undefined)
      this.#owned = new Ownership({
        read: (iova, into, pasid) => port.peek(iova, into, pasid),
        changed,
      });
    this.#state = 'plugged';
    if (plugged.size === 0) process.on('exit', endAll);
    plugged.add(this);
    this.#guarded('onPlug', () => {
      later(this.onPlug?.())?.catch((error: unknown) => this.#record('onPlug', error));
    });
  }

  #store(bar: number, offset: number, width: RegisterWidth, value: bigint | number): void {
    const found = this.#banks[bar]?.write(offset, width, value) ?? false;
    this.#late('onWrite', found === false ? this.onWrite?.(bar, offset, width, BigInt(value)) : found);
  }

  #ring(bar: number, offset: number, width: RegisterWidth, value: bigint | number): void {
    for (const doorbell of this.#doorbells.get(place(bar, offset)) ?? [])
      doorbell.ring({ bar, offset, width, value: BigInt(value) });
  }

  #reset(kind: ResetKind): void {
    this.#drop();
    for (const each of this.#doorbells.values()) for (const doorbell of each) doorbell.reset();
    for (const bank of this.#banks) bank?.reset();
    this.#late('onReset', this.onReset?.(kind));
  }

  /** Drops the work under way. */
  #drop(): void {
    this.#jobs.clear();
    this.#owned?.clear();
    for (const id of [...this.#transfers.keys()]) this.#moved(id, DROPPED);
  }

  /** What a function of the model does later: `settle` waits for it, and its rejection is an error of the device. */
  #late(during: string, result: unknown): void {
    const promise = later(result);
    if (promise === undefined) return;
    const port = this.#port;
    port?.hold();
    promise.catch((error: unknown) => this.#record(during, error)).then(() => port?.release());
  }

  /** Undefined: the model threw, or was stopped. */
  #guarded<T>(during: string, call: () => T): T | undefined {
    try {
      return this.#patience === undefined ? call() : within(this.#patience, during, call);
    } catch (error) {
      this.#record(during, error);
      return undefined;
    }
  }

  #record(during: string, error: unknown): void {
    if (this.#errors.length < MOST_ERRORS) this.#errors.push({ during, error });
  }
}

/** A day: what `post` waits at most and a function may run, in milliseconds. */
const MOST_DELAY = 86_400_000;

/** A place in the BARs as one number. */
const place = (bar: number, offset: number) => bar * 2 ** 40 + offset;

/** The promise of a transfer. A model that looks away from it is told of a fault by the fault log of the host alone. */
function seen(transfer: Promise<void>): Promise<void> {
  transfer.catch(() => {});
  return transfer;
}
