/**
 * Errors of models that don't answer: a function that runs for too long, and threads that wait for each other.
 */
import { type Context, createContext, Script } from 'node:vm';

const script = new Script('call()');
/** The call that is under way, as the script sees it. Made by the first call: few models need it. */
let scope: (Context & { call?: (() => unknown) | undefined }) | undefined;

/**
 * Runs a function of a model, and stops it with an error when it has run for this many milliseconds. What it calls, of this
 * model and of others, is stopped with it.
 */
export function within<T>(milliseconds: number, during: string, call: () => T): T {
  // A call inside another one ends with that: two watchdogs at a time could take each other's end away.
  if (scope?.call !== undefined) return call();
  scope ??= createContext({});
  scope.call = call;
  try {
    return script.runInContext(scope, { timeout: milliseconds }) as T;
  } catch (error) {
    if ((error as { code?: unknown } | null)?.code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw error;
    throw new Error(`${during} ran for more than ${milliseconds} ms and was stopped`, { cause: error });
  } finally {
    scope.call = undefined;
  }
}

/** The error of an access that was not made. `access`, `waiting`: the stacks of the access and of the model's thread. */
export function deadlockError(what: string, access: string, waiting: string): Error {
  const error = new Error(what);
  const shown = (stack: string) => stack || '    (no JavaScript)';
  error.stack = `Error: ${what}\n  the access:\n${shown(access)}\n  meanwhile, the thread of the model:\n${shown(waiting)}`;
  return error;
}
