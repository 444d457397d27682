/** Waiting until the devices of a software host have no work left: those of the host's own, and models in JavaScript. */
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import type { NativeHost } from '../../addon/native.ts';

/** Turns of the event loop before the looks become rare. */
const TURNS = 20;

/** Waiting for devices. */
export interface Settling {
  /**
   * Resolves as soon as no device has work left: transfers, jobs that models have posted, async handlers of models (in all
   * threads) and stores that their loops over doorbells have not finished. Models in this thread work while it waits. Work that
   * waits for something else (a page request without an answer, a timer of the program) is waited for only inside an async handler.
   *
   * In virtual time it does the devices' work, moves the clock as far as that needs, and lets the program run between the
   * pieces. It does not resolve while a device gives itself new work again and again.
   *
   * @throws {VfioError} ERR_VFIO_DISPOSED the host was disposed, before the call or while it waited.
   */
  settle(): Promise<void>;
}

/** @internal Work of a model that ends may give the host's engine more, so both are asked again. */
export async function settle(host: NativeHost, deterministic: boolean): Promise<void> {
  for (;;) {
    const { ended } = host.modelWork();
    const worked = deterministic && (await allSteps(host));
    if (!deterministic) await host.settle();
    for (let look = 0; host.modelWork().left > 0; look++) await (look < TURNS ? turn() : sleep(1));
    if (!worked && host.modelWork().ended === ended) return;
  }
}

/** In virtual time: does the engine's work. The program may answer each piece, and give the devices new work. */
async function allSteps(host: NativeHost): Promise<boolean> {
  let worked = false;
  while (host.step()) {
    worked = true;
    await turn();
  }
  await turn();
  return worked;
}
