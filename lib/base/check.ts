/**
 * Checks of a caller's arguments. Every refusal has the same form: Expected X for Y but received Z. Arguments that are passed
 * straight to the addon are checked there, with the same words (native/binding/arguments.cc).
 */
import { inspect } from 'node:util';
import { ownOf } from './own.ts';
import { shown } from './shell.ts';

/** An unsigned 64-bit quantity that a caller passes: a bigint, or a number up to 2^53-1. */
export type U64Like = bigint | number;

/** AbortSignal, if the program's types declare it (the DOM's or Node's do). The package depends on neither. */
export type Signal = typeof globalThis extends { AbortSignal: { prototype: infer T } }
  ? T
  : { readonly aborted: boolean };

const U64_MAX = 2n ** 64n - 1n;

/** The error for a bad argument: RangeError for a number out of range, TypeError for a wrong type. */
export function refusal(expected: string, name: string, received: unknown): TypeError | RangeError {
  const type = typeof received;
  const text =
    type === 'object' || type === 'function' || type === 'undefined'
      ? object(received, expected)
      : `${inspect(received).slice(0, 80)} of type ${type}`;
  const range = type === 'number' || type === 'bigint';
  const error = new (range ? RangeError : TypeError)(
    shown(`Expected ${expected} for ${name} but received ${text}`),
  );
  return Object.assign(error, { code: range ? 'ERR_OUT_OF_RANGE' : 'ERR_INVALID_ARG_TYPE' });
}

/** An object in words. If its class has the expected name, another copy of this package made it, or it is forged. */
function object(received: unknown, expected: string): string {
  const shown = inspect(received, {
    depth: 0,
    breakLength: Number.POSITIVE_INFINITY,
    customInspect: false,
  }).slice(0, 80);
  const kind = /^\w+/.exec(shown)?.[0] ?? '';
  return expected.split(' ').includes(kind) ? `${shown}, which this copy of the package did not make` : shown;
}

export function u64(value: unknown, name: string): bigint {
  if (typeof value === 'bigint' && value >= 0n && value <= U64_MAX) return value;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  throw refusal('an unsigned 64-bit integer (bigint, or number up to 2^53-1)', name, value);
}

export function integer(value: unknown, name: string, min: number, max: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
  throw refusal(`an integer from ${min} to ${max}`, name, value);
}

export function flag(value: unknown, name: string, otherwise: boolean): boolean {
  if (value === undefined) return otherwise;
  if (typeof value === 'boolean') return value;
  throw refusal('a boolean', name, value);
}

export function text(value: unknown, name: string): string {
  if (typeof value === 'string') return value;
  throw refusal('a string', name, value);
}

export function oneOf<T extends string>(value: unknown, name: string, allowed: readonly T[]): T {
  if (allowed.includes(value as T)) return value as T;
  throw refusal(allowed.map((each) => `'${each}'`).join(' or '), name, value);
}

/**
 * The own properties of an options object, each read once; for undefined, an empty object. Anything but a plain object is
 * refused: an instance of a class may define its options as accessors of its prototype, where they would not be found.
 */
export function options<T extends object>(value: T | undefined, name: string): Partial<T> {
  if (value === undefined) return ownOf({});
  plain(value, name);
  return ownOf(value);
}

/** Refuses anything but a plain object. For calls that read each property themselves, by `own`. */
export function plain(value: object, name: string): void {
  if (!isPlain(value)) throw refusal('a plain object', name, value);
}

/** Whether it was made by a literal, in any realm, or without a prototype. */
function isPlain(value: unknown): value is object {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** As `options`, but refuses properties with other names than these: a misspelt option would otherwise do nothing. */
export function known<T extends object>(
  value: T | undefined,
  name: string,
  names: readonly (keyof T & string)[],
): Partial<T> {
  const found = options(value, name);
  for (const key of Object.keys(found))
    if (!names.includes(key as keyof T & string))
      throw refusal(`only ${names.map((each) => `'${each}'`).join(' and ')}`, name, key);
  return found;
}

export function array<T>(value: readonly T[], name: string): readonly T[] {
  if (Array.isArray(value)) return value;
  throw refusal('an array', name, value);
}

/** The name of a mediated device is a UUID. */
export const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** Checks a PCI address, or the UUID of a mediated device; returns it as sysfs writes it. */
export function deviceName(value: unknown, name = 'bdf'): string {
  return typeof value === 'string' && UUID.test(value) ? value.toLowerCase() : bdf(value, name);
}

/** Checks a PCI address; returns its full form, 0000:00:10.0. The short form, 00:10.0, means domain 0000. */
export function bdf(value: unknown, name = 'bdf'): string {
  if (typeof value === 'string') {
    const match = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/i.exec(value);
    if (match) return `${match[1] ?? '0000'}:${match[2]}:${match[3]}.${match[4]}`.toLowerCase();
  }
  throw refusal("a PCI address such as '0000:00:10.0'", name, value);
}
