/**
 * An I/O address space: what IOVA leads to which memory. Requirement D1.
 *
 * Life: made by Iommufd.allocIoas, its mappings by map and copy. It keeps the memory of each mapping until that is
 * unmapped. Disposing an IOAS unmaps everything in it; the kernel's object goes at once if nothing is attached to it,
 * else with its iommufd.
 */
import { constants } from 'node:os';
import { array, flag, instance, options, refusal, type U64Like, u64 } from './check.ts';
import { type DmaBuffer, type MemorySlice, type Window, windowOf } from './dma-buffer.ts';
import type { DmaSpace, IovaRange, MapOptions, Mapping } from './dma-space.ts';
import { explained, VfioError, withWords } from './errors.ts';
import { type MapRequest, wordsForMap } from './explain.ts';
import { genuine, Handle } from './handle.ts';
import type { Iommufd } from './iommufd.ts';
import type { NativeFile, NativeIoasCalls } from './native.ts';

const EVERYTHING = 2n ** 64n - 1n;

/** What a mapping is made of: out of a caller's reach. */
let windowBehind: (mapping: IoasMapping) => Window;
let placeOf: (mapping: IoasMapping) => U64Like;

/**
 * A mapping in an IOAS: the kernel's, and the pages that it keeps. Its place is as the addon gave it: a number where
 * that is exact, which costs less, else a bigint.
 */
class IoasMapping implements Mapping {
  readonly #place: U64Like;
  readonly #window: Window;
  readonly #writable: boolean;
  readonly #space: Ioas;

  static {
    windowBehind = (mapping) => mapping.#window;
    placeOf = (mapping) => mapping.#place;
  }

  constructor(space: Ioas, place: U64Like, window: Window, writable: boolean) {
    this.#space = space;
    this.#place = place;
    this.#window = window;
    this.#writable = writable;
  }

  get iova(): bigint {
    return BigInt(this.#place);
  }

  get length(): bigint {
    return this.#window.length;
  }

  get writable(): boolean {
    return this.#writable;
  }

  get space(): Ioas {
    return this.#space;
  }

  [Symbol.dispose](): void {
    if (!this.#space.disposed && this.#space.holds(this)) this.#space.unmap(this.#place, this.#window.size);
  }
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
  readonly #places = new Map<U64Like, IoasMapping | undefined>();
  #live = 0;

  get(at: U64Like): IoasMapping | undefined {
    return this.#places.get(at);
  }

  add(mapping: IoasMapping): void {
    this.#places.set(placeOf(mapping), mapping);
    this.#live++;
  }

  remove(mapping: IoasMapping): void {
    this.#places.set(placeOf(mapping), undefined);
    if (this.#places.size > 2 * --this.#live + 64)
      for (const [at, held] of this.#places) if (held === undefined) this.#places.delete(at);
  }

  live(): IoasMapping[] {
    return [...this.#places.values()].filter((each) => each !== undefined);
  }
}

/**
 * An I/O address space of an iommufd (Linux 6.2). Ranges are inclusive; addresses and lengths are bytes, and multiples of
 * `iovaRanges().alignment`: 1 while nothing is attached, the IOMMU's smallest page then.
 */
export class Ioas extends Handle implements DmaSpace {
  readonly #iommufd: Iommufd;
  readonly #file: NativeFile;
  readonly #id: number;
  readonly #calls: NativeIoasCalls;
  readonly #mappings = new Mappings();
  /** The mapAsync under way. */
  readonly #pending = new Set<Pending>();

  /** @internal */
  constructor(iommufd: Iommufd, file: NativeFile, id: number) {
    genuine('Ioas', file);
    const calls = file.ioasCalls(id);
    super('Ioas', iommufd, [
      {
        dispose() {
          quietly(() => calls.unmap(0, EVERYTHING));
          quietly(() => file.destroy(id));
        },
      },
    ]);
    this.#iommufd = iommufd;
    this.#file = file;
    this.#id = id;
    this.#calls = calls;
  }

  /** The IOAS's id in its iommufd. */
  get id(): number {
    this.alive();
    return this.#id;
  }

  /** The iommufd that it is in. */
  get iommufd(): Iommufd {
    return this.#iommufd;
  }

  /** The live mappings, by ascending IOVA. */
  mappings(): { iova: bigint; length: bigint; writable: boolean }[] {
    this.alive();
    return this.#mappings
      .live()
      .sort((a, b) => (a.iova < b.iova ? -1 : 1))
      .map(({ iova, length, writable }) => ({ iova, length, writable }));
  }

  /**
   * What can be mapped (IOMMU_IOAS_IOVA_RANGES, Linux 6.2): everything but what attached devices and IOMMUs reserve.
   * Mappings and {@link allowIovas} do not narrow it. A new IOAS: one range 0 to 2^64-1, alignment 1.
   */
  iovaRanges(): { ranges: IovaRange[]; alignment: bigint } {
    this.alive();
    return this.#file.ioasIovaRanges(this.#id);
  }

  /**
   * Limits where the kernel may place mappings by itself (IOMMU_IOAS_ALLOW_IOVAS, Linux 6.2); an explicit `iova` may
   * lie outside. Replaces the earlier list; an empty one lifts the limit.
   *
   * @throws {VfioError} EINVAL a range of one address or less, or overlapping ones; EADDRINUSE a range is reserved.
   */
  allowIovas(ranges: readonly { start: U64Like; last: U64Like }[]): void {
    this.alive();
    const flat: bigint[] = [];
    for (const [i, range] of array(ranges, 'ranges').entries()) {
      if (typeof range !== 'object' || range === null)
        throw refusal('{ start, last }', `ranges[${i}]`, range);
      flat.push(u64(range.start, `ranges[${i}].start`), u64(range.last, `ranges[${i}].last`));
    }
    this.#file.ioasAllowIovas(this.#id, BigUint64Array.from(flat));
  }

  /**
   * Makes memory reachable by the devices attached to this IOAS (IOMMU_IOAS_MAP, Linux 6.2).
   *
   * The memory is pinned while a device is attached, and counts against RLIMIT_MEMLOCK then (unless the process has
   * CAP_IPC_LOCK).
   *
   * @throws {VfioError} EEXIST the range overlaps a mapping; EINVAL it touches a reserved range, is not aligned, or
   * neither read nor write is allowed; ENOSPC no room; ENOMEM over the limit; EFAULT the memory can't be pinned.
   * `reason` names the mapping, the range or the limit.
   */
  map(memory: DmaBuffer | MemorySlice, o?: MapOptions): Mapping {
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
      at = this.#calls.map(address, size, (read ? 1 : 0) + (write ? 2 : 0), iova);
    } catch (error) {
      throw this.#explainMap(error, { iova, size, address: BigInt(address) });
    }
    return this.#record(at, window, write);
  }

  /**
   * The same as {@link map}, off the event loop: pinning gigabytes takes long. Disposing the IOAS meanwhile undoes it
   * when it is done.
   */
  async mapAsync(memory: DmaBuffer | MemorySlice, o?: MapOptions): Promise<Mapping> {
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
      const at = await this.#file
        .ioasMapAsync(this.#id, pages.native, offset, size, readable, writable, iova)
        .catch((error: unknown) => {
          throw this.#explainMap(error, { iova, size, address: BigInt(address) });
        });
      // If it was disposed meanwhile, the mapping is lost with it: say so rather than hand out a dead one.
      this.alive();
      this.#refuseUnmapped(BigInt(at), BigInt(size), pending);
      return this.#record(at, window, writable);
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
   * Maps here what another IOAS of the same iommufd has mapped, sharing its pages: they are neither pinned nor counted
   * twice (IOMMU_IOAS_COPY, Linux 6.2). The copy outlives the source.
   *
   * @throws {VfioError} EPERM write asked of memory that was mapped without; others as {@link map}.
   */
  copy(from: Mapping, o?: MapOptions): Mapping {
    this.alive();
    const source = instance(from, IoasMapping, 'from');
    if (source.space.#iommufd !== this.#iommufd) throw refusal('a mapping of the same iommufd', 'from', from);
    const { iova, read, write } = options(o, 'options');
    const readable = flag(read, 'read', true);
    const writable = flag(write, 'write', source.writable);
    this.alive();
    // The kernel would copy whatever is mapped there by now.
    if (!source.space.holds(source))
      throw new VfioError(constants.errno.ENOENT, {
        syscall: 'ioctl',
        request: 'IOMMU_IOAS_COPY',
        reason: 'the source is not mapped any more',
      });
    const at = explained(
      () =>
        this.#file.ioasCopy(this.#id, source.space.id, source.length, source.iova, readable, writable, iova),
      (error) => this.#wordsForMap(error, { iova, size: windowBehind(source).size, address: undefined }),
    );
    return this.#record(at, windowBehind(source), writable);
  }

  /**
   * Unmaps all mappings that lie wholly in the range (IOMMU_IOAS_UNMAP, Linux 6.2) and returns their bytes.
   *
   * @throws {VfioError} ENOENT nothing is mapped there, or the range cuts a mapping: those below the one that is cut
   * are gone nevertheless; EINVAL length 0; EOVERFLOW the range wraps.
   */
  unmap(iova: U64Like, length: U64Like): bigint {
    this.alive();
    let bytes: U64Like;
    try {
      bytes = this.#calls.unmap(iova, length);
    } catch (error) {
      throw this.#afterFailedUnmap(error, iova, length);
    }
    if (this.#pending.size > 0) this.#notePending(BigInt(iova), BigInt(iova) + BigInt(length) - 1n);
    const only = this.#mappings.get(keyOf(iova));
    if (only !== undefined && windowBehind(only).size === bytes) this.#forget(only);
    else this.#forgetWithin(BigInt(iova), BigInt(iova) + BigInt(length) - 1n);
    return only !== undefined && windowBehind(only).size === bytes ? only.length : BigInt(bytes);
  }

  /** Unmaps everything and returns how many bytes that were. */
  unmapAll(): bigint {
    this.alive();
    const bytes = this.#calls.unmap(0, EVERYTHING);
    this.#notePending(0n, EVERYTHING);
    this.#forgetWithin(0n, EVERYTHING);
    return BigInt(bytes);
  }

  /**
   * Whether huge pages may be used in the IOMMU's tables (IOMMU_OPTION_HUGE_PAGES, Linux 6.2). Default true.
   *
   * @throws {VfioError} turning it off: EINVAL a page table and a mapping both exist; EADDRINUSE a mapping is not page
   * aligned.
   */
  get hugePages(): boolean {
    this.alive();
    return this.#file.getOption('HUGE_PAGES', this.#id) !== 0n;
  }

  set hugePages(on: boolean) {
    this.alive();
    this.#file.setOption('HUGE_PAGES', this.#id, flag(on, 'hugePages', true) ? 1 : 0);
  }

  /** @internal Is this mapping one of the live ones? */
  holds(mapping: Mapping): boolean {
    return this.#mappings.get(keyOf(mapping.iova)) === mapping;
  }

  protected release(): void {
    // What a mapAsync is still about to map must go too, and its id must not be another's by then: the last one ends it.
    if (this.#pending.size === 0) this.#end();
    else this.#clear();
  }

  #end(): void {
    this.#clear();
    // EBUSY, something is still attached: the empty IOAS goes when the iommufd does.
    quietly(() => this.#file.destroy(this.#id));
  }

  /** Devices lose the memory, whether or not the kernel's object can go. */
  #clear(): void {
    quietly(() => this.#calls.unmap(0, EVERYTHING));
    this.#forgetWithin(0n, EVERYTHING);
  }

  #notePending(start: bigint, last: bigint): void {
    for (const each of this.#pending) each.unmapped.push({ start, last });
  }

  #record(at: U64Like, window: Window, writable: boolean): IoasMapping {
    const mapping = new IoasMapping(this, keyOf(at), window, writable);
    window.pages.hold();
    this.#mappings.add(mapping);
    return mapping;
  }

  #forget(mapping: IoasMapping): void {
    this.#mappings.remove(mapping);
    windowBehind(mapping).pages.drop();
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

  #explainMap(error: unknown, request: MapRequest): unknown {
    return withWords(error, (failed) => this.#wordsForMap(failed, request));
  }

  #wordsForMap(error: VfioError, request: MapRequest) {
    let usable: { ranges: IovaRange[]; alignment: bigint };
    try {
      usable = this.iovaRanges();
    } catch {
      return undefined; // the space itself is gone: the first error says so
    }
    return wordsForMap(error, request, { ...usable, mappings: this.mappings() });
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
function quietly(call: () => void): void {
  try {
    call();
  } catch (error) {
    if (!(error instanceof VfioError) && (error as { code?: unknown }).code !== 'ERR_VFIO_DISPOSED')
      throw error;
  }
}
