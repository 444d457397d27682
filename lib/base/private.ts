/**
 * What is out of a caller's reach at run time, and not by a comment: private fields, and functions of modules that reach
 * them (a static block of the class gives them to its module). Here is what those need besides.
 */

/** Whoever shows this to a constructor is a module of this package: no caller gets hold of it. */
export const OURS: unique symbol = Symbol('vfio');

/** Refuses to make what this package did not ask for: constructors are within everybody's reach. */
export function ours(key: unknown, kind: string): void {
  if (key === OURS) return;
  const what = `${/^[AEIOU]/.test(kind) ? 'an' : 'a'} ${kind}`;
  throw new TypeError(`Expected this package to make ${what} but received a call of its constructor`);
}

/** A constructor that makes nothing: what extends it puts its private fields on the object that it is given. */
class OfAnother {
  constructor(object: object) {
    // biome-ignore lint/correctness/noConstructorReturn: that is what it is for.
    return object;
  }
}

/**
 * What this package remembers of objects. It is on the object itself, in a private field: a WeakMap gives what it keeps to
 * whoever replaces WeakMap.prototype.set.
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
