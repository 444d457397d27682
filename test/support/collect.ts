/** Garbage collection and open descriptors, for tests of what is let go of. */
import { readdirSync } from 'node:fs';

/** One turn of the event loop: eventfds are closed, finalizers run. */
export const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Collects all garbage; with `reached`, until that is so or it is clear that it never will be. */
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

/** The same once what nobody holds is collected: a software host keeps some until then. */
export async function descriptorsAtRest(): Promise<number> {
  await collect();
  return descriptors();
}

/** Waits, a few seconds at most, until this process has `count` descriptors again; returns how many it has. */
export async function descriptorsSettle(count: number): Promise<number> {
  for (let round = 0; round < 10 && descriptors() > count; round++)
    await collect(() => descriptors() <= count);
  return descriptors();
}
