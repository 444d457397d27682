/**
 * Interrupts. An Irq is one kind of interrupt of a device (INTx, MSI, MSI-X, ERR, REQ) and lives as long as the device. Enabling
 * it makes Interrupts: handles of eventfds that the kernel signals.
 *
 * Life of an Interrupt: from enable() until it is disposed, its Irq is disabled or enabled again, or the device is closed. The
 * event loop polls the eventfd: there is no thread and no timer. Only a pending wait() keeps the process alive.
 */

import type { NativeIrqInfo } from '../addon/files.ts';
import { type NativeEventFd, native } from '../addon/native.ts';
import { integer, options, refusal, type Signal, type U64Like } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, disposedError, fileOf, Handle } from '../handles/handle.ts';
import type { IommufdDevice } from '../handles/iommufd-file.ts';
import { Waiters } from '../handles/waiters.ts';

/** Disconnects the vector of an Interrupt that was disposed. */
let disconnect: (irq: Irq, interrupt: Interrupt) => void;

/** Removes an Interrupt from the list of its Irq. */
let forget: (irq: Irq, interrupt: Interrupt) => void;

/** Disposes an Interrupt whose eventfd is no longer connected, so without a call of the kernel. */
let abandon: (interrupt: Interrupt) => void;

/** An array of N interrupts: a tuple of that length if N is a literal up to 32. */
export type Interrupts<N extends number> = N extends number
  ? number extends N
    ? Interrupt[]
    : Counted<N>
  : never;
type Counted<N extends number, T extends Interrupt[] = []> = T['length'] extends N
  ? T
  : T['length'] extends 32
    ? Interrupt[]
    : Counted<N, [...T, Interrupt]>;

/** One kind of interrupt of a device. */
export class Irq {
  /** Its number: 0 INTx, 1 MSI, 2 MSI-X, 3 ERR, 4 REQ. */
  readonly index: number;
  readonly #device: IommufdDevice;
  readonly #info: NativeIrqInfo;
  readonly #live = new Set<Interrupt>();

  static {
    forget = (irq, interrupt) => {
      irq.#live.delete(interrupt);
    };
    disconnect = (irq, interrupt) => {
      if (!irq.#live.delete(interrupt) || irq.#device.disposed) return;
      try {
        if (irq.#live.size === 0) fileOf(irq.#device).setIrqs(irq.index, 0, 0, 'trigger');
        else fileOf(irq.#device).setIrqEventfds(irq.index, interrupt.vector, 'trigger', Int32Array.of(-1));
      } catch (error) {
        // Another handle of the device may have disabled it already. Disposing never fails.
        if (!(error instanceof VfioError)) throw error;
      }
    };
  }

  constructor(key: typeof OURS, device: IommufdDevice, index: number, info: NativeIrqInfo) {
    ours(key, 'Irq');
    this.index = index;
    this.#device = device;
    this.#info = info;
  }

  /** How many vectors of this kind the device has; 0: none. */
  get count(): number {
    return this.#info.count;
  }
  /** Whether it can be masked and unmasked (INTx). */
  get maskable(): boolean {
    return this.#info.maskable;
  }
  /** Whether the kernel masks it each time it fires, so that it must be unmasked afterwards (INTx). */
  get automasked(): boolean {
    return this.#info.automasked;
  }
  /** Whether vectors can be added while some are enabled. */
  get resizable(): boolean {
    return this.#info.resizable;
  }

  /**
   * Connects vectors `start` to `start + vectors - 1` to new eventfds (VFIO_DEVICE_SET_IRQS) and returns an Interrupt
   * for each. Default: all from `start` on.
   *
   * @throws {VfioError} EINVAL another kind is enabled on this device, or the kind is not resizable and fewer vectors are
   * enabled already; ENOSPC the kernel can give fewer vectors only (`reason` says how many).
   */
  enable<N extends number>(vectors: N, o?: { start?: number }): Interrupts<N>;
  /** All vectors from `start` on, or a number of them that is known only at run time. */
  enable(vectors?: number, o?: { start?: number }): Interrupt[];
  enable(vectors?: number, o?: { start?: number }): Interrupt[] {
    const start = integer(options(o, 'options').start ?? 0, 'start', 0, Math.max(0, this.count - 1));
    if (this.count === 0) throw this.#absent();
    const count = integer(vectors ?? this.count - start, 'vectors', 1, this.count - start);
    const file = fileOf(this.#device);
    const made: Interrupt[] = [];
    try {
      for (let i = 0; i < count; i++) made.push(new Interrupt(OURS, this.#device, this, start + i));
      let had: number;
      try {
        had = file.setIrqEventfds(
          this.index,
          start,
          'trigger',
          Int32Array.from(made, (each) => each.eventfd),
        );
      } catch (error) {
        throw withWords(error, (failed) =>
          failed.code === 'EINVAL'
            ? {
                reason:
                  'another kind of interrupt is enabled on this device, or more vectors were asked than this kind allows to add',
              }
            : undefined,
        );
      }
      if (had > 0)
        throw new VfioError(28, {
          syscall: 'ioctl',
          request: 'VFIO_DEVICE_SET_IRQS',
          reason: `${count} vectors were asked but only ${had} can be had; none was enabled`,
        });
    } catch (error) {
      for (const each of made) abandon(each);
      throw error;
    }
    // These vectors are connected to new eventfds now: the Interrupts of the old ones end.
    for (const old of this.#live) if (old.vector >= start && old.vector < start + count) abandon(old);
    for (const each of made) this.#live.add(each);
    return made;
  }

  /** Disables all vectors of this kind. If none is enabled, nothing happens. */
  disable(): void {
    const file = fileOf(this.#device);
    try {
      file.setIrqs(this.index, 0, 0, 'trigger');
    } catch (error) {
      // EINVAL: no vector of this kind is enabled.
      if (!(error instanceof VfioError && error.code === 'EINVAL')) throw error;
    } finally {
      for (const each of [...this.#live]) abandon(each);
    }
  }

  /** Holds interrupts back. @throws {VfioError} ENOTTY this kind can't be masked. */
  mask(vector = 0): void {
    this.#act('mask', vector);
  }

  /** Lets interrupts through again. @throws {VfioError} ENOTTY this kind can't be masked. */
  unmask(vector = 0): void {
    this.#act('unmask', vector);
  }

  /** Signals the vector as if the device had fired it (for testing). @throws {VfioError} EINVAL it is not enabled. */
  trigger(vector = 0): void {
    this.#act('trigger', vector);
  }

  #act(action: 'mask' | 'unmask' | 'trigger', vector: number): void {
    if (this.count === 0) throw this.#absent();
    fileOf(this.#device).setIrqs(this.index, integer(vector, 'vector', 0, this.count - 1), 1, action);
  }

  #absent(): VfioError {
    return new VfioError(22, {
      syscall: 'ioctl',
      request: 'VFIO_DEVICE_SET_IRQS',
      reason: `the device has no interrupt of kind ${this.index}`,
    });
  }
}

/** One enabled vector: an eventfd that the kernel signals when it fires. */
export class Interrupt extends Handle implements AsyncIterable<bigint> {
  /** The number of the vector within its kind. */
  readonly vector: number;
  readonly #irq: Irq;
  readonly #event: NativeEventFd;
  readonly #waiters = new Waiters<bigint>('interrupt');
  readonly #listeners = new Set<(count: bigint) => void>();
  readonly #onReadable: (count: U64Like) => void;
  /** Firings that the event loop has read from the eventfd while nobody waited. */
  #noticed = 0n;

  static {
    abandon = (interrupt) => {
      forget(interrupt.#irq, interrupt);
      interrupt[Symbol.dispose]();
    };
  }

  constructor(key: typeof OURS, device: IommufdDevice, irq: Irq, vector: number) {
    ours(key, 'Interrupt');
    // The native object refers weakly to its callback while no wait is pending; this object refers to it strongly.
    const onReadable = (count: U64Like) => this.#fired(BigInt(count));
    const event = new native.EventFd(fileOf(device), onReadable);
    super(key, 'Interrupt', device, [event], (self: Interrupt) => self.#release());
    this.#onReadable = onReadable;
    this.#event = event;
    this.#irq = irq;
    this.vector = vector;
  }

  /** The eventfd. It belongs to this object: don't close it, nor read it while a wait is pending. */
  get eventfd(): number {
    alive(this);
    return this.#event.fd;
  }

  /**
   * Resolves with how many times the interrupt has fired since the last wait or poll: at least 1n. All pending waits resolve
   * with the same number. A pending wait keeps the process alive. Bad arguments and the use of a disposed interrupt throw at
   * once; they are not rejections.
   *
   * @throws {VfioError} ETIMEDOUT after `timeout` milliseconds; the signal's reason when it is aborted; code
   * ERR_VFIO_DISPOSED when the interrupt is disposed or disabled meanwhile.
   */
  wait(o?: { signal?: Signal; timeout?: number }): Promise<bigint> {
    alive(this);
    return this.#waiters.wait(
      o,
      () => this.#take() || undefined,
      () => this.#watch(),
    );
  }

  /** How many times it has fired since the last wait or poll, without waiting: 0n if it has not. */
  poll(): bigint {
    alive(this);
    return this.#take();
  }

  /** Calls `listener` each time the event loop finds that it has fired, with how many times. Does not keep the process alive. */
  on(event: 'interrupt', listener: (count: bigint) => void): this {
    alive(this);
    if (event !== 'interrupt') throw refusal("'interrupt'", 'event', event);
    if (typeof listener !== 'function') throw refusal('a function', 'listener', listener);
    this.#listeners.add(listener);
    this.#watch();
    return this;
  }

  /** Removes a listener. */
  off(event: 'interrupt', listener: (count: bigint) => void): this {
    if (event !== 'interrupt') throw refusal("'interrupt'", 'event', event);
    if (typeof listener !== 'function') throw refusal('a function', 'listener', listener);
    this.#listeners.delete(listener);
    if (!this.disposed) this.#watch();
    return this;
  }

  /** Ends when the interrupt is disposed. */
  async *[Symbol.asyncIterator](): AsyncIterator<bigint> {
    while (!this.disposed) {
      let count: bigint;
      try {
        count = await this.wait();
      } catch (error) {
        if (this.disposed) return;
        throw error;
      }
      yield count;
    }
  }

  /** The event loop read `count` from the eventfd. */
  #fired(count: bigint): void {
    if (this.#waiters.size + this.#listeners.size === 0) {
      this.#noticed += count;
      return;
    }
    // Pending waits are served before listeners: their promises settle while the listeners run.
    const waited = this.#waiters.size > 0;
    this.#waiters.serve(() => count);
    if (waited) this.#watch();
    for (const listener of this.#listeners) {
      try {
        listener(count);
      } catch (error) {
        // Becomes an uncaught exception, as in any callback, but after the other listeners were called.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  #release(): void {
    try {
      disconnect(this.#irq, this);
    } finally {
      this.#event.dispose();
      this.#listeners.clear();
      this.#waiters.fail(() => disposedError('Interrupt'));
      void this.#onReadable;
    }
  }

  /** Polls the eventfd while there is a wait or a listener; a wait keeps the event loop alive, a listener does not. */
  #watch(): void {
    if (this.#waiters.size + this.#listeners.size > 0) this.#event.watch(this.#waiters.size > 0);
    else this.#event.rest();
  }

  #take(): bigint {
    const count = this.#noticed + this.#event.take();
    this.#noticed = 0n;
    return count;
  }
}
