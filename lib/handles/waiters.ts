/**
 * Pending waits for an interrupt or a record. A wait ends when it gets a value, when its timeout passes, when its signal is
 * aborted, or when the handle is disposed.
 *
 * Life of a waiter: made by `wait`; its timer and its listener are removed when the wait ends.
 */
import { integer, options, refusal, type Signal } from '../base/check.ts';
import { VfioError } from '../base/errors.ts';
import { ownOf } from '../base/own.ts';

/** How long to wait, and what ends it. */
export interface WaitOptions {
  readonly signal?: Signal;
  /** Milliseconds. */
  readonly timeout?: number;
}

interface Waiter<T> {
  resolve(value: T): void;
  reject(error: unknown): void;
  stop(): void;
}

/** The pending waits, served in the order in which they began. */
export class Waiters<T> {
  readonly #waiting = new Set<Waiter<T>>();
  readonly #what: string;

  /** `what`: the name of the thing that is waited for, such as 'record'. */
  constructor(what: string) {
    this.#what = what;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /**
   * Waits for a value. Throws if the options are bad. `already` returns a value that is there now, or undefined; `changed` is
   * called when a wait begins, and when one fails.
   */
  wait(o: WaitOptions | undefined, already: () => T | undefined, changed: () => void): Promise<T> {
    const { signal, timeout } = options(o, 'options');
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw refusal('an AbortSignal', 'signal', signal);
    if (timeout !== undefined) integer(timeout, 'timeout', 0, 2 ** 31 - 1);
    if (signal?.aborted) return Promise.reject(signal.reason);
    let there: T | undefined;
    try {
      there = already();
    } catch (error) {
      return Promise.reject(error);
    }
    if (there !== undefined) return Promise.resolve(there);
    return new Promise((resolve, reject) => {
      const fail = (error: unknown) => {
        waiter.stop();
        changed();
        reject(error);
      };
      const abort = () => fail(signal?.reason);
      const late = () =>
        fail(new VfioError(110, { syscall: 'poll', reason: `no ${this.#what} within ${timeout} ms` }));
      const timer = timeout === undefined ? undefined : setTimeout(late, timeout);
      const waiter: Waiter<T> = {
        resolve,
        reject,
        stop: () => {
          clearTimeout(timer);
          signal?.removeEventListener('abort', abort);
          this.#waiting.delete(waiter);
        },
      };
      signal?.addEventListener('abort', abort, ownOf({ once: true }));
      this.#waiting.add(waiter);
      changed();
    });
  }

  /** Resolves each wait with the next value, until `next` returns undefined. */
  serve(next: () => T | undefined): void {
    for (const waiter of [...this.#waiting]) {
      const value = next();
      if (value === undefined) return;
      waiter.stop();
      waiter.resolve(value);
    }
  }

  /** Rejects all pending waits. */
  fail(error: () => unknown): void {
    for (const waiter of [...this.#waiting]) {
      waiter.stop();
      waiter.reject(error());
    }
  }
}
