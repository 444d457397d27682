/** Registers of a device, however they are reached: what a driver is written against. */
import type { U64Like } from '../base/check.ts';

/**
 * Access to registers by 8, 16, 32 or 64 bits. `o` is in bytes from the start, and a multiple of the width. A
 * {@link Region} makes a system call for each access, a {@link MappedRegion} one load or store: a driver that takes
 * `Registers` runs on both.
 *
 * @throws {VfioError} EIO the device does not answer; and what the method of the class throws.
 */
export interface Registers {
  read8(o: number): number;
  read16(o: number): number;
  read32(o: number): number;
  read64(o: number): bigint;
  write8(o: number, v: number): void;
  write16(o: number, v: number): void;
  write32(o: number, v: number): void;
  write64(o: number, v: U64Like): void;
}
