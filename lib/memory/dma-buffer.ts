/**
 * Memory for DMA.
 *
 * Life: the pages are made by DmaBuffer.alloc (or are a file's, by fromFd), and live until the buffer is disposed or
 * collected AND every ArrayBuffer made of it is collected AND every mapping of it is gone. Transferring, detaching
 * or dropping an ArrayBuffer is therefore harmless while a device writes.
 */

import type { NativeMemory } from '../addon/memory.ts';
import { native } from '../addon/native.ts';
import { integer, oneOf, options, refusal, type U64Like } from '../base/check.ts';
import { OURS, ours, remembered } from '../base/private.ts';
import { disposedError } from '../handles/handle.ts';

/** Part of a {@link DmaBuffer}: what can be mapped besides a whole one. */
export interface MemorySlice {
  /** Virtual address of the first byte. */
  readonly address: bigint;
  /** Length in bytes. */
  readonly size: number;
  /** The bytes, as a view on the buffer's memory. Not available where the runtime allows no external buffers. */
  readonly bytes: Uint8Array;
}

/** The pages of a buffer. The addon keeps them for as long as a view, a mapping or a call needs them. */
interface Pages {
  readonly native: NativeMemory;
  /** Whether the buffer was disposed: no new mappings then. */
  disposed: boolean;
}

/** What an address space maps: a window on pages. Addresses are below 2^47: exact as numbers. */
export interface Window {
  readonly pages: Pages;
  /** The number of the pages, by which calls name them. */
  readonly memory: number;
  readonly address: number;
  readonly offset: number;
  readonly size: number;
  /** Whether it is all of the pages. */
  readonly whole: boolean;
  /** The size once more: 64-bit quantities go out as bigint, and making one costs as much as a system call's entry. */
  readonly length: bigint;
}

const windows = remembered<Window>();

/** The window that `memory` is, for mapping. */
export function windowOf(memory: DmaBuffer | MemorySlice): Window {
  const window = typeof memory === 'object' && memory !== null ? windows.get(memory) : undefined;
  if (window === undefined) throw refusal('a DmaBuffer or a slice of one', 'memory', memory);
  if (window.pages.disposed) throw disposedError('DmaBuffer');
  return window;
}

const pageShifts = { '2M': 21, '1G': 30 } as const;

/**
 * Page-aligned memory made for DMA. Its pages live until buffer, views and mappings are all gone.
 *
 * Buffers of 2 MiB and more are aligned to 2 MiB, so that transparent huge pages can back them and the kernel chooses
 * an IOVA that keeps them whole. The memory is not inherited by child processes.
 */
export class DmaBuffer implements Disposable {
  readonly #pages: Pages;
  readonly #address: bigint;
  readonly #size: number;
  #buffer: ArrayBuffer | undefined;

  private constructor(key: typeof OURS, memory: NativeMemory) {
    ours(key, 'DmaBuffer');
    this.#pages = { native: memory, disposed: false };
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
   * `hugePages`: from the system's pool of 2 MiB or 1 GiB pages (`/proc/sys/vm/nr_hugepages`); ENOMEM when it is
   * empty. `numaNode`: pages from that node only. Nothing is locked: the kernel pins pages when a device can reach
   * them.
   *
   * @throws {RangeError} size 0 or too large. @throws {VfioError} ENOMEM no memory or no huge pages left; EINVAL no
   * such NUMA node.
   */
  static alloc(size: U64Like, o?: { hugePages?: false | '2M' | '1G'; numaNode?: number }): DmaBuffer {
    const { hugePages = false, numaNode } = options(o, 'options');
    const shift = hugePages === false ? 0 : pageShifts[oneOf(hugePages, 'hugePages', ['2M', '1G'])];
    const node = numaNode === undefined ? undefined : integer(numaNode, 'numaNode', 0, 1023);
    return new DmaBuffer(OURS, native.allocateMemory(size, shift, node));
  }

  /**
   * Maps `length` bytes of a file at `offset` (page aligned), shared: a memfd, a hugetlbfs file. The descriptor may be
   * closed afterwards. A file that shrinks later takes its pages away: views of them show zeroes then, {@link read} and
   * {@link write} throw EFAULT.
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
   * Names memory that this package does not own, for mapping it. UNSAFE: the caller promises that it stays mapped
   * until no device can reach it; there are no views of it.
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
   * The memory as an ArrayBuffer. Remains valid after disposal. If it was transferred away, a new one is made. One that
   * another thread got that way reads as zeroes after the end of this one.
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

  /** The memory as bytes: a view on {@link buffer}. */
  get bytes(): Uint8Array {
    return new Uint8Array(this.buffer);
  }

  /** Copies `into.length` bytes from `offset` on out of the buffer. Works in every runtime. */
  read(offset: number, into: Uint8Array): void {
    this.#alive();
    this.#pages.native.read(offset, into);
  }

  /** Copies all of `from` into the buffer at `offset`. Works in every runtime. */
  write(offset: number, from: Uint8Array): void {
    this.#alive();
    this.#pages.native.write(offset, from);
  }

  /** A part of the buffer, for mapping it alone. Most hosts map whole pages only. */
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

  /** Gives the buffer up. The pages stay as long as views or mappings of them do. Again: nothing. */
  [Symbol.dispose](): void {
    if (this.#pages.disposed) return;
    this.#pages.disposed = true;
    this.#buffer = undefined;
    this.#pages.native.dispose();
  }
}
