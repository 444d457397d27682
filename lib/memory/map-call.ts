/** Two arguments of every call that maps: the access that the device is allowed, and a number for the mapping. */
import { native } from '../addon/native.ts';
import { flag } from '../base/check.ts';

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
