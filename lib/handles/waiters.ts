/**
 * Those who wait for something that a descriptor tells of: each until it is given a value, or its time is over, or its
 * signal is aborted, or the handle ends.
 *
 * Life of a waiter: from `wait` until one of these; then its timer and its listener are gone.
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

/** The oldest one comes first. */
export class Waiters<T> {
  readonly #waiting = new Set<Waiter<T>>();
  readonly #what: string;

  /** `what` is waited for, in words: 'record'. */
  constructor(what: string) {
    this.#what = what;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /**
   * Checks the options, and throws if they are bad. `already` gives what is there now, or undefined; `changed` is called
   * when one more waits, and when one has given up.
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

  /** Gives each what `next` has for it, until that is undefined. */
  serve(next: () => T | undefined): void {
    for (const waiter of [...this.#waiting]) {
      const value = next();
      if (value === undefined) return;
      waiter.stop();
      waiter.resolve(value);
    }
  }

  /** Ends the waiting of all by an error. */
  fail(error: () => unknown): void {
    for (const waiter of [...this.#waiting]) {
      waiter.stop();
      waiter.reject(error());
    }
  }
}
