/**
 * One register, by name: its value, and its fields. The driver's view and the model's bank have the same interface. They
 * differ in where the value is kept: in the device, or in the bank.
 */

import { integer, plain, refusal, u64 } from '../base/check.ts';
import type { Field, FieldValues, Register, RegisterDescription, RegisterValue } from './register-map.ts';

/** A register of a map, or one of `count` by its index. An index that is not given is 0. */
export interface RegisterAccessor<D extends RegisterDescription> {
  /** The value: a number, or a bigint if the register has 8 bytes. */
  read(index?: number): RegisterValue<D>;
  /** Stores a value, or fields: the bits of fields that are not named are 0. */
  write(value: RegisterValue<D> | FieldValues<D>, index?: number): void;
  /** Reads the register and returns one field of it. */
  field(name: keyof D['fields'] & string, index?: number): number;
  /** Reads the register once and returns all of its fields. */
  fields(index?: number): { [F in keyof D['fields']]: number };
  /**
   * Reads the register, changes the named fields and writes it. In a driver's view, bits where a stored 1 does something
   * (`w1c`, `w1s`) are written as 0 unless they are named, so that an update acknowledges nothing by accident.
   */
  update(fields: FieldValues<D>, index?: number): void;
}

/** Accessors by the names of a layout. */
export type RegisterAccessors<L extends Readonly<Record<string, RegisterDescription>>> = {
  readonly [R in keyof L]: RegisterAccessor<L[R]>;
};

/** @internal What an accessor does with values as halves of 32 bits, without bigints. */
export abstract class Accessor implements RegisterAccessor<RegisterDescription> {
  protected readonly register: Register;
  /** The halves of the last value: what `load` returns. */
  protected low = 0;
  protected high = 0;

  constructor(register: Register) {
    this.register = register;
  }

  /** Puts the value into `low` and `high`. */
  protected abstract load(index: number): void;
  protected abstract store(index: number, low: number, high: number): void;
  /** The bits that an update leaves 0 unless they are named. */
  protected abstract kept(half: 0 | 1): number;

  read(index = 0): bigint | number {
    this.load(this.#index(index));
    return this.register.width === 8 ? (BigInt(this.high) << 32n) | BigInt(this.low) : this.low;
  }

  write(value: bigint | number | object, index = 0): void {
    const at = this.#index(index);
    if (typeof value === 'object' && value !== null) {
      this.low = 0;
      this.high = 0;
      this.#put(value);
      this.store(at, this.low, this.high);
      return;
    }
    const { name, width } = this.register;
    if (width === 8) {
      const wide = u64(value, name);
      this.store(at, Number(wide & 0xffffffffn), Number(wide >> 32n));
    } else {
      this.store(at, integer(value, name, 0, 2 ** (8 * width) - 1), 0);
    }
  }

  field(name: string, index = 0): number {
    const field = this.#field(name);
    this.load(this.#index(index));
    return this.#take(field);
  }

  fields(index = 0): Record<string, number> {
    this.load(this.#index(index));
    const all: Record<string, number> = {};
    for (const field of this.register.fields.values()) all[field.name] = this.#take(field);
    return all;
  }

  update(fields: object, index = 0): void {
    const at = this.#index(index);
    this.load(at);
    this.low = (this.low & this.kept(0)) >>> 0;
    this.high = (this.high & this.kept(1)) >>> 0;
    this.#put(fields);
    this.store(at, this.low, this.high);
  }

  #index(index: number): number {
    const { name, count } = this.register;
    return integer(index, `the index of ${name}`, 0, count - 1);
  }

  #field(name: string): Field {
    const field = this.register.fields.get(name);
    if (field) return field;
    const names = [...this.register.fields.keys()].map((each) => `'${each}'`).join(' or ');
    throw refusal(names === '' ? 'no field' : names, `a field of ${this.register.name}`, name);
  }

  #take({ low, size }: Field): number {
    if (low >= 32) return Math.floor(this.high / 2 ** (low - 32)) % 2 ** size;
    const below = 32 - low; // how many of its bits can be in the lower half
    if (size <= below) return Math.floor(this.low / 2 ** low) % 2 ** size;
    return Math.floor(this.low / 2 ** low) + (this.high % 2 ** (size - below)) * 2 ** below;
  }

  #put(values: object): void {
    plain(values, `the fields of ${this.register.name}`);
    for (const [name, given] of Object.entries(values)) {
      const field = this.#field(name);
      const { low, size } = field;
      const named =
        typeof given === 'string' && Object.hasOwn(field.values, given) ? field.values[given] : given;
      const value = integer(named, `${this.register.name}.${name}`, 0, 2 ** size - 1);
      const below = Math.max(0, Math.min(size, 32 - low)); // how many bits are in the lower half
      if (below > 0) {
        const mask = below === 32 ? 0xffffffff : (2 ** below - 1) * 2 ** low;
        this.low = ((this.low & ~mask) | ((value % 2 ** below) * 2 ** low)) >>> 0;
      }
      if (below < size) {
        const from = Math.max(0, low - 32);
        const mask = (2 ** (size - below) - 1) * 2 ** from;
        this.high = ((this.high & ~mask) | (Math.floor(value / 2 ** below) * 2 ** from)) >>> 0;
      }
    }
  }
}
