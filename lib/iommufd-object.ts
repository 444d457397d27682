/**
 * What the objects of an iommufd have in common: an id, and an end.
 *
 * Life: made by a call of their iommufd or of each other; destroyed when they are disposed. An object that something
 * needs can't go: disposing it is EBUSY with the reason, and it stays as it was. Only disposing a parent never fails:
 * what the kernel still needs then goes when the iommufd does.
 */
import { quietly } from './address-space.ts';
import { VfioError, withWords } from './errors.ts';
import { wordsForBusy } from './explain.ts';
import { alive, childrenOf, Handle } from './handle.ts';
import type { Iommufd } from './iommufd.ts';
import type { NativeFile } from './native.ts';
import type { OURS } from './private.ts';

/** An object of an iommufd that is destroyed by its id (IOMMU_DESTROY). */
export abstract class IommufdObject extends Handle {
  readonly #iommufd: Iommufd;
  readonly #file: NativeFile;
  readonly #id: number;
  readonly #before: { dispose(): void } | undefined;
  readonly #ended: ((self: never) => void) | undefined;
  /** The kernel has destroyed it: the id may be another's by now. */
  #gone = false;

  /** `before`: what is closed before the object can be destroyed; `ended` is called when it is. */
  protected constructor(
    key: typeof OURS,
    kind: string,
    iommufd: Iommufd,
    parents: readonly Handle[],
    file: NativeFile,
    id: number,
    before?: { dispose(): void },
    ended?: (self: never) => void,
  ) {
    const itself = {
      dispose() {
        before?.dispose();
        quietly(() => file.destroy(id));
      },
    };
    super(key, kind, parents, [itself], (self: IommufdObject) => self.#release());
    this.#before = before;
    this.#ended = ended;
    this.#iommufd = iommufd;
    this.#file = file;
    this.#id = id;
  }

  /** Its id in its iommufd. */
  get id(): number {
    alive(this);
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
    for (const child of childrenOf(this)) child[Symbol.dispose]();
    this.#leave();
    super[Symbol.dispose]();
  }

  /** Asks the kernel to destroy it, while the handle can still be kept. */
  #leave(): void {
    if (this.#before !== undefined) return; // it can go only once that is closed, and then there is no way back
    try {
      this.#file.destroy(this.#id);
    } catch (error) {
      if (error instanceof VfioError && error.code === 'EBUSY')
        throw withWords(error, () => wordsForBusy(this.#iommufd.usersOf(this)));
      // Gone already: Iommufd.destroy, or the iommufd is closed.
      if (!(error instanceof VfioError) && (error as { code?: unknown }).code !== 'ERR_VFIO_DISPOSED')
        throw error;
    }
    this.#gone = true;
  }

  #release(): void {
    this.#before?.dispose();
    if (!this.#gone) quietly(() => this.#file.destroy(this.#id));
    (this.#ended as ((self: this) => void) | undefined)?.(this);
  }
}
