/**
 * A region of a device: a BAR, the ROM, config space. It is accessed by the device's file (one system call for each access), or
 * by a mapping.
 *
 * Life: a Region is a view that lives as long as its device. A MappedRegion is a handle; its pages stay mapped until it is
 * disposed and every ArrayBuffer made of it is collected.
 */

import type { NativeDevice, NativeMapped, NativeRegionInfo } from '../addon/files.ts';
import { integer, options, refusal, type U64Like, u64 } from '../base/check.ts';
import { withWords } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, disposedError, fileOf, Handle, observerOf } from '../handles/handle.ts';
import type { IommufdDevice } from '../handles/iommufd-file.ts';
import type { Registers } from '../registers/registers.ts';

/** The number of config space among the regions. */
const CONFIG = 7;

/**
 * A region of a device. Each access is one `pread` or `pwrite` on the device's file; offsets are bytes from the start of
 * the region, and an access must lie inside it.
 *
 * All accessors throw a VfioError: EIO the device's memory decoding is off; EINVAL, EFAULT the region does not allow such an
 * access; and a RangeError for an offset outside the region.
 */
export class Region implements Registers {
  /** Its number: 0 to 5 the BARs, 6 ROM, 7 config space, 8 VGA, from 9 on device-specific ones. */
  readonly index: number;
  readonly #device: IommufdDevice;
  readonly #info: NativeRegionInfo;

  constructor(key: typeof OURS, device: IommufdDevice, index: number, info: NativeRegionInfo) {
    ours(key, 'Region');
    this.index = index;
    this.#device = device;
    this.#info = info;
  }

  /** Length in bytes; 0n: the device has no such region. */
  get size(): bigint {
    return this.#info.size;
  }
  /** Whether it can be read (VFIO_REGION_INFO_FLAG_READ). */
  get readable(): boolean {
    return this.#info.readable;
  }
  /** Whether it can be written (VFIO_REGION_INFO_FLAG_WRITE). */
  get writable(): boolean {
    return this.#info.writable;
  }
  /** Whether it, or the parts in {@link sparse}, can be mapped (VFIO_REGION_INFO_FLAG_MMAP). */
  get mmapable(): boolean {
    return this.#info.mmapable;
  }
  /** The parts that can be mapped, if not the whole region (VFIO_REGION_INFO_CAP_SPARSE_MMAP); null: no such list. */
  get sparse(): { offset: bigint; size: bigint }[] | null {
    return this.#info.sparse;
  }
  /** The kind of a device-specific region (VFIO_REGION_INFO_CAP_TYPE); null: it is none. */
  get type(): { type: number; subtype: number } | null {
    return this.#info.type;
  }

  /** Reads 8 bits at byte `o`. */
  read8(o: number): number {
    return this.#file().regionRead(this.#at(o, 1), 1);
  }
  /** Reads 16 bits, little endian. */
  read16(o: number): number {
    return this.#file().regionRead(this.#at(o, 2), 2);
  }
  /** Reads 32 bits, little endian. */
  read32(o: number): number {
    return this.#file().regionRead(this.#at(o, 4), 4);
  }
  /** Reads 64 bits, little endian; the kernel may split it into two accesses of 4 bytes on the bus. */
  read64(o: number): bigint {
    return this.#file().regionRead(this.#at(o, 8), 8);
  }
  /** Writes 8 bits: `v` from 0 to 2^8-1. */
  write8(o: number, v: number): void {
    this.#stored(o).regionWrite(this.#at(o, 1), 1, v);
  }
  /** Writes 16 bits, little endian: `v` from 0 to 2^16-1. */
  write16(o: number, v: number): void {
    this.#stored(o).regionWrite(this.#at(o, 2), 2, v);
  }
  /** Writes 32 bits, little endian: `v` from 0 to 2^32-1. */
  write32(o: number, v: number): void {
    this.#stored(o).regionWrite(this.#at(o, 4), 4, v);
  }
  /** Writes 64 bits, little endian; the kernel may split it into two accesses of 4 bytes on the bus. */
  write64(o: number, v: U64Like): void {
    this.#stored(o).regionWrite(this.#at(o, 8), 8, v);
  }

  /** Reads up to `into.length` bytes from `o` on; returns how many were read. */
  readInto(o: number, into: Uint8Array): number {
    return this.#file().readInto(this.#at(o, 1), into);
  }
  /** Writes up to `from.length` bytes at `o`; returns how many were written. */
  writeFrom(o: number, from: Uint8Array): number {
    return this.#stored(o).writeFrom(this.#at(o, 1), from);
  }

  /**
   * Maps the region, or part of it. `offset` and `length` are in bytes and page aligned. Default: from `offset` to the end.
   *
   * @throws {VfioError} EINVAL the region can't be mapped there.
   */
  mmap(o?: { offset?: U64Like; length?: U64Like }): MappedRegion {
    const wanted = options(o, 'options');
    const offset = u64(wanted.offset ?? 0n, 'offset');
    if (offset > this.size) throw refusal(`an offset up to ${this.size}`, 'offset', offset);
    const length = u64(wanted.length ?? this.size - offset, 'length');
    if (length > this.size - offset) throw refusal(`a length up to ${this.size - offset}`, 'length', length);
    const file = this.#file();
    let mapped: NativeMapped;
    try {
      mapped = file.mmap(this.#info.offset + offset, length, this.readable, this.writable);
    } catch (error) {
      throw withWords(error, () => {
        if (this.size === 0n) return { reason: `the device has no region ${this.index}` };
        if (!this.mmapable)
          return {
            reason: `region ${this.index} can't be mapped`,
            hint: 'Use read32, write32, ... of the Region',
          };
        return { reason: 'offset and length must be page aligned and inside a mappable part' };
      });
    }
    return new MappedRegion(OURS, this.#device, mapped, Number(length), this.index, Number(offset));
  }

  #file(): NativeDevice {
    return fileOf(this.#device);
  }

  /** The file, for a store. Config space is no doorbell. */
  #stored(offset: number): NativeDevice {
    const file = fileOf(this.#device);
    if (this.index !== CONFIG && typeof offset === 'number')
      observerOf(this.#device)?.stores(this.#device, this.index, offset);
    return file;
  }

  /** The position in the device's file. Checks the access here, since the file has the other regions beside this one. */
  #at(offset: number, width: number): bigint {
    integer(offset, 'offset', 0, Number.MAX_SAFE_INTEGER);
    const at = BigInt(offset);
    if (at + BigInt(width) > this.#info.size)
      throw refusal(
        `an offset that leaves ${width} of the region's ${this.#info.size} bytes`,
        'offset',
        offset,
      );
    return this.#info.offset + at;
  }
}

/**
 * A mapped BAR. Each accessor call is one load or store instruction of exactly that width, in program order: never split,
 * merged, repeated or dropped. Offsets are in bytes, and multiples of the width.
 *
 * An accessor throws a VfioError with code EIO while the device does not answer: its memory decoding is off, or it is in a
 * sleep state.
 */
export class MappedRegion extends Handle implements Registers {
  #mapped: NativeMapped;
  readonly #length: number;
  #buffer: ArrayBuffer | undefined;

  constructor(
    key: typeof OURS,
    device: Handle,
    mapped: NativeMapped,
    length: number,
    region: number,
    start: number,
  ) {
    ours(key, 'MappedRegion');
    super(key, 'MappedRegion', device, [mapped], (self: MappedRegion) => self.#release());
    const observer = observerOf(device);
    const stores = (offset: number) => observer?.stores(device, region, start + offset);
    this.#mapped = observer !== null && mapped.trapped ? observed(mapped, stores) : mapped;
    this.#length = length;
  }

  /** Length in bytes. */
  get length(): number {
    return this.#length;
  }

  /**
   * The mapping as an ArrayBuffer, for BARs that behave like memory, and for speed. A JavaScript engine may merge or drop
   * accesses to it, or split them (in a DataView): docs/registers.md says which forms are safe. Once the region is disposed, or
   * where the device did not answer, it reads as zeroes.
   *
   * @throws code 'EOPNOTSUPP' for the registers of a software device, and where the runtime allows no external
   * buffers (Electron): use the accessors.
   */
  get buffer(): ArrayBuffer {
    alive(this);
    if (this.#buffer === undefined || this.#buffer.byteLength === 0) this.#buffer = this.#mapped.buffer();
    return this.#buffer;
  }

  /** One 8-bit load at byte `o`. */
  read8(o: number): number {
    return this.#mapped.read8(o);
  }
  /** One 16-bit load; `o` a multiple of 2. */
  read16(o: number): number {
    return this.#mapped.read16(o);
  }
  /** One 32-bit load; `o` a multiple of 4. */
  read32(o: number): number {
    return this.#mapped.read32(o);
  }
  /** One 64-bit load; `o` a multiple of 8. */
  read64(o: number): bigint {
    return this.#mapped.read64(o);
  }
  /** One 8-bit store: `v` from 0 to 2^8-1. */
  write8(o: number, v: number): void {
    this.#mapped.write8(o, v);
  }
  /** One 16-bit store: `v` from 0 to 2^16-1; `o` a multiple of 2. */
  write16(o: number, v: number): void {
    this.#mapped.write16(o, v);
  }
  /** One 32-bit store: `v` from 0 to 2^32-1; `o` a multiple of 4. */
  write32(o: number, v: number): void {
    this.#mapped.write32(o, v);
  }
  /** One 64-bit store; `o` a multiple of 8. */
  write64(o: number, v: U64Like): void {
    this.#mapped.write64(o, v);
  }

  #release(): void {
    this.#buffer = undefined;
    this.#mapped.dispose();
    if (observerOf(this) !== null) this.#mapped = gone(this);
  }
}

/** A mapping whose stores an observer is told of, before the addon has checked their arguments. */
function observed(mapped: NativeMapped, stores: (offset: number) => void): NativeMapped {
  const { read8, read16, read32, read64, write8, write16, write32, write64 } = mapped;
  return {
    trapped: true,
    read8,
    read16,
    read32,
    read64,
    write8(offset, value) {
      if (typeof offset === 'number') stores(offset);
      write8(offset, value);
    },
    write16(offset, value) {
      if (typeof offset === 'number') stores(offset);
      write16(offset, value);
    },
    write32(offset, value) {
      if (typeof offset === 'number') stores(offset);
      write32(offset, value);
    },
    write64(offset, value) {
      if (typeof offset === 'number') stores(offset);
      write64(offset, value);
    },
    buffer: () => mapped.buffer(),
    dispose: () => mapped.dispose(),
  };
}

/** What is left of a mapping that was disposed. */
function gone(region: Handle): NativeMapped {
  const refuse = (): never => {
    alive(region); // tells the observer, and throws
    throw disposedError('MappedRegion');
  };
  return {
    trapped: false,
    read8: refuse,
    read16: refuse,
    read32: refuse,
    read64: refuse,
    write8: refuse,
    write16: refuse,
    write32: refuse,
    write64: refuse,
    buffer: refuse,
    dispose() {},
  };
}
