/**
 * The values of the registers of one device, as its model has them.
 *
 * The bus side (`read`, `write`) obeys the map: a store leaves read-only bits as they are, and a stored 1 clears a `w1c` bit.
 * The device side (`registers`) sees and sets every bit. Handlers are called on accesses from the bus only.
 *
 * Life: a bank belongs to its device. `reset` gives every register its reset value.
 */

import { integer, known, refusal, u64 } from '../base/check.ts';
import { later, refusePromise } from '../base/later.ts';
import { Accessor, type RegisterAccessors } from './accessor.ts';
import {
  type Register,
  type RegisterAccess,
  type RegisterLayout,
  type RegisterMap,
  type RegisterValue,
  type RegisterWidth,
  registersIn,
} from './register-map.ts';

/** What a model does when a driver loads or stores. A handler runs to its end before the access is answered. */
export interface RegisterHandlers<V extends bigint | number> {
  /** Before a load: the register's new value, or undefined to leave it. */
  onRead?(index: number): V | undefined;
  /**
   * After a store. `value`: what the register holds now. `written`: the bits that were on the bus; 0 where a narrow store
   * had none. It may be async: the store is answered when it first waits.
   */
  onWrite?(value: V, written: V, index: number): void | Promise<void>;
}

/** Handlers by the names of a layout. */
export type RegisterBankHandlers<L extends RegisterLayout> = {
  readonly [R in keyof L]?: RegisterHandlers<RegisterValue<L[R]>>;
};

type Mask = readonly [low: number, high: number];

/** One register of a bank. */
interface Cell {
  readonly register: Register;
  readonly index: number;
  readonly offset: number;
  /** Where its value is: one place, or two if it has 8 bytes. */
  readonly at: number;
  readonly handlers: RegisterHandlers<bigint | number>;
  /** The bits that a store sets as it is, and those that a load sees. */
  readonly stored: Mask;
  readonly seen: Mask;
}

/** The device's side of a register. */
class BankRegister extends Accessor {
  readonly #values: Uint32Array;
  readonly #first: number;
  readonly #lanes: number;

  constructor(register: Register, values: Uint32Array, first: number) {
    super(register);
    this.#values = values;
    this.#first = first;
    this.#lanes = register.width === 8 ? 2 : 1;
  }
  protected load(index: number): void {
    const at = this.#first + index * this.#lanes;
    this.low = this.#values[at] as number;
    this.high = this.#lanes === 2 ? (this.#values[at + 1] as number) : 0;
  }
  protected store(index: number, low: number, high: number): void {
    const at = this.#first + index * this.#lanes;
    this.#values[at] = low;
    if (this.#lanes === 2) this.#values[at + 1] = high;
  }
  protected kept(): number {
    return 0xffffffff;
  }
}

const both = (masks: Readonly<Record<RegisterAccess, Mask>>, a: RegisterAccess, b: RegisterAccess): Mask => [
  (masks[a][0] | masks[b][0]) >>> 0,
  (masks[a][1] | masks[b][1]) >>> 0,
];

/** The bits of an access of `width` bytes. */
const bitsOf = (width: number) => (width === 4 ? 0xffffffff : (1 << (8 * width)) - 1);

/** Registers as the bus reaches them: a bank, or what a program makes itself. */
export interface RegisterFile {
  /** A load, naturally aligned. Undefined: there is no register in these bytes. */
  read(offset: number, width: RegisterWidth): bigint | number | undefined;
  /**
   * A store, naturally aligned. False: there is no register in these bytes. A promise: there is one, and work that the store
   * began goes on.
   */
  write(offset: number, width: RegisterWidth, value: bigint | number): boolean | Promise<unknown>;
  /** Gives every register its reset value. */
  reset(): void;
}

export class RegisterBank<L extends RegisterLayout> implements RegisterFile {
  readonly #values: Uint32Array;
  readonly #resets: Uint32Array;
  /** The registers that have bytes in a group of four, by its number. */
  readonly #cells = new Map<number, Cell[]>();

  /** The device's side: every bit, whatever its access. No handler is called. */
  readonly registers: RegisterAccessors<L>;

  /** All registers have their reset values. */
  constructor(map: RegisterMap<L>, handlers: RegisterBankHandlers<L> = {}) {
    const all = registersIn(map);
    const given = known(handlers, 'handlers', Object.keys(map.layout)) as Record<
      string,
      RegisterHandlers<bigint | number> | undefined
    >;
    const places = all.reduce((sum, { width, count }) => sum + count * (width === 8 ? 2 : 1), 0);
    this.#values = new Uint32Array(places);
    this.#resets = new Uint32Array(places);
    const registers: Record<string, Accessor> = Object.create(null);
    let at = 0;
    for (const register of all) {
      const lanes = register.width === 8 ? 2 : 1;
      registers[register.name] = new BankRegister(register, this.#values, at);
      for (let index = 0; index < register.count; index++, at += lanes) {
        this.#resets.set(register.reset.slice(0, lanes), at);
        this.#add({
          register,
          index,
          offset: register.offset + index * register.stride,
          at,
          handlers: given[register.name] ?? {},
          stored: both(register.masks, 'rw', 'wo'),
          seen: register.masks.wo.map((mask) => ~mask >>> 0) as unknown as Mask,
        });
      }
    }
    this.registers = registers as unknown as RegisterAccessors<L>;
    Object.freeze(registers);
    this.reset();
  }

  /** Gives every register its reset value. */
  reset(): void {
    this.#values.set(this.#resets);
  }

  /**
   * A load from the bus, naturally aligned: a number, or a bigint for 8 bytes. Bytes of no register are 0. Undefined: there is
   * no register in these bytes.
   */
  read(offset: number, width: RegisterWidth): bigint | number | undefined {
    check(offset, width);
    if (width !== 8) return this.#load(offset, width);
    const whole = this.#whole(offset);
    if (whole) {
      this.#ask(whole);
      return (BigInt(this.#take(whole, 1, 0xffffffff)) << 32n) | BigInt(this.#take(whole, 0, 0xffffffff));
    }
    const low = this.#load(offset, 4);
    const high = this.#load(offset + 4, 4);
    return low === undefined && high === undefined
      ? undefined
      : (BigInt(high ?? 0) << 32n) | BigInt(low ?? 0);
  }

  /**
   * A store from the bus, naturally aligned. False: there is no register in these bytes. A promise: what async handlers do
   * after the store.
   */
  write(offset: number, width: RegisterWidth, value: bigint | number): boolean | Promise<unknown> {
    check(offset, width);
    const wide = width === 8;
    const low = wide ? Number(u64(value, 'value') & 0xffffffffn) : integer(value, 'value', 0, bitsOf(width));
    if (!wide) return this.#store(offset, width, low);
    const high = Number(u64(value, 'value') >> 32n);
    const whole = this.#whole(offset);
    if (whole) {
      this.#put(whole, 0, 0xffffffff, low);
      this.#put(whole, 1, 0xffffffff, high);
      return this.#tell(whole, low, high) ?? true;
    }
    const first = this.#store(offset, 4, low);
    return together(first, this.#store(offset + 4, 4, high));
  }

  #add(cell: Cell): void {
    const first = cell.offset >>> 2;
    for (const group of cell.register.width === 8 ? [first, first + 1] : [first]) {
      const cells = this.#cells.get(group);
      if (cells) cells.push(cell);
      else this.#cells.set(group, [cell]);
    }
  }

  #whole(offset: number): Cell | undefined {
    const cell = this.#cells.get(offset >>> 2)?.[0];
    return cell?.register.width === 8 ? cell : undefined;
  }

  #load(offset: number, width: number): number | undefined {
    const cells = this.#cells.get(offset >>> 2);
    if (cells === undefined) return undefined;
    let value = 0;
    let found = false;
    for (const cell of cells) {
      const shift = shiftOf(cell);
      const mask = touched(cell, offset, width);
      if (mask === 0) continue;
      found = true;
      this.#ask(cell);
      value |= this.#take(cell, halfOf(cell, offset), mask >>> shift) << shift;
    }
    return found ? value >>> ((offset & 3) * 8) : undefined;
  }

  #store(offset: number, width: number, value: number): boolean | Promise<unknown> {
    const cells = this.#cells.get(offset >>> 2);
    if (cells === undefined) return false;
    let found: boolean | Promise<unknown> = false;
    const placed = value << ((offset & 3) * 8);
    for (const cell of cells) {
      const shift = shiftOf(cell);
      const mask = touched(cell, offset, width);
      if (mask === 0) continue;
      const half = halfOf(cell, offset);
      const bits = ((placed & mask) >>> shift) >>> 0;
      this.#put(cell, half, mask >>> shift, bits);
      found = together(found, this.#tell(cell, half === 0 ? bits : 0, half === 1 ? bits : 0) ?? true);
    }
    return found;
  }

  #ask(cell: Cell): void {
    const { handlers, register, index, at } = cell;
    const value = handlers.onRead?.(index);
    if (value === undefined) return;
    refusePromise(value, `what onRead of ${register.name} returned`);
    if (register.width === 8) {
      const wide = u64(value, `what onRead of ${register.name} returned`);
      this.#values[at] = Number(wide & 0xffffffffn);
      this.#values[at + 1] = Number(wide >> 32n);
    } else {
      this.#values[at] = integer(
        value,
        `what onRead of ${register.name} returned`,
        0,
        bitsOf(register.width),
      );
    }
  }

  /** What a load of these bits sees, and the bits that it clears. */
  #take(cell: Cell, half: 0 | 1, mask: number): number {
    const at = cell.at + half;
    const value = this.#values[at] as number;
    this.#values[at] = value & ~(cell.register.masks.rc[half] & mask);
    return (value & cell.seen[half] & mask) >>> 0;
  }

  /** What a store of these bits changes. */
  #put(cell: Cell, half: 0 | 1, mask: number, bits: number): void {
    const { masks } = cell.register;
    const at = cell.at + half;
    const stored = cell.stored[half] & mask;
    const value = ((this.#values[at] as number) & ~stored) | (bits & stored);
    this.#values[at] = (value & ~(bits & masks.w1c[half] & mask)) | (bits & masks.w1s[half] & mask);
  }

  /** A promise: what the handler does later. */
  #tell(cell: Cell, low: number, high: number): Promise<unknown> | undefined {
    const { handlers, register, index, at } = cell;
    if (handlers.onWrite === undefined) return undefined;
    if (register.width !== 8) return later(handlers.onWrite(this.#values[at] as number, low, index));
    const value = (BigInt(this.#values[at + 1] as number) << 32n) | BigInt(this.#values[at] as number);
    return later(handlers.onWrite(value, (BigInt(high) << 32n) | BigInt(low), index));
  }
}

/** What two stores of one access found. */
function together(
  first: boolean | Promise<unknown>,
  second: boolean | Promise<unknown>,
): boolean | Promise<unknown> {
  if (typeof first === 'boolean') return typeof second === 'boolean' ? first || second : second;
  return typeof second === 'boolean' ? first : Promise.all([first, second]);
}

/** Where a register begins in its group of four bytes, in bits. */
const shiftOf = ({ register, offset }: Cell) => (register.width === 8 ? 0 : (offset & 3) * 8);

/** Which half of a register an access is in. */
const halfOf = ({ register, offset }: Cell, at: number): 0 | 1 =>
  register.width === 8 && at - offset >= 4 ? 1 : 0;

/** The bits of a group of four bytes that are the register's and the access's. */
function touched(cell: Cell, offset: number, width: number): number {
  const own = cell.register.width >= 4 ? 0xffffffff : bitsOf(cell.register.width) << shiftOf(cell);
  return (own & (bitsOf(width) << ((offset & 3) * 8))) >>> 0;
}

function check(offset: number, width: number): void {
  if (width !== 1 && width !== 2 && width !== 4 && width !== 8) throw refusal('1, 2, 4 or 8', 'width', width);
  if (!Number.isInteger(offset) || offset < 0 || offset >= 2 ** 32 || offset % width !== 0)
    throw refusal(`a multiple of ${width} below 2^32`, 'offset', offset);
}
