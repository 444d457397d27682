/** A driver's side of a register map: a region's registers by name. */

import { refusal } from '../base/check.ts';
import { Accessor, type RegisterAccessors } from './accessor.ts';
import { type Register, type RegisterLayout, type RegisterMap, registersIn } from './register-map.ts';
import type { Registers } from './registers.ts';

/** A register of a device: each read is one load, each write one store, of the register's width. */
class ViewRegister extends Accessor {
  readonly #region: Registers;

  constructor(register: Register, region: Registers) {
    super(register);
    this.#region = region;
  }
  protected load(index: number): void {
    const { offset, stride, width } = this.register;
    const at = offset + index * stride;
    this.high = 0;
    if (width === 4) {
      this.low = this.#region.read32(at);
    } else if (width === 8) {
      const value = this.#region.read64(at);
      this.low = Number(value & 0xffffffffn);
      this.high = Number(value >> 32n);
    } else {
      this.low = width === 2 ? this.#region.read16(at) : this.#region.read8(at);
    }
  }
  protected store(index: number, low: number, high: number): void {
    const { offset, stride, width } = this.register;
    const at = offset + index * stride;
    if (width === 4) this.#region.write32(at, low);
    else if (width === 8) this.#region.write64(at, (BigInt(high) << 32n) | BigInt(low));
    else if (width === 2) this.#region.write16(at, low);
    else this.#region.write8(at, low);
  }
  protected kept(half: 0 | 1): number {
    const { w1c, w1s } = this.register.masks;
    return ~(w1c[half] | w1s[half]);
  }
}

/**
 * Typed access to the registers of a device, by the map that describes them.
 *
 * ```ts
 * const r = view(device.region('bar0').mmap(), map);
 * r.control.write({ start: 1, mode: 'fast' });
 * while (r.status.field('busy') === 1) await sleep(1);
 * ```
 *
 * Each call makes one access of the register's width; `update` makes two. Errors are those of the region
 * ({@link Registers}).
 */
export function view<L extends RegisterLayout>(region: Registers, map: RegisterMap<L>): RegisterAccessors<L> {
  const described = registersIn(map);
  if (typeof region !== 'object' || region === null || typeof region.read32 !== 'function')
    throw refusal('registers, such as a Region or a MappedRegion,', 'region', region);
  const all: Record<string, Accessor> = Object.create(null);
  for (const register of described) all[register.name] = new ViewRegister(register, region);
  return Object.freeze(all) as unknown as RegisterAccessors<L>;
}
