/**
 * Memory that stays since nobody knows whether a device can still reach it: told by a warning when it comes to that, and by
 * Host.report().
 */
import { native } from './native.ts';

/** Memory that is kept, and why. */
export interface KeptMemory {
  /** How many bytes. */
  bytes: bigint;
  /** Why nobody knows. */
  reason: string;
}

/** All that this process keeps. */
export function keptMemory(): KeptMemory[] {
  return native.kept();
}

let told = 0;

/** Warns if memory has come to be kept since it was last asked. Costs next to nothing if not. */
export function warnOfKeptMemory(): void {
  const count = native.doubts();
  if (count === told) return;
  told = count;
  for (const { bytes, reason } of keptMemory())
    process.emitWarning(`${bytes} bytes of DMA memory are kept until the process ends: ${reason}`, {
      type: 'VfioMemoryWarning',
      code: 'VFIO_MEMORY_KEPT',
    });
}
