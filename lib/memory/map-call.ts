/** What each call that maps is given besides memory and its place: what the device may do, and a number for the mapping. */
import { native } from '../addon/native.ts';
import { flag } from '../base/check.ts';

/** How many numbers for mappings are taken at once. */
const NUMBERS = 2 ** 31;
let nextNumber = 0;
let endOfNumbers = 0;

/** A number for a mapping, which no other of this process has. */
export function mappingNumber(): number {
  if (nextNumber === endOfNumbers) {
    nextNumber = native.mappingNumbers(NUMBERS);
    endOfNumbers = nextNumber + NUMBERS;
  }
  return nextNumber++;
}

export const READ = 1;
export const WRITE = 2;

/** What a device may do, as the addon takes it. */
export function accessOf(read: boolean | undefined, write: boolean | undefined, otherwise = true): number {
  return (flag(read, 'read', true) ? READ : 0) | (flag(write, 'write', otherwise) ? WRITE : 0);
}
