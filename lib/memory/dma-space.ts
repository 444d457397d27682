/** The address space as a driver uses it: an Ioas and a Container both implement this interface. */

import type { IovaRange } from '../addon/records.ts';
import type { U64Like } from '../base/check.ts';
import type { DmaBuffer, MemorySlice } from './dma-buffer.ts';

/** How memory is mapped. */
export interface MapOptions {
  /**
   * The I/O virtual address, a multiple of the space's alignment. Left out: the kernel chooses one, or this package in a
   * container; never 0.
   */
  iova?: U64Like | undefined;
  /** Whether the device may read. Default true. */
  read?: boolean | undefined;
  /** Whether the device may write. Default true. */
  write?: boolean | undefined;
}

/** Memory that devices can reach. Disposing it unmaps the memory; a second call does nothing. */
export interface Mapping extends Disposable {
  /** First I/O virtual address. */
  readonly iova: bigint;
  /** Length in bytes. */
  readonly length: bigint;
}

/** An I/O address space as a driver uses it. {@link Ioas} and {@link Container} list the errors. */
export interface DmaSpace {
  /** Usable ranges and the alignment in bytes that iova, length and address must have. */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint };
  /** Makes memory reachable by the device. */
  map(memory: DmaBuffer | MemorySlice, options?: MapOptions): Mapping;
  /** As {@link map}, off the event loop: pinning much memory takes long. */
  mapAsync(memory: DmaBuffer | MemorySlice, options?: MapOptions): Promise<Mapping>;
  /** Unmaps every mapping that lies wholly in the range; returns how many bytes were unmapped. */
  unmap(iova: U64Like, length: U64Like): bigint;
  /** Unmaps everything; returns how many bytes were unmapped. */
  unmapAll(): bigint;
}
