/**
 * What the objects of an iommufd have in common: an id, and an end.
 *
 * Life: made by a call of their iommufd or of each other; destroyed when they are disposed. An object that something
 * needs can't go: disposing it is EBUSY with the reason, and it stays as it was. Only disposing a parent never fails:
 * what the kernel still needs then goes when the iommufd does.
 */
import { VfioError, withWords } from './errors.ts';
import { wordsForBusy } from './explain.ts';
import { disposedError, Handle } from './handle.ts';
import type { Iommufd } from './iommufd.ts';
import type { NativeObject } from './native.ts';

/** An object of an iommufd that its handle owns (IOMMU_DESTROY). */
export abstract class IommufdObject extends Handle {
  readonly #iommufd: Iommufd;
  readonly #object: NativeObject;
  readonly #id: number;

  /** `before`: what is closed before the object can be destroyed. */
  protected constructor(
    kind: string,
    iommufd: Iommufd,
    parents: readonly Handle[],
    object: NativeObject,
    before: readonly { dispose(): void }[] = [],
  ) {
    const id = object.id();
    super(kind, parents, [...before, object]);
    this.#iommufd = iommufd;
    this.#object = object;
    this.#id = id;
  }

  /** Its id in its iommufd. */
  get id(): number {
    this.alive();
    // The id may be another object's by now.
    if (this.#object.gone()) throw disposedError('object of the iommufd');
    return this.#id;
  }

  /** The iommufd that it is in. */
  get iommufd(): Iommufd {
    return this.#iommufd;
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
    for (const child of this.children()) child[Symbol.dispose]();
    this.leave();
    super[Symbol.dispose]();
  }

  /** Asks the kernel to destroy it, while the handle can still be kept. */
  protected leave(): void {
    try {
      this.#object.destroy();
    } catch (error) {
      if (error instanceof VfioError && error.code === 'EBUSY')
        throw withWords(error, () => wordsForBusy(this.#iommufd.usersOf(this)));
      throw error;
    }
  }

  protected release(): void {
    this.#object.dispose();
  }
}
