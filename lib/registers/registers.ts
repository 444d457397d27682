/** The interface that drivers use to access registers, whether by system calls or by a mapping. */
import type { U64Like } from '../base/check.ts';

/**
 * Access to registers of 8, 16, 32 or 64 bits. `o` is in bytes from the start, and a multiple of the width. A
 * {@link Region} makes a system call for each access, a {@link MappedRegion} one load or store: a driver that takes
 * `Registers` runs on both.
 *
 * @throws {VfioError} EIO the device does not answer; and the other errors of the class.
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
