/** Two arguments of every call that maps: the access that the device is allowed, and a number for the mapping. */
import { native } from '../addon/native.ts';
import { flag, options } from '../base/check.ts';
import type { MapOptions } from './dma-space.ts';

/** How many numbers for mappings are taken at once. */
const NUMBERS = 2 ** 31;
let nextNumber = 0;
let endOfNumbers = 0;

/** A number for a mapping, unique in this process. */
export function mappingNumber(): number {
  if (nextNumber === endOfNumbers) {
    nextNumber = native.mappingNumbers(NUMBERS);
    endOfNumbers = nextNumber + NUMBERS;
  }
  return nextNumber++;
}

export const READ = 1;
export const WRITE = 2;

/** The access that a device is allowed, as the addon takes it. */
export function accessOf(read: boolean | undefined, write: boolean | undefined, otherwise = true): number {
  return (flag(read, 'read', true) ? READ : 0) | (flag(write, 'write', otherwise) ? WRITE : 0);
}

const root: object = Object.prototype;

/**
 * The own properties of the options of a map. `options` would copy them, which costs as much as the rest of the call. So a
 * literal is read as it is, if no program has given one of these names to the prototype of all literals.
 */
export function mapOptionsOf(o: MapOptions): Partial<MapOptions> {
  const literal =
    typeof o === 'object' &&
    o !== null &&
    ('iova' in o || 'read' in o || 'write' in o) &&
    Object.getPrototypeOf(o) === root &&
    !Array.isArray(o);
  const clean = !('iova' in root || 'read' in root || 'write' in root);
  return literal && clean ? o : options(o, 'options');
}
