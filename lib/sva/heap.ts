/**
 * Memory that a bond has mapped ahead, each byte at the IOVA that is its own address: a heap that grows by chunks, and memory
 * that the program has given to the bond. The address space's ledger (native/ledger) knows what is mapped.
 *
 * Life: a chunk is made when no other has room, and each is one mapping. Memory is given out once and never taken back: a
 * device may still write to what the program has dropped. `dispose` unmaps everything. The pages of a chunk live on until the
 * kernel is known to have unmapped them and the last ArrayBuffer of them is collected; adopted memory is kept by its owner,
 * which is referred to here until the kernel is known to have unmapped it.
 */
import { constants } from 'node:os';
import { native } from '../addon/native.ts';
import type { IovaRange } from '../addon/records.ts';
import { integer } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import { hex, span } from '../base/hex.ts';
import type { Ioas } from '../iommufd/ioas.ts';
import { bufferAt, DmaBuffer, piece } from '../memory/dma-buffer.ts';
import type { Mapping } from '../memory/dma-space.ts';
import { IovaAllocator } from '../memory/iova-allocator.ts';
import { areas, forbids } from './areas.ts';

const PAGE = BigInt(native.pageSize);
/** The size of a chunk, in bytes: a huge page. Larger memory is a chunk by itself. */
const CHUNK = 2n ** 21n;
/** The most bytes of one ArrayBuffer. */
const LARGEST = 2 ** 32;
/** Below this address no memory is placed: a null pointer with an offset has to fault. */
const LOWEST = 2n ** 20n;
/** The kernel's half of the addresses begins here: the area '[vsyscall]' lies in it. */
const KERNEL = 2n ** 63n;
/** Bytes below the stack that are left to it. */
const STACK = 2n ** 26n;
/** How often a place is chosen anew when another thread has taken it meanwhile. */
const TRIES = 8;

/** Owners of memory that is not known to be unmapped: kept until the process ends. */
const kept: unknown[] = [];

interface Chunk {
  readonly buffer: DmaBuffer;
  readonly mapping: Mapping;
  /** Bytes that are given out. */
  used: number;
}

/** Pages of existing memory. */
interface Adopted {
  readonly buffer: DmaBuffer;
  readonly mapping: Mapping;
}

/** What the heap needs to know of its address space. */
export interface HeapSpace {
  readonly ioas: Ioas;
  /** The width of the addresses that the device can send, in bits; undefined: as wide as the IOMMU's. */
  readonly addressBits: number | undefined;
  /** Is called before memory is mapped at these addresses: other mappings have to go. */
  makeRoom?(start: bigint, last: bigint): void;
}

/** The memory of a bond, at IOVA = address. */
export class Heap {
  readonly #space: HeapSpace;
  readonly #chunks: Chunk[] = [];
  /** The chunk with the most room. */
  #open: Chunk | undefined;
  readonly #adopted: Adopted[] = [];
  /** What keeps the adopted memory. */
  readonly #owners: unknown[] = [];

  constructor(space: HeapSpace) {
    this.#space = space;
  }

  /** The addresses at which the device can reach memory. */
  usable(): IovaRange[] {
    const { ioas, addressBits = 64 } = this.#space;
    return within(ioas.iovaRanges().ranges, LOWEST, 2n ** BigInt(addressBits) - 1n);
  }

  /** Zeroed memory of whole pages, at whose own address the device can reach it. */
  allocate(size: number): ArrayBuffer {
    const length = Number(up(BigInt(integer(size, 'size', 1, LARGEST))));
    if (this.#open === undefined || this.#open.buffer.size - this.#open.used < length) {
      const chunk = this.#grow(length);
      const rest = this.#open === undefined ? 0 : this.#open.buffer.size - this.#open.used;
      if (chunk.buffer.size - length >= rest) this.#open = chunk;
      return take(chunk, length);
    }
    return take(this.#open, length);
  }

  /** Maps existing memory in whole pages, as far as these are not mapped already. `owner` keeps the memory. */
  adopt(address: bigint, length: number, owner: unknown): void {
    if (length === 0) return;
    const start = address - (address % PAGE);
    const last = up(address + BigInt(length)) - 1n;
    this.inRange(start, Number(last - start + 1n));
    this.#space.makeRoom?.(start, last);
    const made: Adopted[] = [];
    try {
      for (const gap of this.#gaps(start, last)) made.push(this.#mapExisting(gap));
      this.#owners.push(owner);
    } catch (error) {
      while (made.length > 0 && this.#unmapped(made.at(-1) as Adopted)) made.pop();
      throw error;
    } finally {
      this.#adopted.push(...made);
    }
  }

  /** @throws {VfioError} EFAULT the device can't reach all of these bytes. */
  reach(address: bigint, length: number): void {
    const last = address + BigInt(length) - 1n;
    if (this.#gaps(address, last).length === 0) return;
    throw refused(
      `the device can't reach ${span(address, last)}: only memory that bond.allocate returned or bond.adopt was given is mapped for it`,
      'Allocate the memory by bond.allocate(size), or give it to bond.adopt(view) first',
    );
  }

  /** @throws {VfioError} EFAULT the device can't address all of these bytes, mapped or not. */
  inRange(address: bigint, length: number): void {
    const outside = this.#outside(address, address + BigInt(length) - 1n);
    if (outside !== undefined) throw refused(outside, 'Use memory of bond.allocate, which lies in range');
  }

  /** Unmaps everything. What can't be unmapped here is unmapped or kept at the end of the address space, which warns of it. */
  dispose(): void {
    const all = [...this.#chunks, ...this.#adopted.splice(0)];
    this.#chunks.length = 0;
    this.#open = undefined;
    const left = all.filter((each) => !this.#unmapped(each));
    if (left.length > 0) kept.push(...this.#owners);
    this.#owners.length = 0;
    for (const { buffer } of left) buffer[Symbol.dispose]();
  }

  /** Unmaps memory, and disposes its buffer. False: it is not known to be unmapped. */
  #unmapped({ mapping, buffer }: Adopted): boolean {
    try {
      mapping[Symbol.dispose]();
    } catch (error) {
      if (!(error instanceof VfioError)) throw error;
      return false;
    }
    buffer[Symbol.dispose]();
    return true;
  }

  #mapExisting({ start, last }: IovaRange): Adopted {
    const buffer = DmaBuffer.unsafeFromAddress(start, last - start + 1n);
    try {
      return { buffer, mapping: this.#space.ioas.map(buffer, { iova: start }) };
    } catch (error) {
      buffer[Symbol.dispose]();
      throw withWords(error, ({ code }) => (code === 'EFAULT' ? unpinnable(start, last) : undefined));
    }
  }

  /** What is mapped, by ascending address. Nothing is, once the address space has ended. */
  #mapped(): IovaRange[] {
    const { ioas } = this.#space;
    if (ioas.disposed) return [];
    return ioas.mappings().map(({ iova, length }) => ({ start: iova, last: iova + length - 1n }));
  }

  /** The parts of a range that are not mapped. */
  #gaps(start: bigint, last: bigint): IovaRange[] {
    const found: IovaRange[] = [];
    let at = start;
    for (const each of this.#mapped()) {
      if (each.start > last) break;
      if (each.start > at) found.push({ start: at, last: each.start - 1n });
      if (each.last >= at) at = each.last + 1n;
    }
    if (at <= last) found.push({ start: at, last });
    return found;
  }

  /** Why addresses are out of the device's range, in words; undefined: they are in it. */
  #outside(start: bigint, last: bigint): string | undefined {
    const usable = this.usable();
    if (usable.some((each) => each.start <= start && last <= each.last)) return undefined;
    return `the device can't address ${span(start, last)}; it reaches ${usable.map((each) => span(each.start, each.last)).join(', ')}`;
  }

  #grow(length: number): Chunk {
    const size = BigInt(length) > CHUNK ? BigInt(length) : CHUNK;
    const buffer = this.#place(size);
    const start = buffer.address;
    try {
      this.#space.makeRoom?.(start, start + size - 1n);
      const chunk = { buffer, mapping: this.#space.ioas.map(buffer, { iova: start }), used: 0 };
      this.#chunks.push(chunk);
      return chunk;
    } catch (error) {
      buffer[Symbol.dispose]();
      throw error;
    }
  }

  /** New memory that lies in range: where the kernel puts it, if that is in range, else in the smallest gap that holds it. */
  #place(size: bigint): DmaBuffer {
    const buffer = DmaBuffer.alloc(size);
    if (this.#outside(buffer.address, buffer.address + size - 1n) === undefined) return buffer;
    buffer[Symbol.dispose]();
    const usable = this.usable();
    for (let left = TRIES; ; left--) {
      const list = areas();
      // How wide the process's addresses are depends on the machine: nothing is placed above its highest area, the stack.
      const highest = list.findLast(({ start }) => start < KERNEL)?.last ?? 0n;
      const gaps = new IovaAllocator(within(usable, LOWEST, highest), PAGE);
      for (const { start, last, name } of list)
        gaps.take(name === '[stack]' && start > STACK ? start - STACK : start, last);
      const at = gaps.allocate(size, CHUNK) ?? gaps.allocate(size, PAGE);
      if (at === undefined)
        throw new VfioError(constants.errno.ENOMEM, {
          syscall: 'mmap',
          reason: `the process has no ${hex(size)} bytes free at addresses that the device reaches: ${usable.map((each) => span(each.start, each.last)).join(', ')}`,
        });
      try {
        return bufferAt(at, Number(size));
      } catch (error) {
        // Another thread has mapped something there since the areas were read.
        if (!(error instanceof VfioError && error.code === 'EEXIST') || left === 0) throw error;
      }
    }
  }
}

/** Rounded up to whole pages. */
const up = (value: bigint) => ((value + PAGE - 1n) / PAGE) * PAGE;

/** The parts of ranges from `first` to `last`. */
const within = (ranges: readonly IovaRange[], first: bigint, last: bigint): IovaRange[] =>
  ranges
    .map((each) => ({
      start: each.start > first ? each.start : first,
      last: each.last < last ? each.last : last,
    }))
    .filter((each) => each.start <= each.last);

function take(chunk: Chunk, length: number): ArrayBuffer {
  const buffer = piece(chunk.buffer, chunk.used, length);
  chunk.used += length;
  return buffer;
}

function refused(reason: string, hint?: string): VfioError {
  return new VfioError(constants.errno.EFAULT, { syscall: 'pointer', reason, hint });
}

/** Why pages can't be pinned: what the areas show, else what is possible. */
function unpinnable(start: bigint, last: bigint): { reason: string } | undefined {
  try {
    const reason = forbids(areas(), start, last);
    if (reason !== undefined)
      return { reason: `${span(start, last)} can't be pinned for the device: ${reason}` };
  } catch {
    return undefined; // without /proc, the error's own words have to do
  }
  return {
    reason: `${span(start, last)} can't be pinned for the device; possibly it is the shared mapping of a file on a disk, or registers of a device`,
  };
}
