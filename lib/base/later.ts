/** What a function of the program gave back: a value, or a promise of work that goes on. */
import { refusal } from './check.ts';

/** The promise that a function returned; undefined: it returned none. */
export function later(result: unknown): Promise<unknown> | undefined {
  if (typeof result !== 'object' || result === null || !('then' in result)) return undefined;
  return typeof result.then === 'function' ? Promise.resolve(result) : undefined;
}

/** Refuses a promise where a value is needed at once. The refusal is the error then: what the promise does is not told. */
export function refusePromise(result: unknown, name: string): void {
  const promise = later(result);
  if (promise === undefined) return;
  promise.catch(() => {});
  throw refusal('a value, which a promise is not', name, result);
}
