/**
 * What keeps internals out of a program's reach at run time. State is in private fields; the static block of a class gives
 * its module the functions that reach them. Here are the key that constructors ask for, and notes on objects of other classes.
 */

/** The key that constructors ask for. Only modules of this package have it: no program gets hold of it. */
export const OURS: unique symbol = Symbol('vfio');

/** Throws unless `key` is OURS: every program can reach a constructor, and must not call it. */
export function ours(key: unknown, kind: string): void {
  if (key === OURS) return;
  const what = `${/^[AEIOU]/.test(kind) ? 'an' : 'a'} ${kind}`;
  throw new TypeError(`Expected this package to make ${what} but received a call of its constructor`);
}

/** Its constructor returns the object that it is given, so that a class that extends it adds its private fields to that. */
class OfAnother {
  constructor(object: object) {
    // biome-ignore lint/correctness/noConstructorReturn: the class exists to return this object.
    return object;
  }
}

/**
 * A value that this package keeps for an object. It is stored in a private field of the object itself, not in a WeakMap: a
 * program that replaces WeakMap.prototype.set would be given the value.
 */
export function remembered<T>(): { get(object: object): T | undefined; set(object: object, value: T): void } {
  class Note extends OfAnother {
    #value: T;
    constructor(object: object, value: T) {
      super(object);
      this.#value = value;
    }
    static get(object: object): T | undefined {
      return #value in object ? object.#value : undefined;
    }
    static set(object: object, value: T): void {
      if (#value in object) object.#value = value;
      else new Note(object, value);
    }
  }
  return Note;
}
