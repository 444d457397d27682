/**
 * A model of the mappings in a kernel: the pieces of address spaces, and the effect of each request on them. It uses neither
 * hardware nor the library, only lists: slow, but easy to understand.
 *
 * Life of a piece: a map makes one piece of the whole mapping; an unmap removes it, or cuts it if the space allows that; the
 * end of its space removes all. While a piece exists, its memory must exist.
 */

/** The five kinds of access to an address space, which behave differently. */
export const KINDS = [
  'ioas',
  'compat-type1v2',
  'compat-type1',
  'container-type1v2',
  'container-type1',
] as const;
export type Kind = (typeof KINDS)[number];

export const PAGE = 4096;

/** Memory of the program, and its users. */
export interface Memory {
  readonly name: string;
  readonly address: number;
  readonly pages: number;
  /** A value that is written into each page, to recognise it. */
  readonly tag: bigint;
  /** The state of the DmaBuffer: usable, disposed, or dropped without being disposed (it ends when it is collected). */
  handle: 'live' | 'disposed' | 'dropped';
  /** The state of an ArrayBuffer over it. */
  view: 'none' | 'held' | 'dropped';
  /** The number of calls that have yet to map it. */
  calls: number;
  /** The number of calls that were made, and whose promises are not settled yet. */
  done: number;
}

/** The mapping that one call has made. */
export interface Mapped {
  readonly name: string;
  readonly memory: Memory;
  /** The offset in the memory and the length, in bytes. */
  readonly offset: number;
  readonly length: number;
  readonly iova: number;
  readonly writable: boolean;
}

/** A part of a mapping that is still mapped. */
export interface Piece {
  readonly iova: number;
  readonly length: number;
  readonly of: Mapped;
}

/** The outcome of a request: the number of bytes, or the code of an error. */
export type Outcome = { readonly bytes: number } | { readonly code: string };

export class Space {
  readonly name: string;
  /** By ascending address. */
  pieces: Piece[] = [];
  /** If false, requests of containers cut mappings. */
  hugePages = true;
  /** Does the object exist in the kernel? */
  alive = true;
  /** The id in its iommufd; 0 for a container's own space. */
  readonly id: number;

  constructor(name: string, id = 0) {
    this.name = name;
    this.id = id;
  }

  within(start: number, length: number): Piece[] {
    return this.pieces.filter((each) => each.iova < start + length && each.iova + each.length > start);
  }

  of(mapped: Mapped): Piece[] {
    return this.pieces.filter((each) => each.of === mapped);
  }

  /** Is the whole mapping still mapped, in one piece? */
  whole(mapped: Mapped): boolean {
    return this.of(mapped).some((each) => each.length === mapped.length);
  }

  add(mapped: Mapped): void {
    this.pieces.push({ iova: mapped.iova, length: mapped.length, of: mapped });
    this.pieces.sort((a, b) => a.iova - b.iova);
  }

  remove(gone: readonly Piece[]): number {
    this.pieces = this.pieces.filter((each) => !gone.includes(each));
    return gone.reduce((sum, each) => sum + each.length, 0);
  }

  clear(): number {
    return this.remove(this.pieces);
  }

  end(): void {
    this.pieces = [];
    this.alive = false;
  }

  /** IOMMU_IOAS_UNMAP removes pieces from the lowest on, up to one that the range cuts (behaviour 42). */
  unmap(start: number, length: number): Outcome {
    const touched = this.within(start, length);
    const cut = touched.findIndex((each) => each.iova < start || each.iova + each.length > start + length);
    const bytes = this.remove(cut < 0 ? touched : touched.slice(0, cut));
    return cut >= 0 || touched.length === 0 ? { code: 'ENOENT' } : { bytes };
  }

  /** VFIO_IOMMU_UNMAP_DMA on an iommufd. */
  unmapCompat(start: number, length: number): Outcome {
    if (this.within(start, length).length === 0) return { bytes: 0 };
    if (this.hugePages) return this.unmap(start, length);
    this.#cut(start);
    this.#cut(start + length);
    return { bytes: this.remove(this.within(start, length)) };
  }

  /** The same on a container without an iommufd. v2 checks the whole range first; v1 removes the mappings that begin in it. */
  unmapType1(start: number, length: number, v2: boolean): Outcome {
    const touched = this.within(start, length);
    const before = touched.some((each) => each.iova < start);
    const beyond = touched.some((each) => each.iova + each.length > start + length);
    if (v2 && (before || beyond)) return { code: 'EINVAL' };
    return { bytes: before ? 0 : this.remove(touched) };
  }

  #cut(at: number): void {
    for (const piece of this.within(at, 1)) {
      if (piece.iova === at) continue;
      this.remove([piece]);
      const below = at - piece.iova;
      this.pieces.push({ ...piece, length: below }, { ...piece, iova: at, length: piece.length - below });
    }
    this.pieces.sort((a, b) => a.iova - b.iova);
  }
}

/** Must the pages exist, must they be freed, or does that depend on the garbage collector? */
export function pagesOf(memory: Memory, spaces: Iterable<Space>): 'there' | 'gone' | 'either' {
  if (memory.handle === 'live' || memory.view === 'held' || memory.calls > 0) return 'there';
  for (const space of spaces) if (space.pieces.some((each) => each.of.memory === memory)) return 'there';
  return memory.handle === 'dropped' || memory.view === 'dropped' || memory.done > 0 ? 'either' : 'gone';
}
