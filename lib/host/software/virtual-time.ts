/** The time of a software host: real, or the program's. */
import { constants } from 'node:os';
import type { NativeHost } from '../../addon/native.ts';
import { VfioError } from '../../base/errors.ts';

/** Something that a device did, in virtual time. */
export interface TraceEntry {
  /** When, in milliseconds since the host was made. */
  readonly time: number;
  /** 'work': a piece of work that the device had put off; an interrupt is a message that left the device. */
  readonly what: 'work' | 'interrupt' | 'dma read' | 'dma write';
  /** The device's PCI address. */
  readonly device: string;
}

/** Virtual time, of a host that was opened with `deterministic`. On another one, these calls throw EOPNOTSUPP. */
export interface VirtualTime {
  /**
   * Does the next piece of the devices' work, and moves the clock to the time at which it was due. Returns false if no device
   * has work left.
   */
  step(): boolean;
  /**
   * Moves the clock by a number of milliseconds, and does all work that is due until then, in order. It does not return while a
   * device posts itself work without a delay again and again.
   */
  advance(milliseconds: number): void;
  /** What devices have done since the last call, oldest first: at most 1048576 entries. */
  takeTrace(): TraceEntry[];
}

/** @internal */
export function virtualTime(host: NativeHost, deterministic: boolean): VirtualTime {
  const virtual = <T>(syscall: string, call: () => T): T => {
    if (!deterministic)
      throw new VfioError(constants.errno.EOPNOTSUPP, {
        syscall,
        reason: "this host's time is real",
        hint: 'Open it with software: { deterministic: true }',
      });
    return call();
  };
  return {
    step: () => virtual('step', () => host.step()),
    advance: (milliseconds) => virtual('advance', () => host.advance(milliseconds)),
    takeTrace: () => virtual('takeTrace', () => host.takeTrace()),
  };
}
