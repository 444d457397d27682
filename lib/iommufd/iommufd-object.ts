/**
 * What the objects of an iommufd have in common: an id, and an end.
 *
 * Life: made by a call of their iommufd or of each other; destroyed when they are disposed. An object that something
 * needs can't go: disposing it is EBUSY with the reason, and it stays as it was. Only disposing a parent never fails:
 * what the kernel still needs then goes when the iommufd does.
 */

import type { NativeObject } from '../addon/files.ts';
import { VfioError, withWords } from '../base/errors.ts';
import { type OURS, ours } from '../base/private.ts';
import { alive, childrenOf, disposedError, Handle } from '../handles/handle.ts';
import { type HandleClasses, type IommufdFile, iommufdOf, usersOf } from '../handles/iommufd-file.ts';
import { wordsForBusy } from './iommufd-words.ts';

/** An object of an iommufd that its handle owns (IOMMU_DESTROY). */
export abstract class IommufdObject extends Handle {
  readonly #iommufd: IommufdFile;
  readonly #object: NativeObject;
  readonly #id: number;
  readonly #before: { dispose(): void } | undefined;
  readonly #ended: ((self: never) => void) | undefined;

  /** `before`: what is closed before the object can be destroyed; `ended` is called when it is. */
  protected constructor(
    key: typeof OURS,
    kind: string,
    iommufd: IommufdFile,
    parents: readonly Handle[],
    object: NativeObject,
    before?: { dispose(): void },
    ended?: (self: never) => void,
  ) {
    ours(key, kind);
    const id = object.id();
    super(key, kind, parents, [endOf(object, before)], (self: IommufdObject) => self.#release());
    this.#before = before;
    this.#ended = ended;
    this.#iommufd = iommufd;
    this.#object = object;
    this.#id = id;
  }

  /** Its id in its iommufd. */
  get id(): number {
    alive(this);
    // The id may be another object's by now.
    if (this.#object.gone()) throw disposedError('object of the iommufd');
    return this.#id;
  }

  /** The iommufd that it is in. */
  get iommufd(): HandleClasses['Iommufd'] {
    return iommufdOf(this.#iommufd);
  }

  /**
   * Destroys it; what was made of it first, newest first. Again: nothing.
   *
   * @throws {VfioError} EBUSY something uses it, such as an attached device: `reason` says which. Then nothing has
   * happened to it.
   */
  override [Symbol.dispose](): void {
    void this.#id; // a foreign `this` is refused before anything of its own is disposed
    if (this.disposed) return;
    for (const child of childrenOf(this)) child[Symbol.dispose]();
    this.#leave();
    super[Symbol.dispose]();
  }

  /** Asks the kernel to destroy it, while the handle can still be kept. */
  #leave(): void {
    if (this.#before !== undefined) return; // it can go only once that is closed, and then there is no way back
    try {
      this.#object.destroy();
    } catch (error) {
      if (error instanceof VfioError && error.code === 'EBUSY')
        throw withWords(error, () => wordsForBusy(usersOf(this.#iommufd, this.id, this)));
      throw error;
    }
  }

  #release(): void {
    this.#before?.dispose();
    this.#object.dispose();
    (this.#ended as ((self: this) => void) | undefined)?.(this);
  }
}

/** What ends an object that was forgotten. In a scope of its own: it must not keep the handle. */
function endOf(object: NativeObject, before: { dispose(): void } | undefined): { dispose(): void } {
  return {
    dispose() {
      before?.dispose();
      object.dispose();
    },
  };
}
