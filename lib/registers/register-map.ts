/**
 * Registers described as data. One map serves the model of a device (`RegisterBank`), the driver (`view`) and the
 * documentation (`RegisterMap.describe`, the command `vfio registers`), so that the three can't differ.
 *
 * A map never changes, even if the description that it was made of does. It holds no values of registers: each device has a
 * bank for them.
 */

import { integer, known, oneOf, options, plain, refusal, type U64Like, u64 } from '../base/check.ts';
import { hex } from '../base/hex.ts';
import { OURS, ours } from '../base/private.ts';

/** The size of a register in bytes. */
export type RegisterWidth = 1 | 2 | 4 | 8;

/**
 * What a load and a store do to bits:
 *
 * - `rw`: a load returns what was stored;
 * - `ro`: a store changes nothing;
 * - `wo`: a load returns 0;
 * - `w1c`: a stored 1 clears the bit, a 0 leaves it;
 * - `w1s`: a stored 1 sets the bit, a 0 leaves it;
 * - `rc`: a load returns the bit and clears it; a store changes nothing.
 */
export type RegisterAccess = 'rw' | 'ro' | 'wo' | 'w1c' | 'w1s' | 'rc';
const ACCESSES = ['rw', 'ro', 'wo', 'w1c', 'w1s', 'rc'] as const;

/** Some bits of a register. */
export interface FieldDescription {
  /** One bit, or the highest and the lowest: `[31, 16]`. At most 53 bits, so that a number holds the value. */
  readonly bits: number | readonly [high: number, low: number];
  /** As the register's, if not given. */
  readonly access?: RegisterAccess;
  /** The value after a reset, of the field alone. Default: those bits of the register's `reset`. */
  readonly reset?: number;
  /** Names of values. A name can be given in place of the number. */
  readonly values?: Readonly<Record<string, number>>;
  readonly doc?: string;
}

/** A register, or `count` of the same kind. */
export interface RegisterDescription {
  /** In bytes from the start of the BAR; a multiple of `width`. */
  readonly offset: number;
  readonly width: RegisterWidth;
  /** Default: `rw`. */
  readonly access?: RegisterAccess;
  /** The value after a reset. Default: 0. */
  readonly reset?: U64Like;
  /**
   * If there are any, the bits of no field are reserved: a load returns their reset value, a store changes nothing. Without
   * fields, all bits have the register's `access`.
   */
  readonly fields?: Readonly<Record<string, FieldDescription>>;
  /** How many there are, `stride` bytes apart. Default: 1. */
  readonly count?: number;
  /** A multiple of `width`. Default: `width`. */
  readonly stride?: number;
  readonly doc?: string;
}

/** Registers by name. */
export type RegisterLayout = Readonly<Record<string, RegisterDescription>>;

/** What a register holds: a number, or a bigint if it has 8 bytes. */
export type RegisterValue<D extends RegisterDescription> = D['width'] extends 8
  ? bigint
  : D['width'] extends 1 | 2 | 4
    ? number
    : bigint | number;

/** Values for fields: a number, or the name of one. A field that is not named is 0. */
export type FieldValues<D extends RegisterDescription> = {
  readonly [F in keyof D['fields']]?: D['fields'][F] extends { readonly values: infer V }
    ? number | (keyof V & string)
    : number;
};

/** A row of the documentation of a map: a register, or one of its fields. */
export interface RegisterRow {
  readonly register: string;
  /** Undefined: the register itself. */
  readonly field: string | undefined;
  readonly offset: number;
  readonly width: RegisterWidth;
  readonly count: number;
  readonly stride: number;
  readonly high: number;
  readonly low: number;
  /** Undefined: the fields of the register say it. */
  readonly access: RegisterAccess | undefined;
  readonly reset: bigint;
  readonly values: Readonly<Record<string, number>>;
  readonly doc: string;
}

/** @internal A field, checked. */
export interface Field {
  readonly name: string;
  readonly low: number;
  readonly size: number;
  readonly access: RegisterAccess;
  readonly values: Readonly<Record<string, number>>;
  readonly doc: string;
}

/** @internal A register, checked. Masks and values are in two halves of 32 bits. */
export interface Register {
  readonly name: string;
  readonly offset: number;
  readonly width: RegisterWidth;
  readonly count: number;
  readonly stride: number;
  readonly access: RegisterAccess;
  readonly fields: ReadonlyMap<string, Field>;
  readonly reset: readonly [low: number, high: number];
  /** The bits that each kind of access has. */
  readonly masks: Readonly<Record<RegisterAccess, readonly [low: number, high: number]>>;
  readonly doc: string;
}

/** The two halves of a value. */
function halves(value: bigint): [number, number] {
  return [Number(value & 0xffffffffn), Number((value >> 32n) & 0xffffffffn)];
}

const ones = (size: number): bigint => (1n << BigInt(size)) - 1n;

let isMap: (value: object) => boolean;
let registersOf: (map: RegisterMap<RegisterLayout>) => readonly Register[];

/** @internal The checked registers of a map, for this package's modules. */
export function registersIn(map: RegisterMap<RegisterLayout>): readonly Register[] {
  if (typeof map !== 'object' || map === null || !isMap(map)) throw refusal('a RegisterMap', 'map', map);
  return registersOf(map);
}

/** Registers, checked. {@link registers} makes it. */
export class RegisterMap<L extends RegisterLayout> {
  readonly #registers: readonly Register[];
  /** The description that the map was made of, as the program gave it. */
  readonly layout: L;
  /** One past the last byte of the last register. */
  readonly size: number;

  static {
    isMap = (value) => #registers in value;
    registersOf = (map) => map.#registers;
  }

  /** @internal */
  constructor(key: typeof OURS, layout: L, checked: readonly Register[]) {
    ours(key, 'RegisterMap');
    this.layout = layout;
    this.#registers = checked;
    this.size = checked.reduce(
      (size, { offset, width, count, stride }) => Math.max(size, offset + (count - 1) * stride + width),
      0,
    );
    Object.freeze(this);
  }

  /** The documentation as rows: each register by ascending offset, and below it its fields from the highest bit. */
  describe(): RegisterRow[] {
    return this.#registers.flatMap((each) => {
      const { name, offset, width, count, stride, fields } = each;
      const place = { register: name, offset, width, count, stride };
      const reset = BigInt(each.reset[0]) | (BigInt(each.reset[1]) << 32n);
      const own: RegisterRow = {
        ...place,
        field: undefined,
        high: width * 8 - 1,
        low: 0,
        access: fields.size === 0 ? each.access : undefined,
        reset,
        values: {},
        doc: each.doc,
      };
      const rows = [...fields.values()].map(
        (field): RegisterRow => ({
          ...place,
          field: field.name,
          high: field.low + field.size - 1,
          low: field.low,
          access: field.access,
          reset: (reset >> BigInt(field.low)) & ones(field.size),
          values: field.values,
          doc: field.doc,
        }),
      );
      return [own, ...rows.sort((a, b) => b.low - a.low)];
    });
  }
}

/**
 * Checks a description of registers and makes a map of it.
 *
 * ```ts
 * const map = registers({
 *   id: { offset: 0x00, width: 4, access: 'ro', reset: 0x010000ed },
 *   control: { offset: 0x04, width: 4, fields: { start: { bits: 0 }, mode: { bits: [2, 1], values: { slow: 0, fast: 1 } } } },
 * });
 * ```
 *
 * @throws {TypeError | RangeError} registers overlap, a field leaves its register or overlaps another one, or a value has
 * more bits than its place.
 */
export function registers<const L extends RegisterLayout>(layout: L): RegisterMap<L> {
  plain(layout, 'layout');
  const checked = Object.keys(layout).map((name) => register(name, layout[name] as RegisterDescription));
  checked.sort((a, b) => a.offset - b.offset);
  const taken = new Map<number, string>();
  for (const { name, offset, width, count, stride } of checked)
    for (let index = 0; index < count; index++)
      for (let byte = 0; byte < width; byte++) {
        const at = offset + index * stride + byte;
        const other = taken.get(at);
        if (other !== undefined)
          throw refusal(`a place beside ${other}, which has byte ${hex(at)},`, `${name}.offset`, offset);
        taken.set(at, name);
      }
  return new RegisterMap(OURS, layout, checked);
}

/** BARs are at most this large here, and so are the offsets in them. */
const LAST_OFFSET = 2 ** 31;
/** Enough for a doorbell of each queue of a device, and little enough to check byte by byte. */
const MOST_OF_A_KIND = 65536;

function register(name: string, given: RegisterDescription): Register {
  const of = (property: string) => `${name}.${property}`;
  const description = known(given, name, [
    'offset',
    'width',
    'access',
    'reset',
    'fields',
    'count',
    'stride',
    'doc',
  ]);
  const width = integer(description.width, of('width'), 1, 8) as RegisterWidth;
  if (width !== 1 && width !== 2 && width !== 4 && width !== 8)
    throw refusal('1, 2, 4 or 8', of('width'), width);
  const offset = integer(description.offset, of('offset'), 0, LAST_OFFSET);
  if (offset % width !== 0) throw refusal(`a multiple of ${width}`, of('offset'), offset);
  const count = integer(description.count ?? 1, of('count'), 1, MOST_OF_A_KIND);
  const stride = integer(description.stride ?? width, of('stride'), width, LAST_OFFSET);
  if (stride % width !== 0) throw refusal(`a multiple of ${width}`, of('stride'), stride);
  const access = oneOf(description.access ?? 'rw', of('access'), ACCESSES);
  let reset = u64(description.reset ?? 0, of('reset'));
  if (reset > ones(width * 8)) throw refusal(`a value of ${width * 8} bits`, of('reset'), description.reset);

  const fields = new Map<string, Field>();
  const masks: Record<RegisterAccess, bigint> = { rw: 0n, ro: 0n, wo: 0n, w1c: 0n, w1s: 0n, rc: 0n };
  let covered = 0n;
  if (description.fields !== undefined) plain(description.fields, of('fields'));
  for (const [key, each] of Object.entries(description.fields ?? {})) {
    const { field, mask, value } = fieldOf(of(`fields.${key}`), key, each, width, access);
    if ((covered & mask) !== 0n)
      throw refusal('bits that no other field has', of(`fields.${key}.bits`), each.bits);
    covered |= mask;
    masks[field.access] |= mask;
    if (value !== undefined) reset = (reset & ~mask) | (BigInt(value) << BigInt(field.low));
    fields.set(key, field);
  }
  if (fields.size === 0) masks[access] = ones(width * 8);
  return {
    name,
    offset,
    width,
    count,
    stride,
    access,
    fields,
    reset: halves(reset),
    masks: {
      rw: halves(masks.rw),
      ro: halves(masks.ro),
      wo: halves(masks.wo),
      w1c: halves(masks.w1c),
      w1s: halves(masks.w1s),
      rc: halves(masks.rc),
    },
    doc: description.doc ?? '',
  };
}

const MOST_BITS = 53;

function fieldOf(
  of: string,
  name: string,
  given: FieldDescription,
  width: RegisterWidth,
  inherited: RegisterAccess,
): { field: Field; mask: bigint; value: number | undefined } {
  const description = known(given, of, ['bits', 'access', 'reset', 'values', 'doc']);
  const top = width * 8 - 1;
  const bits: readonly unknown[] = Array.isArray(description.bits)
    ? description.bits
    : [description.bits, description.bits];
  const high = integer(bits[0], `${of}.bits`, 0, top);
  const low = integer(bits[1], `${of}.bits`, 0, high);
  const size = high - low + 1;
  if (bits.length !== 2 || size > MOST_BITS)
    throw refusal(
      `a bit, or the highest and the lowest of at most ${MOST_BITS}`,
      `${of}.bits`,
      description.bits,
    );
  const most = Number(ones(size));
  const values = options(description.values, `${of}.values`) as Readonly<Record<string, number>>;
  for (const key of Object.keys(values)) integer(values[key], `${of}.values.${key}`, 0, most);
  return {
    field: {
      name,
      low,
      size,
      access: oneOf(description.access ?? inherited, `${of}.access`, ACCESSES),
      values,
      doc: description.doc ?? '',
    },
    mask: ones(size) << BigInt(low),
    value: description.reset === undefined ? undefined : integer(description.reset, `${of}.reset`, 0, most),
  };
}
