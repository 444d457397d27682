/**
 * Maps memory into an address space, and keeps it for as long as a device can reach it. An Ioas maps by its own requests, a
 * Container by those of type1.
 *
 * The addon's ledger (native/ledger) knows what is mapped. It records each call of this process together with the call, and
 * keeps the memory until the kernel is known to have unmapped it. This file has no records of its own.
 *
 * Life of a mapping: map, mapAsync or copy makes it. It ends when it is disposed, when a range that contains it is unmapped,
 * or with its address space.
 */

import { constants } from 'node:os';
import type { NativeFile } from '../addon/files.ts';
import { warnOfKeptMemory } from '../addon/kept-memory.ts';
import type { NativeSpace, NativeSpaceCalls } from '../addon/memory.ts';
import { native } from '../addon/native.ts';
import type { IovaRange } from '../addon/records.ts';
import { options, type U64Like, u64 } from '../base/check.ts';
import { VfioError, type Words, withWords } from '../base/errors.ts';
import { hex, range } from '../base/hex.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, Handle, observerOf } from '../handles/handle.ts';
import { type DmaBuffer, type MemorySlice, type Window, watched, windowOf } from './dma-buffer.ts';
import type { DmaSpace, MapOptions, Mapping } from './dma-space.ts';
import { IovaAllocator } from './iova-allocator.ts';
import { accessOf, mapOptionsOf, mappingNumber, READ, WRITE } from './map-call.ts';
import { type MapRequest, wordsForMap } from './map-words.ts';

/** Where the last map put its memory. Reading it costs less than a value that the call returns. */
const { place } = native;

/** An unmap of this many bytes from address 0 on unmaps everything. */
export const EVERYTHING = 2n ** 64n - 1n;

/** The fields of a mapping, which no program can reach. */
export interface MappingParts {
  readonly space: AddressSpace;
  readonly iova: bigint;
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
    iova: bigint,
    length: bigint,
    writable: boolean,
    number: number,
  ) {
    ours(key, 'Mapping');
    this.#parts = { space, iova, length, writable, number };
  }

  get iova(): bigint {
    return this.#parts.iova;
  }

  get length(): bigint {
    return this.#parts.length;
  }

  get writable(): boolean {
    return this.#parts.writable;
  }

  /** Unmaps the parts of it that are still mapped, and nothing else. */
  [Symbol.dispose](): void {
    const { space, number, iova, length } = this.#parts;
    endMapping(space, number, iova, length);
  }
}

/** The fields of a mapping; undefined: the value is not a mapping. */
export function mappingParts(value: unknown): MappingParts | undefined {
  return typeof value === 'object' && value !== null && isMapping(value) ? partsOf(value) : undefined;
}

/** Returns the usable ranges of a space, for which this package has to choose an IOVA because the kernel does not. */
export type Usable = () => { ranges: IovaRange[]; alignment: bigint };

/** Maps off the event loop. The result names the space too: the container may work on another one by then. */
export type MapLater = (
  memory: number,
  access: number,
  number: number,
  iova: U64Like | undefined,
  offset: number,
  size: number,
) => Promise<{ iova: bigint; space: AddressSpace }>;

/** The requests to map by: the space's own, or those of a container that works on the space. */
export interface Way {
  readonly calls: NativeSpaceCalls;
  readonly later: MapLater;
  /** The space that the last call of `calls` worked on. */
  space(): AddressSpace;
}

/** The handle of a mapping that the kernel has made. */
export function mappingIn(
  space: AddressSpace,
  iova: bigint,
  length: bigint,
  access: number,
  number: number,
  window?: Window,
): SpaceMapping {
  take(space, iova, length);
  const write = (access & WRITE) !== 0;
  const observer = observerOf(space);
  if (observer !== null) {
    const memory = window && watched(window, observer);
    observer.mapped(space, { number, iova, length, write, memory });
  }
  return new SpaceMapping(OURS, space, iova, length, write, number);
}

/** The error of a call that maps, with a reason. */
export function explainMap(space: AddressSpace, error: unknown, request: MapRequest): unknown {
  return withWords(error, (failed) => mapWords(space, failed, request));
}

/** Ends a space that was collected undisposed. A function of its own, so that the closure does not capture the space. */
function endOf(made: NativeSpace, closes: NativeFile | undefined): { dispose(): void } {
  return {
    dispose() {
      made.dispose();
      closes?.dispose();
      warnOfKeptMemory();
    },
  };
}

/** Maps by a space's own requests. No spread arguments: a spread calls an iterator, which a program may have replaced. */
function wayOf(space: AddressSpace, made: NativeSpace, calls: NativeSpaceCalls): Way {
  return {
    calls,
    later: async (memory, access, number, iova, offset, size) => ({
      iova: BigInt(await made.mapAsync(memory, access, number, iova, offset, size)),
      space,
    }),
    space: () => space,
  };
}

let mapWords: (space: AddressSpace, error: VfioError, request: MapRequest) => Words | undefined;
let take: (space: AddressSpace, iova: bigint, length: bigint) => void;
let endMapping: (space: AddressSpace, number: number, iova: bigint, length: bigint) => void;
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

/** A space's record in the ledger, for this package's own modules. */
export function nativeSpaceOf(space: AddressSpace): NativeSpace {
  return nativeOf(space);
}

/** Maps by a container's requests. Without an `iova`, at the best free place: the kernel chooses no IOVA for containers. */
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
      // A buffer that was disposed meanwhile can't be mapped again.
      if (!isOutdated(space, place, error) || window.pages.disposed) throw error;
    }
  }
}

/** Unmaps by a container's requests. */
export function unmapBy(space: AddressSpace, way: Way, iova: U64Like, length: U64Like): bigint {
  return unmapRange(space, way, iova, length);
}

/** An address space: a handle of the ledger's record of it. */
export abstract class AddressSpace extends Handle implements DmaSpace {
  readonly #native: NativeSpace;
  readonly #file: NativeFile;
  readonly #request: string;
  readonly #entriesLeft: (() => number | null) | undefined;
  readonly #own: Way;
  /** The free addresses. Undefined until this package chooses an IOVA, and when they have to be read again. */
  #allocator: IovaAllocator | undefined;

  static {
    mapWords = (space, error, request) => space.#wordsForMap(error, request);
    take = (space, iova, length) => space.#allocator?.take(iova, iova + length - 1n);
    nativeOf = (space) => space.#native;
    mapWindow = (space, way, window, access, iova) => space.#map(way, window, access, iova);
    mapWindowLater = (space, way, window, access, iova) => space.#mapLater(way, window, access, iova);
    unmapRange = (space, way, iova, length) => space.#unmap(way, iova, length);
    placeIn = (space, window, usable) => space.#place(window, usable);
    isOutdated = (space, place, error) => space.#outdated(place, error);
    endMapping = (space, number, iova, length) => {
      if (space.disposed || space.#native.ended()) return;
      observerOf(space)?.unmaps(space, iova, length, number);
      if (BigInt(space.#native.unmapMapping(number, iova, length)) === length)
        space.#allocator?.give(iova, iova + length - 1n);
      else space.#allocator = undefined;
    };
  }

  /**
   * `file`: the open file that the space belongs to. `request`: the name of its request to map. `closes`: the file, if it is
   * closed with a space that was collected undisposed. `entriesLeft`: how many more mappings the kernel takes, if it has a limit
   * of that kind; null: it does not tell.
   */
  protected constructor(
    key: typeof OURS,
    kind: string,
    parent: Handle,
    made: NativeSpace,
    calls: NativeSpaceCalls,
    file: NativeFile,
    request: string,
    closes?: NativeFile,
    entriesLeft?: () => number | null,
  ) {
    super(key, kind, parent, [endOf(made, closes)], (self: AddressSpace) => self.#release());
    this.#native = made;
    this.#file = file;
    this.#request = request;
    this.#entriesLeft = entriesLeft;
    this.#own = wayOf(this, made, calls);
  }

  /** Usable ranges and the alignment in bytes that iova, length and address must have. */
  abstract iovaRanges(): { ranges: IovaRange[]; alignment: bigint };

  /**
   * The mappings of this process, by ascending IOVA, whichever handle or thread made them. A mapping that was cut is an entry
   * for each part that is still mapped.
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
   * @throws {VfioError} EEXIST the range overlaps a mapping; EINVAL it overlaps a reserved range, is not aligned, or neither
   * read nor write is allowed; ENOSPC no free range is large enough; ENOMEM over the limit; EFAULT the memory can't be pinned.
   * `reason` names the mapping, the range or the limit.
   */
  map(memory: DmaBuffer | MemorySlice, o?: MapOptions): Mapping {
    alive(this);
    let iova: U64Like | undefined;
    let access = READ | WRITE;
    if (o !== undefined) {
      const given = mapOptionsOf(o);
      iova = given.iova;
      access = accessOf(given.read, given.write);
    }
    return this.#map(this.#own, windowOf(memory), access, iova);
  }

  /**
   * The same as {@link map}, off the event loop: pinning gigabytes takes long. If the space is disposed meanwhile, nothing
   * stays mapped, and the promise is rejected. If the range is unmapped meanwhile, it is rejected with ECANCELED.
   */
  async mapAsync(memory: DmaBuffer | MemorySlice, o?: MapOptions): Promise<Mapping> {
    alive(this);
    const { iova, read, write } = options(o, 'options');
    const access = accessOf(read, write);
    if (iova !== undefined) u64(iova, 'iova');
    return this.#mapLater(this.#own, windowOf(memory), access, iova);
  }

  /**
   * Unmaps all mappings that lie wholly in the range; returns how many bytes were unmapped.
   *
   * @throws {VfioError} ENOENT nothing is mapped there, or the range cuts a mapping: the mappings below the one that is cut are
   * unmapped nevertheless; EINVAL length 0; EOVERFLOW the range wraps.
   */
  unmap(iova: U64Like, length: U64Like): bigint {
    return this.#unmap(this.#own, iova, length);
  }

  /** Unmaps everything; returns how many bytes were unmapped. */
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
      return undefined; // the space was disposed or destroyed: the first error says enough
    }
    const { ranges, alignment } = usable;
    const entriesLeft = this.#entriesLeft?.() ?? undefined;
    return wordsForMap(error, request, { ranges, alignment, mappings: this.mappings(), pinned, entriesLeft });
  }

  #map(way: Way, window: Window, access: number, iova: U64Like | undefined): SpaceMapping {
    // A getter in the caller's options may have disposed this. No code of the program runs between this check and the call.
    alive(this);
    const { memory, offset, size, length, whole } = window;
    const number = mappingNumber();
    try {
      // A call with fewer arguments is faster: a whole buffer needs no offset and no length.
      if (!whole) way.calls.map(memory, access, number, iova, offset, size);
      else if (iova !== undefined) way.calls.map(memory, access, number, iova);
      else way.calls.map(memory, access, number);
    } catch (error) {
      throw explainMap(this, error, { iova, size, address: BigInt(window.address) });
    }
    return mappingIn(way.space(), place[0] as bigint, length, access, number, window);
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
    const { iova: place, space } = await way
      .later(memory, access, number, iova, offset, size)
      .catch((error: unknown) => {
        alive(this); // if the space was disposed meanwhile, throws that error instead
        throw explainMap(this, error, { iova, size, address: BigInt(window.address) });
      });
    alive(space);
    if (!space.#native.holds(number, place, length))
      throw new VfioError(constants.errno.ECANCELED, {
        syscall: 'ioctl',
        request: this.#request,
        reason: `${range(place, length)} was unmapped while it was being mapped`,
      });
    return mappingIn(space, place, length, access, number, window);
  }

  #unmap(way: Way, iova: U64Like, length: U64Like): bigint {
    alive(this);
    const observer = observerOf(this);
    if (observer !== null) observer.unmaps(this, u64(iova, 'iova'), u64(length, 'length'));
    let bytes: U64Like | undefined;
    try {
      bytes = way.calls.unmap(iova, length);
    } catch (error) {
      warnOfKeptMemory();
      this.#allocator = undefined;
      if (observer !== null && !this.disposed)
        observer.unmapFailed(this, BigInt(iova), BigInt(length), this.#native.mappings());
      throw this.#explainUnmap(error, iova, length);
    }
    if (bytes !== undefined) {
      warnOfKeptMemory();
      // The call does not say which addresses became free: they are read again when one has to be chosen.
      this.#allocator = undefined;
      return BigInt(bytes);
    }
    // The whole range was mapped, and is free now.
    const unmapped = typeof length === 'bigint' ? length : BigInt(length);
    this.#allocator?.give(BigInt(iova), BigInt(iova) + unmapped - 1n);
    return unmapped;
  }

  /** Takes the best free place for this memory. `fresh`: the free addresses were read just now. */
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
      reason: `no free range of ${hex(size)} bytes, aligned as the memory is, among ${allocator.free.map(({ start, last }) => range(start, last - start + 1n)).join(', ')}`,
    });
  }

  /** The usable addresses without those of the known mappings. Other processes may have mapped more. */
  #free({ ranges, alignment }: { ranges: IovaRange[]; alignment: bigint }): IovaAllocator {
    const allocator = new IovaAllocator(ranges, alignment);
    for (const { iova, length } of this.#native.mappings()) allocator.take(iova, iova + length - 1n);
    return allocator;
  }

  /**
   * The kernel has refused a place. Returns whether it was chosen from outdated free addresses: these are dropped then, to be
   * read again. Otherwise the place is given back.
   */
  #outdated({ start, last, allocator, fresh }: Place, error: unknown): boolean {
    const refused = error instanceof VfioError && /^(EEXIST|EINVAL)$/.test(error.code);
    if (refused && !fresh && !this.disposed) {
      if (this.#allocator === allocator) this.#allocator = undefined;
      return true;
    }
    // With EEXIST, a mapping that is not in the ledger is there: the place stays taken.
    if (!(error instanceof VfioError && error.code === 'EEXIST')) allocator.give(start, last);
    return false;
  }

  /**
   * The reason why an unmap failed. In iommufd a range that cuts a mapping fails with ENOENT, but the mappings below the one
   * that is cut are unmapped (docs/behaviours.md, 42). Type1 checks first: it fails with EINVAL, and unmaps nothing.
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

/** A range of addresses that was chosen for a mapping, and the allocator that it was taken from. */
interface Place extends IovaRange {
  readonly allocator: IovaAllocator;
  readonly fresh: boolean;
}
