/**
 * The base class of the objects of an iommufd. Each has an id, and is destroyed when its handle is disposed.
 *
 * Life: an iommufd or another object makes it. An object that is in use can't be destroyed: disposing it fails with EBUSY and
 * the reason, and nothing changes. Disposing its Ioas or its iommufd never fails: an object that is still in use then is
 * destroyed when the kernel closes the iommufd.
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

  /** `before`: must be closed before the object can be destroyed. `ended` is called when the object is destroyed. */
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

  /** Its id in the iommufd. */
  get id(): number {
    alive(this);
    // Another object may have the id by now.
    if (this.#object.gone()) throw disposedError('object of the iommufd');
    return this.#id;
  }

  /** The iommufd that it belongs to. */
  get iommufd(): HandleClasses['Iommufd'] {
    return iommufdOf(this.#iommufd);
  }

  /**
   * Destroys it, after the objects that were made of it (newest first). A second call does nothing.
   *
   * @throws {VfioError} EBUSY it is in use, by an attached device for example: `reason` says by which. It is not changed then.
   */
  override [Symbol.dispose](): void {
    void this.#id; // throws if `this` is not an IommufdObject, before anything is disposed
    if (this.disposed) return;
    for (const child of childrenOf(this)) child[Symbol.dispose]();
    this.#leave();
    super[Symbol.dispose]();
  }

  /** Destroys the kernel's object first: if the kernel refuses, the handle can stay as it is. */
  #leave(): void {
    if (this.#before !== undefined) return; // it can be destroyed only once that is closed, which can't be undone
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

/** Ends an object that was collected undisposed. A function of its own, so that the closure does not capture the handle. */
function endOf(object: NativeObject, before: { dispose(): void } | undefined): { dispose(): void } {
  return {
    dispose() {
      before?.dispose();
      object.dispose();
    },
  };
}
