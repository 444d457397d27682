/** Garbage collection and the number of open descriptors, for tests of handles that are disposed or dropped. */
import { readdirSync } from 'node:fs';

/** One turn of the event loop: eventfds are closed, finalizers run. */
export const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Collects all garbage. With `reached`: repeats it until `reached` returns true, at most 30 times; returns whether it did. */
export async function collect(reached?: () => boolean): Promise<boolean> {
  if (!globalThis.gc) throw new Error('these tests need node --expose-gc');
  for (let round = 0; round < (reached ? 30 : 4); round++) {
    globalThis.gc();
    await turn();
    await turn();
    if (reached?.()) return true;
  }
  return false;
}

/** How many descriptors this process has open. */
export const descriptors = () => readdirSync('/proc/self/fd').length;

/** The same after a garbage collection: a software host that nobody refers to keeps some descriptors open until then. */
export async function descriptorsAtRest(): Promise<number> {
  await collect();
  return descriptors();
}

/** Waits, for a few seconds at most, until this process has `count` descriptors again; returns how many it has. */
export async function descriptorsSettle(count: number): Promise<number> {
  for (let round = 0; round < 10 && descriptors() > count; round++)
    await collect(() => descriptors() <= count);
  return descriptors();
}
