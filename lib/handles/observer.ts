/**
 * What an observer of a host is told of the handles that were opened through it. The software host's sanitizer is one; a
 * kernel host has none, and its handles then ask for nothing but that.
 *
 * Life: it is given to the Host's handle when that is made, and every handle takes it from its first parent. A handle without
 * a parent (`fromFd`) has none.
 */

/** Memory that was mapped. */
export interface MappedMemory {
  /** An object for each buffer, with nothing in it. */
  readonly pages: object;
  /** The process's address of the first byte that was mapped. */
  readonly address: number;
}

/** A mapping that was made. */
export interface MadeMapping {
  /** Its number, for good. */
  readonly number: number;
  readonly iova: bigint;
  readonly length: bigint;
  readonly write: boolean;
  /** Undefined: memory of a file, or of another mapping. */
  readonly memory: MappedMemory | undefined;
}

/** `Handle`: the class of handles, whose file imports this one. */
export interface Observing<Handle> {
  mapped(space: Handle, mapping: MadeMapping): void;
  /** A range is going to be unmapped; with `number`, that mapping alone. */
  unmaps(space: Handle, iova: bigint, length: bigint, number?: number): void;
  /** An unmap of the range has failed. `left`: what is mapped in the space now. */
  unmapFailed(
    space: Handle,
    iova: bigint,
    length: bigint,
    left: readonly { iova: bigint; length: bigint }[],
  ): void;
  /** A buffer was disposed that was mapped on this host. */
  bufferDisposed(pages: object): void;
  /** A device was attached, for its accesses with this PASID or for those without one; no space: it is detached. */
  attached(bdf: string | null, pasid: number | undefined, space: Handle | undefined): void;
  /** The driver is going to write to a register of the device. */
  stores(device: Handle, region: number, offset: number): void;
  /** The driver has asked for a reset of the device. */
  resets(device: Handle): void;
  /** The program disposes a handle. `left`: the handles that are disposed with it, for they are alive. */
  ends(handle: Handle, left: readonly Handle[]): void;
  /** A handle was used after it was disposed: an error is about to be thrown. */
  usedDisposed(handle: Handle): void;
}
