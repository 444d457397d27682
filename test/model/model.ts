/**
 * What is mapped, as a kernel has it: pieces of address spaces, and what each request does to them. No hardware, no
 * library: plain lists, slow and plain to see through.
 *
 * Life of a piece: a map makes one, of a whole mapping; an unmap takes it away, or cuts it where the space can be cut;
 * the end of its space takes all. While one is there, the memory behind it must be.
 */

/** How a program gets at an address space: the five that behave differently. */
export const KINDS = [
  'ioas',
  'compat-type1v2',
  'compat-type1',
  'container-type1v2',
  'container-type1',
] as const;
export type Kind = (typeof KINDS)[number];

export const PAGE = 4096;

/** Memory of the program, and who needs it. */
export interface Memory {
  readonly name: string;
  readonly address: number;
  readonly pages: number;
  /** What is written into each page, to know it by. */
  readonly tag: bigint;
  /** The DmaBuffer: usable, disposed, or dropped without that (it goes when it is collected). */
  handle: 'live' | 'disposed' | 'dropped';
  /** The same of an ArrayBuffer over it. */
  view: 'none' | 'held' | 'dropped';
  /** Calls that are yet to map it. */
  calls: number;
  /** Those whose call was made: their promises are yet to hear of it. */
  done: number;
}

/** What one call has mapped. */
export interface Mapped {
  readonly name: string;
  readonly memory: Memory;
  /** Where in the memory, and how much: bytes. */
  readonly offset: number;
  readonly length: number;
  readonly iova: number;
  readonly writable: boolean;
}

/** A part of a mapping that is still there. */
export interface Piece {
  readonly iova: number;
  readonly length: number;
  readonly of: Mapped;
}

/** What a request has come to: bytes, or an error's code. */
export type Outcome = { readonly bytes: number } | { readonly code: string };

export class Space {
  readonly name: string;
  /** By ascending address. */
  pieces: Piece[] = [];
  /** Off: requests of containers cut mappings. */
  hugePages = true;
  /** Is there such an object in the kernel? */
  alive = true;
  /** In its iommufd; of a container 0. */
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

  /** Is all of a mapping there, in one piece? */
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

  /** IOMMU_IOAS_UNMAP: from the lowest on, until one is cut (behaviour 42). */
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

  /** The same on a container of its own: it looks first (v2), or takes what begins in the range (v1). */
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

/** Must the pages be there, must they be gone, or is it the garbage collector's to say? */
export function pagesOf(memory: Memory, spaces: Iterable<Space>): 'there' | 'gone' | 'either' {
  if (memory.handle === 'live' || memory.view === 'held' || memory.calls > 0) return 'there';
  for (const space of spaces) if (space.pieces.some((each) => each.of.memory === memory)) return 'there';
  return memory.handle === 'dropped' || memory.view === 'dropped' || memory.done > 0 ? 'either' : 'gone';
}
