/** Waiting until the devices of a software host have no work left: those of the host's own, and models in JavaScript. */
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import type { NativeHost } from '../../addon/native.ts';

/** Turns of the event loop before the looks become rare. */
const TURNS = 20;

/** Resolves when no device has work left. Work of a model that ends may give the host's engine more, so both are asked again. */
export async function settle(host: NativeHost): Promise<void> {
  for (;;) {
    const { ended } = host.modelWork();
    await host.settle();
    for (let look = 0; host.modelWork().left > 0; look++) await (look < TURNS ? turn() : sleep(1));
    if (host.modelWork().ended === ended) return;
  }
}
