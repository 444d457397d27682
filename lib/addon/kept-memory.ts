/**
 * Kept memory: DMA memory that is never freed, because nobody knows whether a device can still reach it. A warning says so
 * when memory comes to be kept, and Host.report() lists it.
 */

import { ownOf } from '../base/own.ts';
import { native } from './native.ts';

/** Memory that is kept, and why. */
export interface KeptMemory {
  /** Its size in bytes. */
  bytes: bigint;
  /** Why nobody knows whether a device can reach it. */
  reason: string;
}

/** All memory that this process keeps. */
export function keptMemory(): KeptMemory[] {
  return native.kept();
}

let seen = 0;
/** How many bytes the warnings have named so far, by reason. */
const told = new Map<string, bigint>();

/** Warns if memory has come to be kept since the last call. If none has, it costs next to nothing. */
export function warnOfKeptMemory(): void {
  const count = native.doubts();
  if (count === seen) return;
  seen = count;
  for (const { bytes, reason } of keptMemory()) {
    if (bytes <= (told.get(reason) ?? 0n)) continue;
    told.set(reason, bytes);
    process.emitWarning(
      `${bytes} bytes of DMA memory are kept until the process ends: ${reason}`,
      ownOf({ type: 'VfioMemoryWarning', code: 'VFIO_MEMORY_KEPT' }),
    );
  }
}
