/**
 * Mapping memory, and keeping it for as long as a device can reach it: an Ioas does so by its own requests, a
 * Container by those of type1.
 *
 * Life of a mapping: made by map, mapAsync or copy; gone when it is unmapped, by its own disposal, by a range or with
 * its space. The space holds the memory of each one until then.
 */
import { constants } from 'node:os';
import { flag, options, type U64Like, u64 } from './check.ts';
import { type DmaBuffer, type MemorySlice, type Window, windowOf } from './dma-buffer.ts';
import type { DmaSpace, IovaRange, MapOptions, Mapping } from './dma-space.ts';
import { VfioError, withWords } from './errors.ts';
import { type MapRequest, type Words, wordsForMap } from './explain.ts';
import { alive, Handle } from './handle.ts';
import { IovaAllocator } from './iova-allocator.ts';
import type { NativeMemory, NativeSpaceCalls } from './native.ts';
import { type OURS, ours } from './private.ts';

/** What unmaps everything: from 0 on, this many bytes. */
export const EVERYTHING = 2n ** 64n - 1n;

/** What a mapping keeps: the pages of a buffer, or nothing of this process (a file's, which the kernel keeps). */
export type Kept = Pick<Window, 'size' | 'length'> & { readonly pages: { hold(): void; drop(): void } };

/** What a mapping is made of: out of a caller's reach. */
let keptBy: (mapping: SpaceMapping) => Kept;
let keepInstead: (mapping: SpaceMapping, kept: Kept) => void;
let placeOf: (mapping: SpaceMapping) => U64Like;

/**
 * A mapping: the kernel's, and the pages that it keeps. Its place is as the addon gave it: a number where that is
 * exact, which costs less, else a bigint.
 */
export class SpaceMapping implements Mapping {
  readonly #place: U64Like;
  #kept: Kept;
  readonly #writable: boolean;
  readonly #space: AddressSpace;

  static {
    keptBy = (mapping) => mapping.#kept;
    keepInstead = (mapping, kept) => {
      mapping.#kept = kept;
    };
    placeOf = (mapping) => mapping.#place;
  }

  constructor(space: AddressSpace, place: U64Like, kept: Kept, writable: boolean) {
    this.#space = space;
    this.#place = place;
    this.#kept = kept;
    this.#writable = writable;
  }

  /** @internal Is this a mapping in truth, and not by its prototype alone? */
  static made(value: unknown): value is SpaceMapping {
    return typeof value === 'object' && value !== null && #space in value;
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
  /** Where it maps, if the caller or this package chose the place. */
  readonly place: IovaRange | undefined;
}

/** What a space that chooses no addresses itself is asked before one is chosen for it. */
export type Usable = () => { ranges: IovaRange[]; alignment: bigint };

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
  /** The free addresses, once one has been chosen here. */
  #allocator: IovaAllocator | undefined;

  /** `calls` are the hot ones; `resources` go if the space is forgotten. */
  protected constructor(
    key: typeof OURS,
    kind: string,
    parent: Handle,
    calls: NativeSpaceCalls,
    resources: readonly { dispose(): void }[],
  ) {
    ours(key, kind);
    super(
      key,
      kind,
      parent,
      [
        {
          dispose() {
            quietly(() => calls.unmap(0, EVERYTHING));
          },
        },
        ...resources,
      ],
      (self: AddressSpace) => self.#release(),
    );
    this.#calls = calls;
  }

  /** Usable ranges and the alignment in bytes that iova, length and address must have. */
  abstract iovaRanges(): { ranges: IovaRange[]; alignment: bigint };

  /** The live mappings, by ascending IOVA. */
  mappings(): { iova: bigint; length: bigint; writable: boolean }[] {
    alive(this);
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
    alive(this);
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
    alive(this);
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
   * The same as {@link map}, off the event loop: pinning gigabytes takes long. Disposing the space meanwhile undoes
   * it when it is done.
   */
  mapAsync(memory: DmaBuffer | MemorySlice, o?: MapOptions): Promise<Mapping> {
    return this.mapAsyncBy(
      (pages, offset, size, read, write, iova) => this.mapLater(pages, offset, size, read, write, iova),
      memory,
      o,
    );
  }

  /** @internal The same by this call. */
  async mapAsyncBy(
    call: MapLater,
    memory: DmaBuffer | MemorySlice,
    o: MapOptions | undefined,
  ): Promise<Mapping> {
    alive(this);
    const { iova, read, write } = options(o, 'options');
    const readable = flag(read, 'read', true);
    const writable = flag(write, 'write', true);
    alive(this);
    const window = windowOf(memory);
    const { pages, address, offset, size } = window;
    const pending: Pending = {
      unmapped: [],
      place: iova === undefined ? undefined : rangeOf(u64(iova, 'iova'), BigInt(size)),
    };
    pages.hold();
    this.#pending.add(pending);
    try {
      const at = await call(pages.native, offset, size, readable, writable, iova).catch((error: unknown) => {
        throw this.explainMap(error, { iova, size, address: BigInt(address) });
      });
      // If it was disposed meanwhile, the mapping is lost with it: say so rather than hand out a dead one.
      alive(this);
      this.#refuseUnmapped(BigInt(at), BigInt(size), pending);
      return this.record(at, window, writable);
    } finally {
      this.#pending.delete(pending);
      if (this.#pending.size === 0 && this.disposed) this.#end();
      pages.drop();
    }
  }

  /**
   * @internal Maps at the best free place: for kernels' spaces that choose none. `usable` says what can be mapped.
   */
  mapPlacedBy(
    calls: NativeSpaceCalls,
    memory: DmaBuffer | MemorySlice,
    o: MapOptions,
    usable: Usable,
  ): Mapping {
    const place = this.#place(memory, usable);
    try {
      return this.mapBy(calls, memory, { ...o, iova: place.start });
    } catch (error) {
      if (!this.#outdated(place, error)) throw error;
      return this.mapPlacedBy(calls, memory, o, usable);
    }
  }

  /** @internal The same off the loop. */
  async mapPlacedAsyncBy(
    call: MapLater,
    memory: DmaBuffer | MemorySlice,
    o: MapOptions,
    usable: Usable,
  ): Promise<Mapping> {
    const place = this.#place(memory, usable);
    try {
      return await this.mapAsyncBy(call, memory, { ...o, iova: place.start });
    } catch (error) {
      if (!this.#outdated(place, error)) throw error;
      return this.mapPlacedAsyncBy(call, memory, o, usable);
    }
  }

  /** Takes the best free place for this memory. `fresh`: by what the kernel has just said. */
  #place(memory: DmaBuffer | MemorySlice, usable: Usable): Place {
    alive(this);
    const { address, size, length } = windowOf(memory);
    const fresh = this.#allocator === undefined;
    const allocator = this.#allocator ?? this.#free(usable());
    this.#allocator = allocator;
    const found = allocator.place(length, BigInt(address));
    if (found) return { ...found, allocator, fresh };
    this.#allocator = undefined;
    if (!fresh) return this.#place(memory, usable);
    throw new VfioError(constants.errno.ENOSPC, {
      syscall: 'ioctl',
      request: this.mapRequest(),
      reason: `no free range of 0x${size.toString(16)} bytes, aligned as the memory is, among ${allocator.free.map(({ start, last }) => range(start, last - start + 1n)).join(', ')}`,
    });
  }

  /** Everything that is usable and free, as far as is known. */
  #free({ ranges, alignment }: { ranges: IovaRange[]; alignment: bigint }): IovaAllocator {
    const allocator = new IovaAllocator(ranges, alignment);
    for (const { iova, length } of this.#mappings.live()) allocator.take(iova, iova + length - 1n);
    for (const { place } of this.#pending) if (place) allocator.take(place.start, place.last);
    return allocator;
  }

  /**
   * The kernel refused a place. Was it chosen by outdated knowledge? Then that is forgotten, else the place is given
   * back.
   */
  #outdated({ start, last, allocator, fresh }: Place, error: unknown): boolean {
    const refused = error instanceof VfioError && /^(EEXIST|EINVAL)$/.test(error.code);
    if (refused && !fresh && !this.disposed) {
      if (this.#allocator === allocator) this.#allocator = undefined;
      return true;
    }
    // Someone else's mapping is there: the place stays taken.
    if (!(error instanceof VfioError && error.code === 'EEXIST')) allocator.give(start, last);
    return false;
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
      request: this.mapRequest(),
      reason: `${range(start, size)} was unmapped while it was being mapped`,
    });
  }

  /**
   * Unmaps all mappings that lie wholly in the range and returns their bytes.
   *
   * @throws {VfioError} ENOENT nothing is mapped there, or the range cuts a mapping: those below the one that is cut
   * are gone nevertheless; EINVAL length 0; EOVERFLOW the range wraps.
   */
  unmap(iova: U64Like, length: U64Like): bigint {
    return this.unmapBy(this.#calls, iova, length);
  }

  /** @internal The same by these calls. */
  unmapBy(calls: NativeSpaceCalls, iova: U64Like, length: U64Like): bigint {
    alive(this);
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
    this.#forgetUnmapped(BigInt(iova), BigInt(iova) + BigInt(length) - 1n, BigInt(bytes));
    return BigInt(bytes);
  }

  /** Unmaps everything and returns how many bytes that were. */
  unmapAll(): bigint {
    return this.unmapAllBy(this.#calls);
  }

  /** @internal The same by these calls. */
  unmapAllBy(calls: NativeSpaceCalls): bigint {
    alive(this);
    const bytes = calls.unmap(0, EVERYTHING);
    this.#allocator = undefined; // made anew when it is needed: cheaper than giving back one by one
    this.#notePending(0n, EVERYTHING);
    this.#forgetWithin(0n, EVERYTHING);
    return BigInt(bytes);
  }

  /** @internal The kernel's space has come to an end with all that was mapped in it. */
  lost(): void {
    this.#allocator = undefined;
    this.#notePending(0n, EVERYTHING);
    this.#forgetWithin(0n, EVERYTHING);
  }

  /** @internal The memory of a mapping is found elsewhere from now on: `call` tells the kernel where. */
  moveBy(
    mapping: SpaceMapping,
    memory: DmaBuffer | MemorySlice,
    call: (address: number, size: number) => void,
  ): void {
    alive(this);
    const window = windowOf(memory);
    call(window.address, window.size);
    window.pages.hold();
    keptBy(mapping).pages.drop();
    keepInstead(mapping, window);
  }

  /** @internal Is this mapping one of the live ones? */
  holds(mapping: Mapping): boolean {
    return this.#mappings.get(keyOf(mapping.iova)) === mapping;
  }

  /** The request that maps. */
  protected mapRequest(): string {
    return 'IOMMU_IOAS_MAP';
  }

  /** The native call that maps off the loop. */
  protected abstract mapLater(...args: Parameters<MapLater>): Promise<U64Like>;

  /** What is left to do once the space is empty and no call of it is under way. Must not throw. */
  protected abstract emptied(): void;

  /** Bytes of this process that are pinned for devices. */
  protected abstract pinned(): number;

  #release(): void {
    // What a mapAsync is still about to map must go too, and its id must not be another's by then: the last one ends
    // it.
    if (this.#pending.size === 0) this.#end();
    else this.#clear();
  }

  /** A mapping that the kernel has made: recorded, its memory held. */
  protected record(at: U64Like, kept: Kept, writable: boolean): SpaceMapping {
    const mapping = new SpaceMapping(this, keyOf(at), kept, writable);
    kept.pages.hold();
    this.#mappings.add(mapping);
    this.#allocator?.take(mapping.iova, mapping.iova + kept.length - 1n);
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
    this.#allocator?.give(mapping.iova, mapping.iova + mapping.length - 1n);
    keptBy(mapping).pages.drop();
  }

  /**
   * A range was unmapped, of so many bytes. Type1 of the first version takes a mapping that begins in the range
   * whole, also beyond its end, and nothing at all if the range begins inside of one: the bytes tell.
   */
  #forgetUnmapped(start: bigint, last: bigint, bytes: bigint): void {
    const touched = this.#mappings
      .live()
      .filter((each) => each.iova <= last && each.iova + each.length > start);
    const beginning = touched.filter((each) => each.iova >= start);
    if (bytes === 0n && beginning.length < touched.length) return;
    const whole = bytes === beginning.reduce((sum, each) => sum + each.length, 0n);
    for (const each of beginning) if (whole || each.iova + each.length - 1n <= last) this.#forget(each);
  }

  #forgetWithin(start: bigint, last: bigint): void {
    for (const mapping of this.#mappings.live())
      if (mapping.iova >= start && mapping.iova + mapping.length - 1n <= last) this.#forget(mapping);
  }

  /**
   * Behaviour 42: a range that cuts a mapping fails with ENOENT, but what lies below the cut one is gone. Type1 looks
   * first: it fails with EINVAL, and nothing is gone.
   */
  #afterFailedUnmap(error: unknown, from: U64Like, length: U64Like): unknown {
    if (!(error instanceof VfioError) || !/^(ENOENT|EINVAL)$/.test(error.code)) return error;
    const start = BigInt(from);
    const last = start + BigInt(length) - 1n;
    const cut = this.mappings().find(({ iova, length }) => {
      const end = iova + length - 1n;
      return start <= last && iova <= last && end >= start && (iova < start || end > last);
    });
    if (error.code === 'EINVAL' && cut === undefined) return error;
    if (error.code === 'ENOENT') {
      this.#notePending(start, last);
      if (cut && cut.iova >= start) this.#forgetWithin(start, cut.iova - 1n);
    }
    return withWords(error, () => ({
      reason: cut
        ? `the range cuts the mapping ${range(cut.iova, cut.length)}; only whole mappings can be unmapped`
        : `nothing is mapped in ${range(start, last - start + 1n)}`,
    }));
  }
}

/** A place that was chosen for a mapping. */
interface Place extends IovaRange {
  readonly allocator: IovaAllocator;
  readonly fresh: boolean;
}

function rangeOf(start: bigint, length: bigint): IovaRange {
  return { start, last: start + length - 1n };
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
