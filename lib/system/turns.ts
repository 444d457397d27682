/** Changes of several steps, each in its turn, and what this process remembers of the devices that it changed. */
import type { NativeHost } from '../addon/native.ts';
import { remembered } from '../base/private.ts';

/** The driver that holds a device, and the only one that may, if one was set. */
export interface Held {
  driver: string | null;
  override: string | null;
}

/** What a host's changes leave behind. */
export interface Memory {
  /** What devices had before this process first changed them, by address; and which device it was that had the address. */
  readonly before: Map<string, Held & { life: bigint }>;
  /** Writes that were given up waiting for and go on, by the address of their device. */
  readonly late: Map<string, Promise<unknown>>;
}

const memories = remembered<Memory>();

/** @internal What is remembered of a host. */
export function memoryOf(host: NativeHost): Memory {
  const memory = memories.get(host) ?? { before: new Map(), late: new Map() };
  memories.set(host, memory);
  return memory;
}

/**
 * @internal Runs `change` when nothing that was asked before, of what `keys` name, is under way any more: in all threads of
 * this process, on this kernel or software host. It gets a host of its own, so that it is done whole even if the host is
 * disposed meanwhile; if that happened before its turn, it is ERR_VFIO_DISPOSED and nothing is touched.
 */
export async function inTurn<T>(
  host: NativeHost,
  keys: readonly string[],
  change: (own: NativeHost) => Promise<T>,
): Promise<T> {
  let go = () => {};
  const called = new Promise<void>((resolve) => {
    go = resolve;
  });
  const turn = host.turn(keys, go);
  try {
    await called;
    const own = host.share();
    memories.set(own, memoryOf(host));
    try {
      return await change(own);
    } finally {
      own.dispose();
    }
  } finally {
    turn.end();
  }
}
