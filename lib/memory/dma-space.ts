/** What a driver needs of an address space, whichever path made it. */

import type { IovaRange } from '../addon/records.ts';
import type { U64Like } from '../base/check.ts';
import type { DmaBuffer, MemorySlice } from './dma-buffer.ts';

/** How memory is mapped. */
export interface MapOptions {
  /** Where: a multiple of the space's alignment. Left out: chosen by the kernel, never 0. */
  iova?: U64Like | undefined;
  /** The device may read. Default true. */
  read?: boolean | undefined;
  /** The device may write. Default true. */
  write?: boolean | undefined;
}

/** Memory that devices can reach. Disposing it unmaps it; again: nothing. */
export interface Mapping extends Disposable {
  /** First I/O virtual address. */
  readonly iova: bigint;
  /** Length in bytes. */
  readonly length: bigint;
}

/** An I/O address space as a driver sees it. Errors: see {@link Ioas}. */
export interface DmaSpace {
  /** Usable ranges and the alignment in bytes that iova, length and address must have. */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint };
  /** Makes memory reachable by the device. */
  map(memory: DmaBuffer | MemorySlice, options?: MapOptions): Mapping;
  /** The same, off the event loop: pinning much memory takes long. */
  mapAsync(memory: DmaBuffer | MemorySlice, options?: MapOptions): Promise<Mapping>;
  /** Unmaps every mapping that lies wholly in the range; returns how many bytes that were. */
  unmap(iova: U64Like, length: U64Like): bigint;
  /** Unmaps everything; returns how many bytes that were. */
  unmapAll(): bigint;
}
