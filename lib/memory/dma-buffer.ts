/**
 * Memory for DMA.
 *
 * Life: DmaBuffer.alloc makes the pages, or fromFd maps those of a file. They live until the buffer is disposed or collected
 * AND every ArrayBuffer made of it is collected AND every mapping of it is unmapped. So it is harmless to transfer, detach or
 * drop an ArrayBuffer while a device writes to the memory.
 */

import type { NativeMemory } from '../addon/memory.ts';
import { native } from '../addon/native.ts';
import { integer, oneOf, options, refusal, type U64Like } from '../base/check.ts';
import { explained } from '../base/errors.ts';
import { OURS, ours, remembered } from '../base/private.ts';
import { disposedError, type Observer } from '../handles/handle.ts';
import type { MappedMemory } from '../handles/observer.ts';
import { wordsForHugePages } from './huge-pages.ts';

/** Part of a {@link DmaBuffer}, which can be mapped by itself. */
export interface MemorySlice {
  /** Virtual address of the first byte. */
  readonly address: bigint;
  /** Length in bytes. */
  readonly size: number;
  /** The bytes, as a view of the buffer's memory. Not available where the runtime allows no external buffers. */
  readonly bytes: Uint8Array;
}

/** The pages of a buffer. The addon keeps them for as long as a view, a mapping or a call needs them. */
interface Pages {
  readonly native: NativeMemory;
  /** Whether the buffer was disposed: then no new mapping of it can be made. */
  disposed: boolean;
  /** Stands for the buffer where a program may see it (lib/handles/observer.ts). */
  readonly token: object;
  /** The observers of the hosts that it was mapped on; undefined: there is none. */
  observers: Set<Observer> | undefined;
}

/** From now on this observer is told when the buffer is disposed. Returns what it knows of the window. */
export function watched({ pages, address }: Window, observer: Observer): MappedMemory {
  pages.observers ??= new Set();
  pages.observers.add(observer);
  return { pages: pages.token, address };
}

/** The part of a buffer's pages that an address space maps. User addresses are below 2^47, so that a number is exact. */
export interface Window {
  readonly pages: Pages;
  /** The number of the pages, by which calls name them. */
  readonly memory: number;
  readonly address: number;
  readonly offset: number;
  readonly size: number;
  /** Whether it is all of the pages. */
  readonly whole: boolean;
  /** The size as a bigint, made in advance: mappings return one, and making it costs as much as entering a system call. */
  readonly length: bigint;
}

const windows = remembered<Window>();

/** The window of a buffer or a slice. Throws if it is neither, or if the buffer is disposed. */
export function windowOf(memory: DmaBuffer | MemorySlice): Window {
  const window = typeof memory === 'object' && memory !== null ? windows.get(memory) : undefined;
  if (window === undefined) throw refusal('a DmaBuffer or a slice of one', 'memory', memory);
  if (window.pages.disposed) throw disposedError('DmaBuffer');
  return window;
}

/** A buffer at exactly this address, page aligned. @throws {VfioError} EEXIST something is mapped there; ENOMEM. */
export let bufferAt: (address: bigint, size: number) => DmaBuffer;

/** Whole pages of a buffer as an ArrayBuffer of their own. It keeps all of the buffer's pages. */
export let piece: (of: DmaBuffer, offset: number, length: number) => ArrayBuffer;

const pageShifts = { '2M': 21, '1G': 30 } as const;

/**
 * Page-aligned memory for DMA. Its pages live until the buffer is disposed, its views are collected and its mappings unmapped.
 *
 * Buffers of 2 MiB and more are aligned to 2 MiB, so that transparent huge pages can back them, and the kernel chooses an IOVA
 * that lets the IOMMU use huge pages too. Child processes don't inherit the memory.
 */
export class DmaBuffer implements Disposable {
  readonly #pages: Pages;
  readonly #address: bigint;
  readonly #size: number;
  #buffer: ArrayBuffer | undefined;

  static {
    bufferAt = (address, size) => new DmaBuffer(OURS, native.allocateMemoryAt(address, size));
    piece = (of, offset, length) => {
      of.#alive();
      return of.#pages.native.buffer(offset, length);
    };
  }

  private constructor(key: typeof OURS, memory: NativeMemory) {
    ours(key, 'DmaBuffer');
    this.#pages = { native: memory, disposed: false, token: {}, observers: undefined };
    this.#address = memory.address;
    this.#size = memory.size;
    windows.set(this, {
      pages: this.#pages,
      memory: memory.number(),
      address: Number(this.#address),
      offset: 0,
      size: this.#size,
      whole: true,
      length: BigInt(this.#size),
    });
  }

  /**
   * Allocates zeroed memory of `size` bytes, rounded up to whole pages (of the chosen size).
   *
   * `hugePages`: take pages of 2 MiB or 1 GiB from the system's pool (`/proc/sys/vm/nr_hugepages`); ENOMEM if it is empty.
   * `numaNode`: take pages of that node only. The pages are not locked: the kernel pins them when a device can reach them.
   *
   * @throws {RangeError} size 0 or too large. @throws {VfioError} ENOMEM no memory or no huge pages left; EINVAL no
   * such NUMA node.
   */
  static alloc(size: U64Like, o?: { hugePages?: false | '2M' | '1G'; numaNode?: number }): DmaBuffer {
    const { hugePages = false, numaNode } = options(o, 'options');
    const shift = hugePages === false ? 0 : pageShifts[oneOf(hugePages, 'hugePages', ['2M', '1G'])];
    const node = numaNode === undefined ? undefined : integer(numaNode, 'numaNode', 0, 1023);
    const made = explained(
      () => native.allocateMemory(size, shift, node),
      (error) => (shift === 0 ? undefined : wordsForHugePages(error, BigInt(size), shift, node)),
    );
    return new DmaBuffer(OURS, made);
  }

  /**
   * Memory of a file, such as a memfd or a hugetlbfs file: maps `length` bytes at `offset` (page aligned), shared. The
   * descriptor may be closed afterwards. If the file is truncated later, its pages are lost: views of them read as zeroes
   * then, and {@link read} and {@link write} throw EFAULT.
   *
   * @throws {VfioError} EBADF, EACCES (not open for reading and writing), ENODEV. @throws {RangeError} beyond the
   * file's end.
   */
  static fromFd(fd: number, o: { offset?: U64Like; length: U64Like }): DmaBuffer {
    const { offset = 0, length } = options(o, 'options');
    if (length === undefined) throw refusal('a length in bytes', 'length', length);
    return new DmaBuffer(OURS, native.memoryOfDescriptor(fd, offset, length));
  }

  /**
   * A buffer for memory that this package does not own, so that it can be mapped. UNSAFE: the caller promises that the memory
   * stays valid until no device can reach it. It has no views.
   */
  static unsafeFromAddress(address: U64Like, length: U64Like): DmaBuffer {
    return new DmaBuffer(OURS, native.memoryOfAddress(address, length));
  }

  /** Virtual address of the first byte. */
  get address(): bigint {
    this.#alive();
    return this.#address;
  }

  /** Length in bytes: whole pages. */
  get size(): number {
    this.#alive();
    return this.#size;
  }

  /**
   * The memory as an ArrayBuffer. It remains valid after disposal. If it was transferred, a new one is made. The one that
   * another thread was given reads as zeroes after this thread has ended.
   *
   * @throws code 'EOPNOTSUPP' where the runtime allows no external buffers (Electron): use {@link read} and
   * {@link write}.
   */
  get buffer(): ArrayBuffer {
    this.#alive();
    if (this.#buffer === undefined || this.#buffer.byteLength === 0)
      this.#buffer = this.#pages.native.buffer();
    return this.#buffer;
  }

  /** The memory as bytes: a view of {@link buffer}. */
  get bytes(): Uint8Array {
    return new Uint8Array(this.buffer);
  }

  /** Copies `into.length` bytes of the buffer, from `offset` on, to `into`. Works in every runtime. */
  read(offset: number, into: Uint8Array): void {
    this.#alive();
    this.#pages.native.read(offset, into);
  }

  /** Copies all of `from` into the buffer at `offset`. Works in every runtime. */
  write(offset: number, from: Uint8Array): void {
    this.#alive();
    this.#pages.native.write(offset, from);
  }

  /** A part of the buffer, which can be mapped by itself. Most hosts map whole pages only. */
  slice(offset: number, length: number): MemorySlice {
    this.#alive();
    integer(offset, 'offset', 0, this.#size);
    integer(length, 'length', 1, this.#size - offset);
    const whole = this;
    const slice: MemorySlice = {
      address: this.#address + BigInt(offset),
      size: length,
      get bytes() {
        return new Uint8Array(whole.buffer, offset, length);
      },
    };
    windows.set(slice, {
      pages: this.#pages,
      memory: this.#pages.native.number(),
      address: Number(this.#address) + offset,
      offset,
      size: length,
      whole: length === this.#size,
      length: BigInt(length),
    });
    return slice;
  }

  #alive(): void {
    if (this.#pages.disposed) throw disposedError('DmaBuffer');
  }

  /** Disposes the buffer. Its pages live on while views or mappings of them exist. A second call does nothing. */
  [Symbol.dispose](): void {
    if (this.#pages.disposed) return;
    this.#pages.disposed = true;
    this.#buffer = undefined;
    if (this.#pages.observers !== undefined)
      for (const each of this.#pages.observers) each.bufferDisposed(this.#pages.token);
    this.#pages.native.dispose();
  }
}
