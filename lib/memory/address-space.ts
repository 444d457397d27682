/**
 * Mapping memory, and keeping it for as long as a device can reach it: an Ioas does so by its own requests, a
 * Container by those of type1.
 *
 * What is mapped is known from the addon's ledger (native/ledger), which records each call of this process together with
 * the call, and keeps the memory until the kernel is known to have let go of it. Nothing here keeps a record of its own.
 *
 * Life of a mapping: made by map, mapAsync or copy; gone when it is unmapped, by its own disposal, by a range or with
 * its space.
 */
import { constants } from 'node:os';
import type { NativeFile } from '../addon/files.ts';
import { warnOfKeptMemory } from '../addon/kept-memory.ts';
import type { NativeSpace, NativeSpaceCalls } from '../addon/memory.ts';
import type { IovaRange } from '../addon/records.ts';
import { options, plain, type U64Like, u64 } from '../base/check.ts';
import { VfioError, type Words, withWords } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, Handle } from '../handles/handle.ts';
import { type DmaBuffer, type MemorySlice, type Window, windowOf } from './dma-buffer.ts';
import type { DmaSpace, MapOptions, Mapping } from './dma-space.ts';
import { IovaAllocator } from './iova-allocator.ts';
import { accessOf, mappingNumber, READ, WRITE } from './map-call.ts';
import { type MapRequest, wordsForMap } from './map-words.ts';

/** What unmaps everything: from 0 on, this many bytes. */
export const EVERYTHING = 2n ** 64n - 1n;

/** What a mapping is: out of a caller's reach. */
export interface MappingParts {
  readonly space: AddressSpace;
  /** As the addon gave it: a number where that is exact, which costs less, else a bigint. */
  readonly place: U64Like;
  readonly length: bigint;
  readonly writable: boolean;
  readonly number: number;
}

let partsOf: (mapping: SpaceMapping) => MappingParts;
let isMapping: (value: object) => value is SpaceMapping;

/** A mapping that this process made. */
export class SpaceMapping implements Mapping {
  readonly #parts: MappingParts;

  static {
    partsOf = (mapping) => mapping.#parts;
    isMapping = (value): value is SpaceMapping => #parts in value;
  }

  constructor(
    key: typeof OURS,
    space: AddressSpace,
    place: U64Like,
    length: bigint,
    writable: boolean,
    number: number,
  ) {
    ours(key, 'Mapping');
    this.#parts = { space, place, length, writable, number };
  }

  get iova(): bigint {
    const { place } = this.#parts;
    return typeof place === 'bigint' ? place : BigInt(place);
  }

  get length(): bigint {
    return this.#parts.length;
  }

  get writable(): boolean {
    return this.#parts.writable;
  }

  /** Unmaps what is left of it, and nothing else. */
  [Symbol.dispose](): void {
    const { space, number, place, length } = this.#parts;
    endMapping(space, number, place, length);
  }
}

/** What a mapping is made of; undefined: it is none. */
export function mappingParts(value: unknown): MappingParts | undefined {
  return typeof value === 'object' && value !== null && isMapping(value) ? partsOf(value) : undefined;
}

/** What a space that chooses no addresses itself is asked before one is chosen for it. */
export type Usable = () => { ranges: IovaRange[]; alignment: bigint };

/** A call that maps off the event loop, and the space that it is in: a container's may be another one by then. */
export type MapLater = (
  memory: number,
  access: number,
  number: number,
  iova: U64Like | undefined,
  offset: number,
  size: number,
) => Promise<{ place: U64Like; space: AddressSpace }>;

/** How to map: by the space's own requests, or by a container's over it. */
export interface Way {
  readonly calls: NativeSpaceCalls;
  readonly later: MapLater;
  /** The space that the last call of `calls` worked on. */
  space(): AddressSpace;
}

/** The handle of a mapping that the kernel has made. */
export function mappingIn(
  space: AddressSpace,
  place: U64Like,
  length: bigint,
  access: number,
  number: number,
): SpaceMapping {
  take(space, place, length);
  return new SpaceMapping(OURS, space, place, length, (access & WRITE) !== 0, number);
}

/** The error of a call that maps, with words. */
export function explainMap(space: AddressSpace, error: unknown, request: MapRequest): unknown {
  return withWords(error, (failed) => mapWords(space, failed, request));
}

/** What ends a space that was forgotten. In a scope of its own: it must not keep the space. */
function endOf(made: NativeSpace, closes: NativeFile | undefined): { dispose(): void } {
  return {
    dispose() {
      made.dispose();
      closes?.dispose();
      warnOfKeptMemory();
    },
  };
}

/** By a space's own requests. Arguments go by name: what is spread goes by an iterator, which anybody may replace. */
function wayOf(space: AddressSpace, made: NativeSpace, calls: NativeSpaceCalls): Way {
  return {
    calls,
    later: async (memory, access, number, iova, offset, size) => ({
      place: await made.mapAsync(memory, access, number, iova, offset, size),
      space,
    }),
    space: () => space,
  };
}

let mapWords: (space: AddressSpace, error: VfioError, request: MapRequest) => Words | undefined;
let take: (space: AddressSpace, place: U64Like, length: bigint) => void;
let endMapping: (space: AddressSpace, number: number, place: U64Like, length: bigint) => void;
let nativeOf: (space: AddressSpace) => NativeSpace;
let mapWindow: (
  space: AddressSpace,
  way: Way,
  window: Window,
  access: number,
  iova: U64Like | undefined,
) => SpaceMapping;
let mapWindowLater: (
  space: AddressSpace,
  way: Way,
  window: Window,
  access: number,
  iova: U64Like | undefined,
) => Promise<SpaceMapping>;
let unmapRange: (space: AddressSpace, way: Way, iova: U64Like, length: U64Like) => bigint;
let placeIn: (space: AddressSpace, window: Window, usable: Usable) => Place;
let isOutdated: (space: AddressSpace, place: Place, error: unknown) => boolean;

/** The ledger's view of a space, for this package's own modules. */
export function nativeSpaceOf(space: AddressSpace): NativeSpace {
  return nativeOf(space);
}

/** Maps by a container's requests, at the best free place where none is given: kernels choose none for containers. */
export function mapBy(
  space: AddressSpace,
  way: Way,
  memory: DmaBuffer | MemorySlice,
  { iova, read, write }: MapOptions,
  usable: Usable,
): SpaceMapping {
  const window = windowOf(memory);
  const access = accessOf(read, write);
  if (iova !== undefined) return mapWindow(space, way, window, access, iova);
  for (;;) {
    const place = placeIn(space, window, usable);
    try {
      return mapWindow(space, way, window, access, place.start);
    } catch (error) {
      if (!isOutdated(space, place, error)) throw error;
    }
  }
}

/** The same, off the event loop. */
export async function mapLaterBy(
  space: AddressSpace,
  way: Way,
  memory: DmaBuffer | MemorySlice,
  { iova, read, write }: MapOptions,
  usable: Usable,
): Promise<SpaceMapping> {
  const window = windowOf(memory);
  const access = accessOf(read, write);
  if (iova !== undefined) return mapWindowLater(space, way, window, access, iova);
  for (;;) {
    const place = placeIn(space, window, usable);
    try {
      return await mapWindowLater(space, way, window, access, place.start);
    } catch (error) {
      // The memory of a buffer that was disposed meanwhile is not there for another try.
      if (!isOutdated(space, place, error) || window.pages.disposed) throw error;
    }
  }
}

/** Unmaps by a container's requests. */
export function unmapBy(space: AddressSpace, way: Way, iova: U64Like, length: U64Like): bigint {
  return unmapRange(space, way, iova, length);
}

/** An address space, as a handle on the ledger's record of it. */
export abstract class AddressSpace extends Handle implements DmaSpace {
  readonly #native: NativeSpace;
  readonly #file: NativeFile;
  readonly #request: string;
  readonly #own: Way;
  /** The free addresses, once one has been chosen here. */
  #allocator: IovaAllocator | undefined;

  static {
    mapWords = (space, error, request) => space.#wordsForMap(error, request);
    take = (space, place, length) => space.#allocator?.take(BigInt(place), BigInt(place) + length - 1n);
    nativeOf = (space) => space.#native;
    mapWindow = (space, way, window, access, iova) => space.#map(way, window, access, iova);
    mapWindowLater = (space, way, window, access, iova) => space.#mapLater(way, window, access, iova);
    unmapRange = (space, way, iova, length) => space.#unmap(way, iova, length);
    placeIn = (space, window, usable) => space.#place(window, usable);
    isOutdated = (space, place, error) => space.#outdated(place, error);
    endMapping = (space, number, place, length) => {
      if (space.disposed || space.#native.ended()) return;
      if (BigInt(space.#native.unmapMapping(number, place, length)) === length)
        space.#allocator?.give(BigInt(place), BigInt(place) + length - 1n);
      else space.#allocator = undefined;
    };
  }

  /** `file`: what it is in; `request`: the one that maps; `closes`: the file, if it ends with a forgotten space. */
  protected constructor(
    key: typeof OURS,
    kind: string,
    parent: Handle,
    made: NativeSpace,
    calls: NativeSpaceCalls,
    file: NativeFile,
    request: string,
    closes?: NativeFile,
  ) {
    super(key, kind, parent, [endOf(made, closes)], (self: AddressSpace) => self.#release());
    this.#native = made;
    this.#file = file;
    this.#request = request;
    this.#own = wayOf(this, made, calls);
  }

  /** Usable ranges and the alignment in bytes that iova, length and address must have. */
  abstract iovaRanges(): { ranges: IovaRange[]; alignment: bigint };

  /**
   * What is mapped, by ascending IOVA, whichever handle or thread of this process mapped it. A mapping that was cut is an
   * entry for each part that is left.
   */
  mappings(): { iova: bigint; length: bigint; writable: boolean }[] {
    alive(this);
    return this.#native.mappings();
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
    alive(this);
    let iova: U64Like | undefined;
    let access = READ | WRITE;
    if (o !== undefined) {
      // One by one and by name: copying them would cost as much as the rest of this call.
      plain(o, 'options');
      if (Object.hasOwn(o, 'iova')) iova = o.iova;
      access = accessOf(
        Object.hasOwn(o, 'read') ? o.read : undefined,
        Object.hasOwn(o, 'write') ? o.write : undefined,
      );
    }
    return this.#map(this.#own, windowOf(memory), access, iova);
  }

  /**
   * The same as {@link map}, off the event loop: pinning gigabytes takes long. If the space is disposed meanwhile, nothing
   * stays mapped, and the promise is rejected. So it is, with ECANCELED, if the range is unmapped meanwhile.
   */
  async mapAsync(memory: DmaBuffer | MemorySlice, o?: MapOptions): Promise<Mapping> {
    alive(this);
    const { iova, read, write } = options(o, 'options');
    const access = accessOf(read, write);
    if (iova !== undefined) u64(iova, 'iova');
    return this.#mapLater(this.#own, windowOf(memory), access, iova);
  }

  /**
   * Unmaps all mappings that lie wholly in the range and returns their bytes.
   *
   * @throws {VfioError} ENOENT nothing is mapped there, or the range cuts a mapping: those below the one that is cut
   * are gone nevertheless; EINVAL length 0; EOVERFLOW the range wraps.
   */
  unmap(iova: U64Like, length: U64Like): bigint {
    return this.#unmap(this.#own, iova, length);
  }

  /** Unmaps everything and returns how many bytes that were. */
  unmapAll(): bigint {
    return this.#unmap(this.#own, 0, EVERYTHING);
  }

  #release(): void {
    this.#native.dispose();
    warnOfKeptMemory();
  }

  #wordsForMap(error: VfioError, request: MapRequest): Words | undefined {
    let usable: { ranges: IovaRange[]; alignment: bigint };
    let pinned: number;
    try {
      usable = this.iovaRanges();
      pinned = this.#file.pinned();
    } catch {
      return undefined; // the space itself is gone: the first error says so
    }
    const { ranges, alignment } = usable;
    return wordsForMap(error, request, { ranges, alignment, mappings: this.mappings(), pinned });
  }

  #map(way: Way, window: Window, access: number, iova: U64Like | undefined): SpaceMapping {
    // The caller's options may have getters, which dispose this: nothing comes between here and the call.
    alive(this);
    const { memory, offset, size, length, whole } = window;
    const number = mappingNumber();
    let place: U64Like | undefined;
    try {
      // A call with fewer arguments is faster, and a whole buffer needs no offset and no length.
      place =
        (whole
          ? way.calls.map(memory, access, number, iova)
          : way.calls.map(memory, access, number, iova, offset, size)) ?? iova;
    } catch (error) {
      throw explainMap(this, error, { iova, size, address: BigInt(window.address) });
    }
    return mappingIn(way.space(), place as U64Like, length, access, number);
  }

  async #mapLater(
    way: Way,
    window: Window,
    access: number,
    iova: U64Like | undefined,
  ): Promise<SpaceMapping> {
    alive(this);
    const { memory, offset, size, length } = window;
    const number = mappingNumber();
    const { place, space } = await way
      .later(memory, access, number, iova, offset, size)
      .catch((error: unknown) => {
        alive(this); // what was disposed meanwhile says so
        throw explainMap(this, error, { iova, size, address: BigInt(window.address) });
      });
    alive(space);
    if (!space.#native.holds(number, place, length))
      throw new VfioError(constants.errno.ECANCELED, {
        syscall: 'ioctl',
        request: this.#request,
        reason: `${range(BigInt(place), length)} was unmapped while it was being mapped`,
      });
    return mappingIn(space, place, length, access, number);
  }

  #unmap(way: Way, iova: U64Like, length: U64Like): bigint {
    alive(this);
    let bytes: U64Like | undefined;
    try {
      bytes = way.calls.unmap(iova, length);
    } catch (error) {
      warnOfKeptMemory();
      this.#allocator = undefined;
      throw this.#explainUnmap(error, iova, length);
    }
    if (bytes !== undefined) {
      warnOfKeptMemory();
      // The free addresses are asked for again.
      this.#allocator = undefined;
      return BigInt(bytes);
    }
    // All of the range was mapped, and is free now.
    const unmapped = typeof length === 'bigint' ? length : BigInt(length);
    this.#allocator?.give(BigInt(iova), BigInt(iova) + unmapped - 1n);
    return unmapped;
  }

  /** Takes the best free place for this memory. `fresh`: by what the kernel has just said. */
  #place(window: Window, usable: Usable): Place {
    alive(this);
    const { address, size, length } = window;
    const fresh = this.#allocator === undefined;
    const allocator = this.#allocator ?? this.#free(usable());
    this.#allocator = allocator;
    const found = allocator.place(length, BigInt(address));
    if (found) return { ...found, allocator, fresh };
    this.#allocator = undefined;
    if (!fresh) return this.#place(window, usable);
    throw new VfioError(constants.errno.ENOSPC, {
      syscall: 'ioctl',
      request: this.#request,
      reason: `no free range of 0x${size.toString(16)} bytes, aligned as the memory is, among ${allocator.free.map(({ start, last }) => range(start, last - start + 1n)).join(', ')}`,
    });
  }

  /** Everything that is usable and free, as far as is known. */
  #free({ ranges, alignment }: { ranges: IovaRange[]; alignment: bigint }): IovaAllocator {
    const allocator = new IovaAllocator(ranges, alignment);
    for (const { iova, length } of this.#native.mappings()) allocator.take(iova, iova + length - 1n);
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
   * Behaviour 42: a range that cuts a mapping fails with ENOENT, but what lies below the cut one is gone. Type1 looks
   * first: it fails with EINVAL, and nothing is gone.
   */
  #explainUnmap(error: unknown, from: U64Like, length: U64Like): unknown {
    if (!(error instanceof VfioError) || !/^(ENOENT|EINVAL)$/.test(error.code)) return error;
    if (this.#native.ended()) return withWords(error, () => ({ reason: 'the address space was destroyed' }));
    const start = BigInt(from);
    const last = start + BigInt(length) - 1n;
    const cut = this.mappings().find(({ iova, length }) => {
      const end = iova + length - 1n;
      return start <= last && iova <= last && end >= start && (iova < start || end > last);
    });
    if (error.code === 'EINVAL' && cut === undefined) return error;
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

function range(start: bigint, length: bigint): string {
  return `[0x${start.toString(16)}, 0x${(start + length - 1n).toString(16)}]`;
}
