/** Memory for DMA, and the address spaces that it is mapped in, as the addon has them. */
import type { U64Like } from '../base/check.ts';

/** DMA memory: native/binding/memory.h */
export interface NativeMemory {
  readonly address: bigint;
  readonly size: number;
  /** Its number, for the calls that map: it leads here until this is disposed. */
  number(): number;
  /** All of it, or whole pages of it. Each call makes a new one, which keeps all of the memory. */
  buffer(offset?: number, length?: number): ArrayBuffer;
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
  dispose(): void;
}

/**
 * What a call that maps is given. `access`: 1 the device may read, 2 it may write. `mapping`: its number, for good. Without
 * an offset and a length it is all of the memory.
 */
export type MapArguments = [
  memory: number,
  access: number,
  mapping: number,
  iova?: U64Like,
  offset?: number,
  length?: number,
];

/** The hot calls of an address space, of an IOAS or a container. What comes out is a number where that is exact. */
export interface NativeSpaceCalls {
  /** The IOVA is in `place` of the addon afterwards. */
  map(...given: MapArguments): void;
  /** How many bytes were unmapped; undefined: as many as `length`. */
  unmap(iova: U64Like, length: U64Like): U64Like | undefined;
}

/** The hot calls of a container. */
export interface NativeContainerCalls extends NativeSpaceCalls {
  /** The id of the IOAS, of an iommufd, that the last map worked on. */
  which(): number;
}

/** A handle's share in an address space: native/binding/space.h */
export interface NativeSpace {
  id(): number | null;
  ended(): boolean;
  calls(): NativeSpaceCalls;
  mapAsync(...given: MapArguments): Promise<U64Like>;
  copy(
    source: NativeSpace,
    sourceMapping: number,
    sourceIova: U64Like,
    length: U64Like,
    access: number,
    iova: U64Like | undefined,
    mapping: number,
  ): U64Like;
  mapFile(
    fd: number,
    offset: U64Like,
    length: U64Like,
    access: number,
    iova: U64Like | undefined,
    mapping: number,
  ): U64Like;
  /** Unmaps what is left of a mapping; returns how many bytes that was. */
  unmapMapping(mapping: number, iova: U64Like, length: U64Like): U64Like;
  holds(mapping: number, iova: U64Like, length: U64Like): boolean;
  mappings(): { iova: bigint; length: bigint; writable: boolean }[];
  dispose(): void;
}
