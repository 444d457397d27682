/**
 * What every handle has in common: it is disposed once, its live children first (newest first), and one that is
 * dropped without being disposed is closed when it is collected, with a warning that says where it was opened.
 *
 * Life: made by its parent, which knows it weakly; it keeps its parent. So a handle that nobody holds is collected
 * even while its parent lives. What needs several others (a page table, its address space and its fault queue) has
 * them all for parents; a group gains one when it is joined to a container, and loses it when it leaves. Descriptors
 * belong to the native objects, which close them at the latest when the environment (main thread or worker) ends.
 */

import type { NativeFile } from '../addon/files.ts';
import { refusal } from '../base/check.ts';
import { stackOf } from '../base/errors.ts';
import { ownOf } from '../base/own.ts';
import { type OURS, ours } from '../base/private.ts';

/** Something native that a forgotten handle must let go of. */
interface Releasable {
  dispose(): void;
}

/** What is left of a handle that was forgotten. Its fields are private, since the registry is not this package's. */
class Remains {
  readonly #kind: string;
  readonly #opened: string | undefined;
  readonly #resources: readonly Releasable[];
  readonly #leave: () => void;

  /** `leave` takes it off its parents' lists. */
  constructor(kind: string, opened: string | undefined, resources: readonly Releasable[], leave: () => void) {
    this.#kind = kind;
    this.#opened = opened;
    this.#resources = resources;
    this.#leave = leave;
  }

  static end(remains: Remains): void {
    remains.#leave();
    const resources = remains.#resources;
    if (resources.length === 0) return;
    for (let at = 0; at < resources.length; at++) resources[at]?.dispose();
    const kind = remains.#kind;
    const opened = remains.#opened;
    process.emitWarning(
      `${/^[AEIOU]/.test(kind) ? 'An' : 'A'} ${kind} was collected without being disposed: it is closed now. ` +
        (opened === undefined
          ? 'Set NODE_ENV to other than "production" to see where it was opened.'
          : `Opened\n${opened}`),
      ownOf({ type: 'VfioLeakWarning', code: 'VFIO_LEAK' }),
    );
  }
}

const forgotten = new FinalizationRegistry<Remains>(Remains.end);

/** The error for using a handle after its end. */
export function disposedError(kind: string): Error & { code: string } {
  return Object.assign(new Error(`The ${kind} was used after it was disposed`), {
    code: 'ERR_VFIO_DISPOSED',
  });
}

/** Is this a handle in truth, and not by its prototype alone? */
export let made: (value: object) => boolean;

/** Throws ERR_VFIO_DISPOSED if the handle is no more. */
export let alive: (handle: Handle) => void;

/** The live handles that were made of this one, newest first. */
export let childrenOf: (handle: Handle) => Handle[];

/** Has another parent from now on: is kept alive by this one, and disposed before it. */
export let join: (child: Handle, parent: Handle) => void;

/** The end of {@link join}. */
export let part: (child: Handle, parent: Handle) => void;

/** What kinds of handles were made of this one and live, newest first. */
export let livingChildren: (handle: Handle) => string[];

export abstract class Handle implements Disposable {
  readonly #kind: string;
  readonly #parents: Handle[];
  /** The children of each parent: what the finalizer takes it off. */
  readonly #families: Set<WeakRef<Handle>>[];
  readonly #self: WeakRef<Handle>;
  readonly #children = new Set<WeakRef<Handle>>();
  readonly #release: (self: never) => void;
  #disposed = false;

  static {
    made = (value) => #kind in value;
    join = (child, parent) => {
      alive(child);
      alive(parent);
      child.#parents.push(parent);
      child.#families.push(parent.#children);
      parent.#children.add(child.#self);
    };
    part = (child, parent) => {
      parent.#children.delete(child.#self);
      const at = child.#parents.indexOf(parent);
      if (at < 0) return;
      child.#parents.splice(at, 1);
      child.#families.splice(at, 1);
    };
    alive = (handle) => {
      if (handle.#disposed) throw disposedError(handle.#kind);
    };
    childrenOf = (handle) => [...handle.#children].reverse().flatMap((child) => child.deref() ?? []);
    livingChildren = (handle) => childrenOf(handle).map((child) => child.#kind);
  }

  /**
   * `resources` are closed if the handle is forgotten; none: forgetting it is harmless. `release` lets go of what is the
   * handle's own: called once, after its children were disposed; must not throw. Neither may be a closure in which the
   * constructor's `this` is, not even by another closure beside it: the handle would never be forgotten.
   */
  protected constructor(
    key: typeof OURS,
    kind: string,
    parents: Handle | readonly Handle[] | undefined,
    resources: readonly Releasable[],
    release: (self: never) => void,
  ) {
    ours(key, kind);
    this.#release = release;
    this.#kind = kind;
    const all = parents === undefined ? [] : parents instanceof Handle ? [parents] : [...parents];
    this.#parents = all;
    const self = new WeakRef<Handle>(this);
    this.#self = self;
    for (const parent of all) alive(parent);
    const families = all.map((parent) => parent.#children);
    const leave = () => {
      for (const family of families) family.delete(self);
    };
    for (const family of families) family.add(self);
    this.#families = families;
    const opened =
      resources.length === 0 || process.env['NODE_ENV'] === 'production'
        ? undefined
        : stackOf(new Error())?.split('\n').slice(3, 9).join('\n');
    forgotten.register(this, new Remains(kind, opened, resources, leave), self);
  }

  /** Whether the handle was disposed. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** Closes the handle; its live children first, newest first. Again: nothing. */
  [Symbol.dispose](): void {
    this.#end();
  }

  /** What a parent's disposal calls too: it ends without asking. */
  #end(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const child of childrenOf(this)) child.#end();
    this.#children.clear();
    for (const parent of this.#parents) parent.#children.delete(this.#self);
    forgotten.unregister(this.#self);
    (this.#release as (self: this) => void)(this);
  }
}

/**
 * The open file of a handle, or ERR_VFIO_DISPOSED. For this package's own modules: no user's code gets hold of a
 * file, whose calls trust their caller with addresses.
 */
export let fileOf: <File extends NativeFile>(handle: FileHandle<File>) => File;

/** A handle of an open file. `File` is the type of the kind that the file has. */
export abstract class FileHandle<File extends NativeFile = NativeFile> extends Handle {
  readonly #file: File;

  static {
    fileOf = (handle) => {
      alive(handle);
      return handle.#file;
    };
  }

  /** `resources` and `release`: as for a {@link Handle}. */
  protected constructor(
    key: typeof OURS,
    kind: string,
    parents: Handle | readonly Handle[] | undefined,
    file: File,
    resources: readonly Releasable[],
    release: (self: never) => void,
  ) {
    super(key, kind, parents, resources, release);
    this.#file = file;
  }
}

/**
 * An instance of one of this package's classes: made by it, and not a look-alike. `kind`: what a caller knows the class as,
 * if that is not its name.
 */
export function instance<T extends Handle>(
  value: unknown,
  of: abstract new (...args: never[]) => T,
  name: string,
  kind = of.name,
): T {
  if (value instanceof of && made(value)) return value;
  throw refusal(`${/^[AEIOU]/.test(kind) ? 'an' : 'a'} ${kind}`, name, value);
}
