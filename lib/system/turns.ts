/** Runs changes of drivers one after the other, and remembers the drivers that this process's devices had before. */
import type { NativeHost } from '../addon/native.ts';
import { remembered } from '../base/private.ts';

/** The driver that a device is bound to, and its driver_override: the only driver that may bind it, if one is set. */
export interface DriverState {
  driver: string | null;
  override: string | null;
}

/** The record of the changes on a host. */
export interface Memory {
  /** The drivers before this process first changed them, by address; and the number of the device that had the address then. */
  readonly before: Map<string, DriverState & { life: bigint }>;
  /** Writes to sysfs that timed out and are still under way, by the address of their device. */
  readonly late: Map<string, Promise<unknown>>;
}

const memories = remembered<Memory>();

/** @internal The record of the changes on a host. */
export function memoryOf(host: NativeHost): Memory {
  const memory = memories.get(host) ?? { before: new Map(), late: new Map() };
  memories.set(host, memory);
  return memory;
}

/**
 * @internal Runs `change` as soon as no earlier change that shares a key with it is under way, in any thread of this process,
 * on this kernel or software host. `change` gets its own reference to the host, so that it is done whole even if the host is
 * disposed meanwhile. If the host is disposed before, this throws ERR_VFIO_DISPOSED and changes nothing.
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
