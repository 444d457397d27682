/**
 * Reading what a caller has said, and nothing else: an object's own properties. What is on a prototype was said by nobody:
 * a program may have been led to write to Object.prototype, and `force` there must force nothing.
 */

/** An object without a prototype that engines are as fast with as with any other. */
class Bare {}
Object.setPrototypeOf(Bare.prototype, null);

/** A copy of the enumerable properties that an object has itself. Each is read once, so a getter can't change its mind. */
export function ownOf<T extends object>(object: T): T {
  const copy = new Bare() as Record<string, unknown>;
  for (const key of Object.keys(object)) copy[key] = (object as Record<string, unknown>)[key];
  return copy as T;
}

/** A property that an object has itself; undefined: it has none. */
export function own<T extends object, K extends keyof T>(object: T, key: K): T[K] | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}
