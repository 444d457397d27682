/**
 * Register maps: the model's bank, the driver's view and the documentation are made of one description. They are compared
 * with a reference that knows each bit by itself, and nothing of halves, groups of bytes or fast paths.
 */
import fc from 'fast-check';
import { describe, expect, expectTypeOf, test } from 'vitest';
import {
  type FieldDescription,
  type RegisterAccess,
  RegisterBank,
  type RegisterDescription,
  type RegisterMap,
  type Registers,
  type RegisterWidth,
  registers,
  view,
} from '../lib/index.ts';

/** The registers of a bank as a driver reaches them. */
function busOf(bank: {
  read(o: number, w: RegisterWidth): bigint | number | undefined;
  write(o: number, w: RegisterWidth, v: bigint | number): boolean | Promise<unknown>;
}): Registers {
  const read = (o: number, w: 1 | 2 | 4) => Number(bank.read(o, w) ?? 0);
  return {
    read8: (o) => read(o, 1),
    read16: (o) => read(o, 2),
    read32: (o) => read(o, 4),
    read64: (o) => BigInt(bank.read(o, 8) ?? 0),
    write8: (o, v) => void bank.write(o, 1, v),
    write16: (o, v) => void bank.write(o, 2, v),
    write32: (o, v) => void bank.write(o, 4, v),
    write64: (o, v) => void bank.write(o, 8, v),
  };
}

const map = registers({
  id: { offset: 0x00, width: 4, access: 'ro', reset: 0x010000ed, doc: 'Which device this is' },
  control: {
    offset: 0x04,
    width: 4,
    fields: {
      start: { bits: 0, access: 'w1s' },
      mode: { bits: [2, 1], values: { slow: 0, fast: 1 }, reset: 1 },
      done: { bits: 31, access: 'w1c', reset: 1 },
    },
  },
  status: { offset: 0x08, width: 2, access: 'rc', reset: 0x8001 },
  bell: { offset: 0x10, width: 4, access: 'wo', count: 3, stride: 8 },
  base: { offset: 0x30, width: 8, fields: { page: { bits: [51, 12] }, valid: { bits: 0 } } },
});

describe('a map', () => {
  test('gives values their types', () => {
    const r = view(busOf(new RegisterBank(map)), map);
    expectTypeOf(r.id.read()).toEqualTypeOf<number>();
    expectTypeOf(r.base.read()).toEqualTypeOf<bigint>();
    expectTypeOf(r.control.field).parameter(0).toEqualTypeOf<'start' | 'mode' | 'done'>();
    expectTypeOf(r.control.write).parameter(0).extract<object>().toEqualTypeOf<{
      readonly start?: number;
      readonly mode?: number | 'slow' | 'fast';
      readonly done?: number;
    }>();
  });

  test('is used by a driver, whose loads and stores do what each bit says', () => {
    const bank = new RegisterBank(map);
    const r = view(busOf(bank), map);
    expect(r.id.read()).toBe(0x010000ed);
    r.id.write(7);
    expect(r.id.read()).toBe(0x010000ed);
    expect(r.control.fields()).toEqual({ start: 0, mode: 1, done: 1 });
    r.control.write({ start: 1, mode: 'slow' });
    expect(r.control.fields()).toEqual({ start: 1, mode: 0, done: 1 });
    r.control.update({ mode: 'fast' }); // acknowledges nothing
    expect(r.control.read()).toBe(0x80000003);
    r.control.update({ done: 1 });
    expect(r.control.read()).toBe(0x00000003);
    r.control.write(0xffffffff);
    expect(r.control.read()).toBe(0x00000007); // the other bits are reserved
    expect([r.status.read(), r.status.read()]).toEqual([0x8001, 0]);
    r.bell.write(5, 2);
    expect(r.bell.read(2)).toBe(0);
    expect(bank.registers.bell.read(2)).toBe(5);
    r.base.write({ page: 2 ** 39 + 1, valid: 1 });
    expect(r.base.read()).toBe(0x80_0000_0001_001n);
    bank.reset();
    expect(r.control.read()).toBe(0x80000002);
  });

  test('calls the handlers of a model on accesses from the bus only, with what was stored and what became of it', () => {
    const seen: unknown[] = [];
    let now = 0;
    const bank = new RegisterBank(map, {
      control: { onWrite: (value, written, index) => void seen.push(['control', value, written, index]) },
      bell: { onWrite: (value, written, index) => void seen.push(['bell', value, written, index]) },
      base: { onWrite: (value, written) => void seen.push(['base', value, written]) },
      id: { onRead: () => ++now },
    });
    bank.registers.control.write({ start: 1 });
    bank.write(0x04, 1, 0xfd);
    bank.write(0x18, 4, 9);
    bank.write(0x34, 4, 0xffff_ffff);
    expect(seen).toEqual([
      ['control', 0x00000005, 0xfd, 0],
      ['bell', 9, 9, 1],
      ['base', 0x000f_ffff_0000_0000n, 0xffff_ffff_0000_0000n],
    ]);
    expect([bank.read(0, 4), bank.registers.id.read(), bank.read(0, 4)]).toEqual([1, 1, 2]);
    expect(bank.read(0x40, 4)).toBeUndefined();
    expect(bank.write(0x40, 4, 1)).toBe(false);
  });

  test('stays what it was when the description changes', () => {
    const values: Record<string, number> = { off: 0, on: 1 };
    const given = { a: { offset: 0, width: 4, fields: { f: { bits: 0, values } } } } as const;
    const made = registers(given);
    values['on'] = 7;
    const r = view(busOf(new RegisterBank(made)), made);
    r.a.write({ f: 'on' } as never);
    expect(r.a.read()).toBe(1);
    expect(made.describe()[1]?.values).toMatchObject({ off: 0, on: 1 });
  });

  test('documents itself', () => {
    const rows = map
      .describe()
      .map((row) => [row.register, row.field, row.high, row.low, row.access, row.reset]);
    expect(rows.slice(0, 5)).toEqual([
      ['id', undefined, 31, 0, 'ro', 0x010000edn],
      ['control', undefined, 31, 0, undefined, 0x80000002n],
      ['control', 'done', 31, 31, 'w1c', 1n],
      ['control', 'mode', 2, 1, 'rw', 1n],
      ['control', 'start', 0, 0, 'w1s', 0n],
    ]);
    expect(map.size).toBe(0x38);
  });
});

describe('a bad description or value is refused in words:', () => {
  const refused: [string, () => unknown, RegExp][] = [
    [
      'an offset that is not aligned',
      () => registers({ a: { offset: 2, width: 4 } }),
      /multiple of 4 for a\.offset/,
    ],
    [
      'registers that overlap',
      () => registers({ a: { offset: 0, width: 4 }, b: { offset: 2, width: 2 } }),
      /beside a, which has byte 0x2, for b\.offset but received 2/,
    ],
    [
      'a stride into a register',
      () => registers({ a: { offset: 0, width: 4, count: 2, stride: 8 }, b: { offset: 8, width: 4 } }),
      /which has byte 0x8/,
    ],
    [
      'a field outside',
      () => registers({ a: { offset: 0, width: 1, fields: { f: { bits: 8 } } } }),
      /an integer from 0 to 7 for a\.fields\.f\.bits but received 8/,
    ],
    [
      'fields that overlap',
      () => registers({ a: { offset: 0, width: 1, fields: { f: { bits: [3, 1] }, g: { bits: 2 } } } }),
      /bits that no other field has for a\.fields\.g\.bits/,
    ],
    [
      'a reset value that is too wide',
      () => registers({ a: { offset: 0, width: 1, reset: 256 } }),
      /a value of 8 bits/,
    ],
    [
      'a misspelt property',
      () => registers({ a: { offset: 0, width: 1, acess: 'ro' } as RegisterDescription }),
      /but received 'acess'/,
    ],
    [
      'an unknown access',
      () => registers({ a: { offset: 0, width: 1, access: 'x' as RegisterAccess } }),
      /'rw' or 'ro' or 'wo'/,
    ],
    [
      'no field of that name',
      () => view(busOf(new RegisterBank(map)), map).id.field('x' as never),
      /no field/,
    ],
    [
      'a value of a field that is too large',
      () => view(busOf(new RegisterBank(map)), map).control.write({ mode: 4 }),
      /from 0 to 3 for control\.mode but received 4/,
    ],
    [
      'no value of that name',
      () => view(busOf(new RegisterBank(map)), map).control.write({ mode: 'warp' as 'fast' }),
      /for control\.mode but received 'warp'/,
    ],
    [
      'an index too large',
      () => view(busOf(new RegisterBank(map)), map).bell.write(1, 3),
      /the index of bell/,
    ],
    [
      'an access that is not aligned',
      () => new RegisterBank(map).read(2, 4),
      /a multiple of 4 below 2\^32 for offset/,
    ],
    [
      'no map',
      () => new RegisterBank({ layout: {} } as never),
      /a RegisterMap for map but received \{ layout/,
    ],
    [
      'no map for a view',
      () => view(busOf(new RegisterBank(map)), undefined as never),
      /a RegisterMap for map/,
    ],
    [
      'no registers to view',
      () => view({} as Registers, map),
      /registers, such as a Region or a MappedRegion, for region/,
    ],
    ['a handler of no register', () => new RegisterBank(map, { x: {} } as object), /only 'id' and/],
  ];
  test.each(refused)('%s', (_, call, message) => {
    expect(call).toThrow(message);
  });
});

/** One bit, as the reference has it. */
interface Bit {
  value: boolean;
  readonly reset: boolean;
  readonly access: RegisterAccess | 'reserved';
}

/** A device whose registers are a list of bits. */
class Reference {
  readonly #bits = new Map<number, Bit>();
  constructor(layout: Readonly<Record<string, RegisterDescription>>) {
    for (const {
      offset,
      width,
      access = 'rw',
      reset = 0,
      fields,
      count = 1,
      stride = width,
    } of Object.values(layout))
      for (let index = 0; index < count; index++)
        for (let bit = 0; bit < width * 8; bit++) {
          const field = Object.values(fields ?? {}).find((each) => has(each, bit));
          const own = (BigInt(reset) >> BigInt(bit)) & 1n;
          const value =
            field?.reset === undefined
              ? own === 1n
              : ((BigInt(field.reset) >> BigInt(bit - lowOf(field))) & 1n) === 1n;
          this.#bits.set((offset + index * stride) * 8 + bit, {
            value,
            reset: value,
            access:
              fields && Object.keys(fields).length > 0
                ? field
                  ? (field.access ?? access)
                  : 'reserved'
                : access,
          });
        }
  }
  #in(offset: number, width: number): [Bit | undefined, number][] {
    return Array.from({ length: width * 8 }, (_, bit) => [this.#bits.get(offset * 8 + bit), bit]);
  }
  read(offset: number, width: number): bigint {
    let value = 0n;
    for (const [bit, at] of this.#in(offset, width)) {
      if (bit === undefined) continue;
      if (bit.value && bit.access !== 'wo') value |= 1n << BigInt(at);
      if (bit.access === 'rc') bit.value = false;
    }
    return value;
  }
  write(offset: number, width: number, value: bigint): void {
    for (const [bit, at] of this.#in(offset, width)) {
      if (bit === undefined) continue;
      const one = ((value >> BigInt(at)) & 1n) === 1n;
      if (bit.access === 'rw' || bit.access === 'wo') bit.value = one;
      if (bit.access === 'w1c' && one) bit.value = false;
      if (bit.access === 'w1s' && one) bit.value = true;
    }
  }
  /** What the device itself sees. */
  inside(offset: number, width: number): bigint {
    return this.#in(offset, width).reduce(
      (sum, [bit, at]) => (bit?.value ? sum | (1n << BigInt(at)) : sum),
      0n,
    );
  }
  set(offset: number, width: number, value: bigint): void {
    for (const [bit, at] of this.#in(offset, width)) if (bit) bit.value = ((value >> BigInt(at)) & 1n) === 1n;
  }
  reset(): void {
    for (const bit of this.#bits.values()) bit.value = bit.reset;
  }
}
const lowOf = ({ bits }: FieldDescription) => (typeof bits === 'number' ? bits : bits[1]);
const highOf = ({ bits }: FieldDescription) => (typeof bits === 'number' ? bits : bits[0]);
const has = (field: FieldDescription, bit: number) => bit >= lowOf(field) && bit <= highOf(field);

const anAccess = fc.constantFrom<RegisterAccess[]>('rw', 'ro', 'wo', 'w1c', 'w1s', 'rc');
const aWidth = fc.constantFrom<RegisterWidth[]>(1, 2, 4, 8);
const aValue = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const within = (value: bigint, width: number) => value & ((1n << BigInt(width * 8)) - 1n);
const valueFor = (value: bigint, width: number) => (width === 8 ? value : Number(within(value, width)));

/** Fields from the lowest bit up, with gaps. */
const someFields = (width: number) =>
  fc
    .array(fc.tuple(fc.nat(5), fc.integer({ min: 1, max: 20 }), anAccess, fc.boolean(), aValue), {
      maxLength: 6,
    })
    .map((parts) => {
      const fields: Record<string, FieldDescription> = {};
      let low = 0;
      for (const [gap, size, access, ownReset, value] of parts) {
        low += gap;
        if (low + size > width * 8) break;
        fields[`f${low}`] = {
          bits: size === 1 ? low : [low + size - 1, low],
          access,
          ...(ownReset ? { reset: Number(value % (1n << BigInt(size))) } : {}),
        };
        low += size;
      }
      return fields;
    });

const aRegister = aWidth.chain((width) =>
  fc.record({
    width: fc.constant(width),
    gap: fc.nat(3),
    access: anAccess,
    reset: aValue.map((value) => within(value, width)),
    fields: fc.oneof(fc.constant({}), someFields(width)),
    count: fc.integer({ min: 1, max: 3 }),
    spread: fc.integer({ min: 1, max: 3 }),
  }),
);

/** Registers one after the other, with holes between them. */
const aLayout = fc.array(aRegister, { minLength: 1, maxLength: 8 }).map((parts) => {
  const layout: Record<string, RegisterDescription> = {};
  let at = 0;
  parts.forEach(({ width, gap, access, reset, fields, count, spread }, index) => {
    at += gap;
    const offset = Math.ceil(at / width) * width;
    const stride = width * spread;
    layout[`r${index}`] = { offset, width, access, reset, fields, count, stride };
    at = offset + (count - 1) * stride + width;
  });
  return layout;
});

interface Access {
  kind: 'read' | 'write';
  at: number;
  width: RegisterWidth;
  value: bigint;
}
interface Use {
  kind: 'view' | 'update' | 'device';
  which: number;
  index: number;
  value: bigint;
}
type Step = Access | Use | { kind: 'reset' };
const aStep: fc.Arbitrary<Step> = fc.oneof(
  fc.record<Access>({
    kind: fc.constantFrom('read', 'write'),
    at: fc.nat(300),
    width: aWidth,
    value: aValue,
  }),
  fc.record<Use>({
    kind: fc.constantFrom('view', 'update', 'device'),
    which: fc.nat(7),
    index: fc.nat(2),
    value: aValue,
  }),
  fc.record({ kind: fc.constant('reset' as const) }),
);

test('model, description and driver agree with the reference, bit by bit', { timeout: 300_000 }, () => {
  const numRuns = Number(process.env['VFIO_REGISTER_MAPS'] ?? 1_000);
  let accesses = 0;
  fc.assert(
    fc.property(aLayout, fc.array(aStep, { minLength: 1, maxLength: 60, size: 'max' }), (layout, steps) => {
      const made: RegisterMap<typeof layout> = registers(layout);
      const bank = new RegisterBank(made);
      const driver = view(busOf(bank), made);
      const reference = new Reference(layout);
      const names = Object.keys(layout);
      for (const step of steps) {
        accesses++;
        if (step.kind === 'reset') {
          bank.reset();
          reference.reset();
        } else if ('at' in step && step.kind === 'read') {
          const at = Math.floor(step.at / step.width) * step.width;
          expect(BigInt(bank.read(at, step.width) ?? 0)).toBe(reference.read(at, step.width));
        } else if ('at' in step) {
          const at = Math.floor(step.at / step.width) * step.width;
          bank.write(at, step.width, valueFor(step.value, step.width));
          reference.write(at, step.width, within(step.value, step.width));
        } else {
          const name = names[step.which % names.length] as string;
          const {
            offset,
            width,
            count = 1,
            stride = width,
            fields = {},
          } = layout[name] as RegisterDescription;
          const index = step.index % count;
          const at = offset + index * stride;
          const device = bank.registers[name];
          const register = driver[name];
          if (step.kind === 'device') {
            expect(BigInt(device?.read(index) ?? -1)).toBe(reference.inside(at, width));
            device?.write(valueFor(step.value, width) as number, index);
            reference.set(at, width, within(step.value, width));
          } else if (step.kind === 'view') {
            // All fields of one load, and the same of the value.
            const value = reference.read(at, width);
            const split = Object.entries(fields).map(([key, field]) => [
              key,
              Number((value >> BigInt(lowOf(field))) % (1n << BigInt(highOf(field) - lowOf(field) + 1))),
            ]);
            expect(register?.fields(index)).toEqual(Object.fromEntries(split));
          } else {
            // Named fields change; a bit where a 1 does something is written as 0 unless it is named.
            const [key, field] = Object.entries(fields).at(Number(step.value % 6n)) ?? [];
            if (key === undefined || field === undefined) continue;
            const size = BigInt(highOf(field) - lowOf(field) + 1);
            const chosen = step.value % (1n << size);
            register?.update({ [key]: Number(chosen) } as never, index);
            let next = reference.read(at, width);
            for (const each of Object.values(fields))
              if (
                (each.access ?? layout[name]?.access) === 'w1c' ||
                (each.access ?? layout[name]?.access) === 'w1s'
              )
                for (let bit = lowOf(each); bit <= highOf(each); bit++) next &= ~(1n << BigInt(bit));
            for (let bit = lowOf(field); bit <= highOf(field); bit++) next &= ~(1n << BigInt(bit));
            reference.write(at, width, next | (chosen << BigInt(lowOf(field))));
          }
        }
      }
      for (const { register, field, offset, high, low, reset } of made.describe()) {
        const { width } = layout[register] as RegisterDescription;
        reference.reset();
        const whole = reference.inside(offset, width);
        expect(reset).toBe(
          field === undefined ? whole : (whole >> BigInt(low)) % (1n << BigInt(high - low + 1)),
        );
      }
    }),
    { numRuns },
  );
  console.log(`${numRuns} random maps, ${accesses} accesses: no difference`);
});
