/**
 * Reads only an object's own properties: those that the caller wrote. A property of a prototype does not count: if an attack
 * has put `force` on Object.prototype (prototype pollution), no call may take that for an option.
 */

/** Its instances inherit nothing, as those of Object.create(null), but engines are as fast with them as with any object. */
class Bare {}
Object.setPrototypeOf(Bare.prototype, null);

/** A copy of an object's own enumerable properties. Each is read once, so a getter can't return a second value later. */
export function ownOf<T extends object>(object: T): T {
  const copy = new Bare() as Record<string, unknown>;
  for (const key of Object.keys(object)) copy[key] = (object as Record<string, unknown>)[key];
  return copy as T;
}

/** An own property of an object; undefined: it has no such own property. */
export function own<T extends object, K extends keyof T>(object: T, key: K): T[K] | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}
