/**
 * Memory that stays since nobody knows whether a device can still reach it: told by a warning when it comes to that, and by
 * Host.report().
 */

import { ownOf } from '../base/own.ts';
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

let seen = 0;
/** How many bytes were told of, by reason. */
const told = new Map<string, bigint>();

/** Warns if memory has come to be kept since it was last asked. Costs next to nothing if not. */
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
