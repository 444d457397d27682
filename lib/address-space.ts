/**
 * Mapping memory, and keeping it for as long as a device can reach it: an Ioas does so by its own requests, a Container by
 * those of type1.
 *
 * Life of a mapping: made by map, mapAsync or copy; gone when it is unmapped, by its own disposal, by a range or with
 * its space. The space holds the memory of each one until then.
 */
import { constants } from 'node:os';
import { flag, options, type U64Like } from './check.ts';
import { type DmaBuffer, type MemorySlice, type Window, windowOf } from './dma-buffer.ts';
import type { DmaSpace, IovaRange, MapOptions, Mapping } from './dma-space.ts';
import { VfioError, withWords } from './errors.ts';
import { type MapRequest, type Words, wordsForMap } from './explain.ts';
import { Handle } from './handle.ts';
import type { NativeMemory, NativeSpaceCalls } from './native.ts';

/** What unmaps everything: from 0 on, this many bytes. */
export const EVERYTHING = 2n ** 64n - 1n;

/** What a mapping keeps: the pages of a buffer, or nothing of this process (a file's, which the kernel keeps). */
export type Kept = Pick<Window, 'size' | 'length'> & { readonly pages: { hold(): void; drop(): void } };

/** What a mapping is made of: out of a caller's reach. */
let keptBy: (mapping: SpaceMapping) => Kept;
let placeOf: (mapping: SpaceMapping) => U64Like;

/**
 * A mapping: the kernel's, and the pages that it keeps. Its place is as the addon gave it: a number where that is exact,
 * which costs less, else a bigint.
 */
export class SpaceMapping implements Mapping {
  readonly #place: U64Like;
  readonly #kept: Kept;
  readonly #writable: boolean;
  readonly #space: AddressSpace;

  static {
    keptBy = (mapping) => mapping.#kept;
    placeOf = (mapping) => mapping.#place;
  }

  constructor(space: AddressSpace, place: U64Like, kept: Kept, writable: boolean) {
    this.#space = space;
    this.#place = place;
    this.#kept = kept;
    this.#writable = writable;
  }

  get iova(): bigint {
    return BigInt(this.#place);
  }

  get length(): bigint {
    return this.#kept.length;
  }

  get writable(): boolean {
    return this.#writable;
  }

  get space(): AddressSpace {
    return this.#space;
  }

  [Symbol.dispose](): void {
    if (!this.#space.disposed && this.#space.holds(this)) this.#space.unmap(this.#place, this.#kept.size);
  }
}

/** What a mapping keeps, for the spaces that copy it. */
export function keptOf(mapping: SpaceMapping): Kept {
  return keptBy(mapping);
}

/** A mapAsync under way, and what was unmapped meanwhile. */
interface Pending {
  readonly unmapped: IovaRange[];
}

/**
 * The live mappings by address. A place that was emptied is kept for the next mapping there (drivers map the same
 * addresses again and again, and a Map's delete costs as much as all the rest), until they outnumber the live ones.
 */
class Mappings {
  readonly #places = new Map<U64Like, SpaceMapping | undefined>();
  /** Cut ones whose first part is gone and has another mapping in its place: type1 of the first version cuts. */
  readonly #displaced = new Set<SpaceMapping>();
  #live = 0;

  get(at: U64Like): SpaceMapping | undefined {
    return this.#places.get(at);
  }

  add(mapping: SpaceMapping): void {
    const earlier = this.#places.get(placeOf(mapping));
    if (earlier !== undefined) this.#displaced.add(earlier);
    else this.#live++;
    this.#places.set(placeOf(mapping), mapping);
  }

  remove(mapping: SpaceMapping): void {
    if (this.#displaced.delete(mapping)) return;
    this.#places.set(placeOf(mapping), undefined);
    if (this.#places.size > 2 * --this.#live + 64)
      for (const [at, held] of this.#places) if (held === undefined) this.#places.delete(at);
  }

  live(): SpaceMapping[] {
    const found = [...this.#places.values()].filter((each) => each !== undefined);
    return this.#displaced.size === 0 ? found : [...found, ...this.#displaced];
  }
}

/** A call that maps off the event loop. */
export type MapLater = (
  memory: NativeMemory,
  offset: number,
  size: number,
  read: boolean,
  write: boolean,
  iova: U64Like | undefined,
) => Promise<U64Like>;

/** An address space and the record of what is mapped in it. */
export abstract class AddressSpace extends Handle implements DmaSpace {
  readonly #calls: NativeSpaceCalls;
  readonly #mappings = new Mappings();
  /** The mapAsync under way. */
  readonly #pending = new Set<Pending>();

  /** `calls` are the hot ones; `resources` go if the space is forgotten. */
  protected constructor(
    kind: string,
    parent: Handle,
    calls: NativeSpaceCalls,
    resources: readonly { dispose(): void }[],
  ) {
    super(kind, parent, [
      {
        dispose() {
          quietly(() => calls.unmap(0, EVERYTHING));
        },
      },
      ...resources,
    ]);
    this.#calls = calls;
  }

  /** Usable ranges and the alignment in bytes that iova, length and address must have. */
  abstract iovaRanges(): { ranges: IovaRange[]; alignment: bigint };

  /** The live mappings, by ascending IOVA. */
  mappings(): { iova: bigint; length: bigint; writable: boolean }[] {
    this.alive();
    return this.#mappings
      .live()
      .sort((a, b) => (a.iova < b.iova ? -1 : 1))
      .map(({ iova, length, writable }) => ({ iova, length, writable }));
  }

  /**
   * Makes memory reachable by the devices of this space.
   *
   * The memory is pinned while a device is attached, and counts against RLIMIT_MEMLOCK then (unless the process has
   * CAP_IPC_LOCK).
   *
   * @throws {VfioError} EEXIST the range overlaps a mapping; EINVAL it touches a reserved range, is not aligned, or
   * neither read nor write is allowed; ENOSPC no room; ENOMEM over the limit; EFAULT the memory can't be pinned.
   * `reason` names the mapping, the range or the limit.
   */
  map(memory: DmaBuffer | MemorySlice, o?: MapOptions): Mapping {
    return this.mapBy(this.#calls, memory, o);
  }

  /** @internal The same by these calls. */
  mapBy(calls: NativeSpaceCalls, memory: DmaBuffer | MemorySlice, o: MapOptions | undefined): Mapping {
    this.alive();
    let iova: U64Like | undefined;
    let read = true;
    let write = true;
    if (o !== undefined) {
      const wanted = options(o, 'options');
      iova = wanted.iova;
      read = flag(wanted.read, 'read', true);
      write = flag(wanted.write, 'write', true);
    }
    // After the options, whose getters may have disposed either: nothing comes between this and the call.
    this.alive();
    const window = windowOf(memory);
    const { address, size } = window;
    let at: U64Like;
    try {
      at = calls.map(address, size, (read ? 1 : 0) + (write ? 2 : 0), iova);
    } catch (error) {
      throw this.explainMap(error, { iova, size, address: BigInt(address) });
    }
    return this.record(at, window, write);
  }

  /**
   * The same as {@link map}, off the event loop: pinning gigabytes takes long. Disposing the space meanwhile undoes it
   * when it is done.
   */
  mapAsync(memory: DmaBuffer | MemorySlice, o?: MapOptions): Promise<Mapping> {
    return this.mapAsyncBy((...args) => this.mapLater(...args), memory, o);
  }

  /** @internal The same by this call. */
  async mapAsyncBy(
    call: MapLater,
    memory: DmaBuffer | MemorySlice,
    o: MapOptions | undefined,
  ): Promise<Mapping> {
    this.alive();
    const { iova, read, write } = options(o, 'options');
    const readable = flag(read, 'read', true);
    const writable = flag(write, 'write', true);
    this.alive();
    const window = windowOf(memory);
    const { pages, address, offset, size } = window;
    const pending: Pending = { unmapped: [] };
    pages.hold();
    this.#pending.add(pending);
    try {
      const at = await call(pages.native, offset, size, readable, writable, iova).catch((error: unknown) => {
        throw this.explainMap(error, { iova, size, address: BigInt(address) });
      });
      // If it was disposed meanwhile, the mapping is lost with it: say so rather than hand out a dead one.
      this.alive();
      this.#refuseUnmapped(BigInt(at), BigInt(size), pending);
      return this.record(at, window, writable);
    } finally {
      this.#pending.delete(pending);
      if (this.#pending.size === 0 && this.disposed) this.#end();
      pages.drop();
    }
  }

  /**
   * What was mapped off the loop may have been unmapped again before its completion arrived here, and nobody can tell
   * which came first: such a mapping ends now.
   */
  #refuseUnmapped(start: bigint, size: bigint, pending: Pending): void {
    const last = start + size - 1n;
    if (!pending.unmapped.some((each) => each.start <= start && each.last >= last)) return;
    // Whatever is recorded there now was mapped later, and is not this one.
    const taken = this.#mappings.live().some((each) => each.iova <= last && each.iova + each.length > start);
    if (!taken) quietly(() => this.#calls.unmap(start, size));
    throw new VfioError(constants.errno.ECANCELED, {
      syscall: 'ioctl',
      request: 'IOMMU_IOAS_MAP',
      reason: `${range(start, size)} was unmapped while it was being mapped`,
    });
  }

  /**
   * Unmaps all mappings that lie wholly in the range and returns their bytes.
   *
   * @throws {VfioError} ENOENT nothing is mapped there, or the range cuts a mapping: those below the one that is cut are
   * gone nevertheless; EINVAL length 0; EOVERFLOW the range wraps.
   */
  unmap(iova: U64Like, length: U64Like): bigint {
    return this.unmapBy(this.#calls, iova, length);
  }

  /** @internal The same by these calls. */
  unmapBy(calls: NativeSpaceCalls, iova: U64Like, length: U64Like): bigint {
    this.alive();
    let bytes: U64Like;
    try {
      bytes = calls.unmap(iova, length);
    } catch (error) {
      throw this.#afterFailedUnmap(error, iova, length);
    }
    if (this.#pending.size > 0) this.#notePending(BigInt(iova), BigInt(iova) + BigInt(length) - 1n);
    const only = this.#mappings.get(keyOf(iova));
    if (only !== undefined && keptBy(only).size === bytes) {
      this.#forget(only);
      return only.length;
    }
    this.#forgetWithin(BigInt(iova), BigInt(iova) + BigInt(length) - 1n);
    return BigInt(bytes);
  }

  /** Unmaps everything and returns how many bytes that were. */
  unmapAll(): bigint {
    return this.unmapAllBy(this.#calls);
  }

  /** @internal The same by these calls. */
  unmapAllBy(calls: NativeSpaceCalls): bigint {
    this.alive();
    const bytes = calls.unmap(0, EVERYTHING);
    this.#notePending(0n, EVERYTHING);
    this.#forgetWithin(0n, EVERYTHING);
    return BigInt(bytes);
  }

  /** @internal Is this mapping one of the live ones? */
  holds(mapping: Mapping): boolean {
    return this.#mappings.get(keyOf(mapping.iova)) === mapping;
  }

  /** The native call that maps off the loop. */
  protected abstract mapLater(...args: Parameters<MapLater>): Promise<U64Like>;

  /** What is left to do once the space is empty and no call of it is under way. Must not throw. */
  protected abstract emptied(): void;

  /** Bytes of this process that are pinned for devices. */
  protected abstract pinned(): number;

  protected release(): void {
    // What a mapAsync is still about to map must go too, and its id must not be another's by then: the last one ends it.
    if (this.#pending.size === 0) this.#end();
    else this.#clear();
  }

  /** A mapping that the kernel has made: recorded, its memory held. */
  protected record(at: U64Like, kept: Kept, writable: boolean): SpaceMapping {
    const mapping = new SpaceMapping(this, keyOf(at), kept, writable);
    kept.pages.hold();
    this.#mappings.add(mapping);
    return mapping;
  }

  /** The error of a call that maps, with words. */
  protected explainMap(error: unknown, request: MapRequest): unknown {
    return withWords(error, (failed) => this.wordsForMap(failed, request));
  }

  protected wordsForMap(error: VfioError, request: MapRequest): Words | undefined {
    let usable: { ranges: IovaRange[]; alignment: bigint };
    let pinned: number;
    try {
      usable = this.iovaRanges();
      pinned = this.pinned();
    } catch {
      return undefined; // the space itself is gone: the first error says so
    }
    return wordsForMap(error, request, { ...usable, mappings: this.mappings(), pinned });
  }

  #end(): void {
    this.#clear();
    this.emptied();
  }

  /** Devices lose the memory, whether or not the kernel's object can go. */
  #clear(): void {
    quietly(() => this.#calls.unmap(0, EVERYTHING));
    this.#forgetWithin(0n, EVERYTHING);
  }

  #notePending(start: bigint, last: bigint): void {
    for (const each of this.#pending) each.unmapped.push({ start, last });
  }

  #forget(mapping: SpaceMapping): void {
    this.#mappings.remove(mapping);
    keptBy(mapping).pages.drop();
  }

  #forgetWithin(start: bigint, last: bigint): void {
    for (const mapping of this.#mappings.live())
      if (mapping.iova >= start && mapping.iova + mapping.length - 1n <= last) this.#forget(mapping);
  }

  /** Behaviour 42: a range that cuts a mapping fails, but what lies below the cut one is gone. */
  #afterFailedUnmap(error: unknown, from: U64Like, length: U64Like): unknown {
    if (!(error instanceof VfioError) || error.code !== 'ENOENT') return error;
    const start = BigInt(from);
    const last = start + BigInt(length) - 1n;
    const cut = this.mappings().find(({ iova, length }) => {
      const end = iova + length - 1n;
      return iova <= last && end >= start && (iova < start || end > last);
    });
    this.#notePending(start, last);
    if (cut && cut.iova >= start) this.#forgetWithin(start, cut.iova - 1n);
    return withWords(error, () => ({
      reason: cut
        ? `the range cuts the mapping ${range(cut.iova, cut.length)}; only whole mappings can be unmapped`
        : `nothing is mapped in ${range(start, last - start + 1n)}`,
    }));
  }
}

function range(start: bigint, length: bigint): string {
  return `[0x${start.toString(16)}, 0x${(start + length - 1n).toString(16)}]`;
}

/** One key for one address, whichever way it was given: a number where it is exact. */
function keyOf(iova: U64Like): U64Like {
  if (typeof iova === 'number') return iova;
  const number = Number(iova);
  return number <= Number.MAX_SAFE_INTEGER ? number : iova;
}

/** Disposing does not fail: the object may be gone (Iommufd.destroy), or the iommufd closed. */
export function quietly(call: () => void): void {
  try {
    call();
  } catch (error) {
    if (!(error instanceof VfioError) && (error as { code?: unknown }).code !== 'ERR_VFIO_DISPOSED')
      throw error;
  }
}
