/** vfio registers: the documentation of the register maps that a module exports. */

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { hex } from '../lib/base/hex.ts';
import type { RegisterLayout, RegisterMap, RegisterRow } from '../lib/index.ts';
import type { Printer } from './print.ts';

/**
 * The register maps among the exports of a module. The module may have imported another copy of this package, so a map is
 * recognised by its members, and not by its class.
 */
function mapsIn(exports: Readonly<Record<string, unknown>>): [string, RegisterMap<RegisterLayout>][] {
  const isMap = (value: unknown): value is RegisterMap<RegisterLayout> =>
    typeof value === 'object' &&
    value !== null &&
    'layout' in value &&
    'describe' in value &&
    typeof value.describe === 'function';
  return Object.entries(exports).flatMap(([name, value]) => (isMap(value) ? [[name, value]] : []));
}

function place({ field, offset, count, stride, high, low }: RegisterRow): string {
  if (field !== undefined) return high === low ? `[${low}]` : `[${high}:${low}]`;
  return count === 1 ? hex(offset) : `${hex(offset)} + ${hex(stride)} n, n < ${count}`;
}

export async function registers(print: Printer, file: string): Promise<number> {
  let exports: Readonly<Record<string, unknown>>;
  try {
    exports = (await import(pathToFileURL(resolve(file)).href)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    throw new TypeError(`Expected a module for ${file} but its import failed: ${(error as Error).message}`);
  }
  const maps = mapsIn(exports);
  if (maps.length === 0)
    throw new TypeError(`Expected a module that exports a register map but ${file} exports none`);
  const tables = maps.map(([name, map]) => ({ name, registers: map.describe() }));
  print.json(
    tables.map(({ name, registers }) => ({
      name,
      registers: registers.map((row) => ({ ...row, reset: hex(row.reset) })),
    })),
  );
  for (const { name, registers } of tables) {
    print.line(name);
    print.table(
      ['PLACE', 'BYTES', 'NAME', 'ACCESS', 'RESET', 'VALUES', 'WHAT IT IS'],
      registers.map((row) => [
        row.field === undefined ? place(row) : `  ${place(row)}`,
        row.field === undefined ? String(row.width) : '',
        row.field === undefined ? row.register : `  ${row.field}`,
        row.access ?? '',
        hex(row.reset),
        Object.entries(row.values)
          .map(([value, number]) => `${number} ${value}`)
          .join(', '),
        row.doc,
      ]),
    );
  }
  return 0;
}
