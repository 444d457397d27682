/**
 * A PCI device that is written in TypeScript: the model behind a device of the software host.
 *
 * Life: the program makes it and plugs it in with `host.software.addDevice`. It belongs to the thread that plugged it in. When
 * it is unplugged or its host ends, its DMA and its interrupts do nothing any more; it can't be plugged in again.
 *
 * Its functions are called while a driver waits for the access: in the middle of the driver's call if that is in the same
 * thread, else between two turns of the event loop. They are synchronous. Work that takes time is begun there and goes on by
 * itself (a timer, a promise). An exception is an error of the device: it is reported, and the access goes on without it.
 */

import type { NativeHost, NativePort } from '../addon/native.ts';
import { array, integer, known, plain, refusal, type U64Like, u64 } from '../base/check.ts';
import { OURS, ours } from '../base/private.ts';
import type { RegisterFile } from '../registers/register-bank.ts';
import type { RegisterWidth } from '../registers/register-map.ts';

/** What a device says that it is: its config space. */
export interface DeviceIdentity {
  /** 16 bits each; not 0xffff for the vendor. */
  readonly vendor: number;
  readonly device: number;
  /** 24 bits: class, subclass, interface. */
  readonly classCode: number;
  readonly subsystemVendor?: number;
  readonly subsystemDevice?: number;
  readonly revision?: number;
}

/** A BAR of a device. */
export interface SimulatedBar {
  /** Bytes: a power of two, at least 16. */
  readonly size: number;
  /** Default: `memory32`. After a `memory64` BAR the next place must be null. */
  readonly kind?: 'memory32' | 'memory64' | 'io';
  readonly prefetchable?: boolean;
  /** The registers in it. Accesses to no register go to `onRead` and `onWrite`. */
  readonly registers?: RegisterFile;
}

/** An error that a model threw. */
export interface DeviceError {
  /** Which function of the model threw: 'onRead', 'onWrite', 'onReset' or 'onRemove'; 'access': an access could not be made. */
  readonly during: string;
  readonly error: unknown;
}

/** A DMA access that did not move all of its bytes. The fault log of the host says why (`host.software.takeFaults()`). */
export class DmaError extends Error {
  readonly code = 'ERR_VFIO_DMA';
  readonly iova: bigint;
  readonly length: number;
  readonly write: boolean;
  readonly pasid: number | undefined;

  /** @internal */
  constructor(key: typeof OURS, iova: bigint, length: number, write: boolean, pasid: number | undefined) {
    ours(key, 'DmaError');
    const way = write ? 'write to' : 'read from';
    super(`The device's ${way} IOVA 0x${iova.toString(16)}, ${length} bytes, did not arrive`);
    this.name = 'DmaError';
    this.iova = iova;
    this.length = length;
    this.write = write;
    this.pasid = pasid;
  }
}

/** @internal Plugs a model in. `place`: the options of a topology's device; `text`: makes the text of it. */
export let plugSimulated: (
  device: SimulatedDevice,
  host: NativeHost,
  place: object,
  text: (device: object) => string,
) => void;

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
  readonly #errors: DeviceError[] = [];

  static {
    isSimulated = (value): value is SimulatedDevice =>
      typeof value === 'object' && value !== null && #port in value;
    endOf = (device) => device.#port?.end();
    plugSimulated = (device, host, place, text) => device.#plug(host, place, text);
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

  /**
   * A load by a driver from a place that no register of `bars` has: `offset` in bytes from the start of the BAR, a multiple of
   * `width`. Returns the value; bits above the width are cut off. Default: 0.
   */
  onRead?(bar: number, offset: number, width: RegisterWidth): bigint | number;
  /** A store by a driver to such a place. */
  onWrite?(bar: number, offset: number, width: RegisterWidth, value: bigint): void;
  /** A reset of the function. The registers of `bars` have their reset values already. Until it returns, DMA and interrupts
   * do nothing. */
  onReset?(): void;
  /** The device was unplugged, or its host ended. */
  onRemove?(): void;

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

  #move(write: boolean, iova: U64Like, bytes: Uint8Array, o: { pasid?: number } | undefined): void {
    const address = u64(iova, 'iova');
    const { pasid } = known(o, 'options', ['pasid']);
    if (!ArrayBuffer.isView(bytes) || !(bytes instanceof Uint8Array))
      throw refusal('a Uint8Array', write ? 'from' : 'into', bytes);
    if (pasid !== undefined) integer(pasid, 'pasid', 0, 0xfffff);
    const { length } = bytes; // 0 once a model has detached it
    const port = this.#port;
    const moved = write ? port?.dmaWrite(address, bytes, pasid) : port?.dmaRead(address, bytes, pasid);
    if (moved !== true) throw new DmaError(OURS, address, length, write, pasid);
  }

  #plug(host: NativeHost, place: object, text: (device: object) => string): void {
    if (this.#state !== 'new') throw refusal('a device that was never plugged in', 'device', 'one that was');
    const bars = array(this.bars, 'bars').map((bar, index) => {
      if (bar === null) return null;
      plain(bar, `bars[${index}]`);
      const given = known(bar, `bars[${index}]`, ['size', 'kind', 'prefetchable', 'registers']);
      const { registers } = given;
      if (registers !== undefined && !isRegisterFile(registers))
        throw refusal('an object with read, write and reset', `bars[${index}].registers`, registers);
      return given;
    });
    const banks = bars.map((bar) => bar?.registers);
    const description = {
      ...place,
      model: 'simulated',
      ...known(this.identity, 'identity', IDENTITY),
      bars: bars.map((bar) =>
        bar === null
          ? null
          : { kind: bar.kind ?? 'memory32', size: bar.size, prefetchable: bar.prefetchable ?? false },
      ),
      msi: this.msi,
      msix: this.msix,
      pin: this.pin,
      express: this.express,
      functionReset: this.functionReset,
    };
    const port = host.plugSimulated(text(description), {
      read: (bar, offset, width) =>
        this.#guarded('onRead', () =>
          onTheBus(banks[bar]?.read(offset, width) ?? this.onRead?.(bar, offset, width) ?? 0),
        ),
      write: (bar, offset, width, value) =>
        this.#guarded('onWrite', () => {
          if (banks[bar]?.write(offset, width, value) === true) return;
          this.onWrite?.(bar, offset, width, BigInt(value));
        }),
      reset: () =>
        this.#guarded('onReset', () => {
          for (const bank of banks) bank?.reset();
          this.onReset?.();
        }),
      removed: () => {
        if (this.#state !== 'plugged') return; // it could not be plugged in after all
        this.#state = 'removed';
        plugged.delete(this);
        if (plugged.size === 0) process.off('exit', endAll);
        this.#guarded('onRemove', () => this.onRemove?.());
      },
      lost: (what) => this.#record('access', new Error(what)),
    });
    this.#port = port;
    this.#state = 'plugged';
    if (plugged.size === 0) process.on('exit', endAll);
    plugged.add(this);
  }

  /** Undefined: the model threw. */
  #guarded<T>(during: string, call: () => T): T | undefined {
    try {
      return call();
    } catch (error) {
      this.#record(during, error);
      return undefined;
    }
  }

  #record(during: string, error: unknown): void {
    if (this.#errors.length < MOST_ERRORS) this.#errors.push({ during, error });
  }
}

const IDENTITY = ['vendor', 'device', 'classCode', 'subsystemVendor', 'subsystemDevice', 'revision'] as const;

function isRegisterFile(value: unknown): value is RegisterFile {
  if (typeof value !== 'object' || value === null) return false;
  const { read, write, reset } = value as Partial<RegisterFile>;
  return [read, write, reset].every((each) => typeof each === 'function');
}

/** A value that a model gave, as 64 bits of which the addon takes those of the access. */
function onTheBus(value: bigint | number): bigint | number {
  if (typeof value === 'bigint') return BigInt.asUintN(64, value);
  if (!Number.isSafeInteger(value)) return u64(value, 'what onRead returned');
  return value < 0 ? BigInt.asUintN(64, BigInt(value)) : value;
}
