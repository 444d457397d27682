/**
 * The base class of all handles. A handle is disposed once, after its live children (newest first). A handle that the program
 * drops without disposing it is closed when it is collected, with a warning that says where it was opened.
 *
 * Life: its parent makes it and refers to it weakly; it refers to its parent strongly. So a handle that the program has
 * dropped is collected even while its parent lives. An object that needs several others (a page table needs its address space
 * and its fault queue) has them all as parents; a group gains a parent when it joins a container, and loses it when it leaves.
 * Native objects own the descriptors, and close them at the latest when the environment (main thread or worker) ends.
 */

import type { NativeFile } from '../addon/files.ts';
import { refusal } from '../base/check.ts';
import { stackOf } from '../base/errors.ts';
import { ownOf } from '../base/own.ts';
import { type OURS, ours } from '../base/private.ts';
import type { Observing } from './observer.ts';

/** A native object that is disposed when its handle was collected undisposed. */
interface Releasable {
  dispose(): void;
}

/**
 * What is left of a handle that was collected undisposed. Its fields are private, since a program can replace the methods of
 * FinalizationRegistry and so see it.
 */
class Remains {
  readonly #kind: string;
  readonly #opened: string | undefined;
  readonly #resources: readonly Releasable[];
  readonly #leave: () => void;

  /** `leave` removes the handle from its parents' lists of children. */
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

/** The error for using a disposed handle. */
export function disposedError(kind: string): Error & { code: string } {
  return Object.assign(new Error(`The ${kind} was used after it was disposed`), {
    code: 'ERR_VFIO_DISPOSED',
  });
}

/** Whether the constructor of Handle made this object. An object that only has the prototype is no handle. */
export let isHandle: (value: object) => boolean;

/** Throws ERR_VFIO_DISPOSED if the handle is disposed. */
export let alive: (handle: Handle) => void;

/** The live children of a handle, newest first. */
export let childrenOf: (handle: Handle) => Handle[];

/** Gives `child` one more parent: from now on it keeps that parent alive, and is disposed before it. */
export let join: (child: Handle, parent: Handle) => void;

/** Undoes {@link join}. */
export let part: (child: Handle, parent: Handle) => void;

/** The kinds of the live children of a handle, newest first. */
export let livingChildren: (handle: Handle) => string[];

/** What is told of the handles of a host. */
export type Observer = Observing<Handle>;

/** The observer of the host that the handle was opened through; null: that has none. */
export let observerOf: (handle: Handle) => Observer | null;

/** Gives a host its observer, before it has children. */
export let observe: (host: Handle, observer: Observer) => void;

/** What a handle is, in words: 'VfioDevice 0000:00:10.0'. */
export let kindOf: (handle: Handle) => string;

/** Where a handle was opened; undefined: it owns nothing, or nobody wanted to know. */
export let openedAt: (handle: Handle) => string | undefined;

/** The parents of a handle. */
export let parentsOf: (handle: Handle) => readonly Handle[];

/** What is open below a handle, the newest first: the kind of each, and where it was opened, if that is known. */
export let openBelow: (handle: Handle) => { kind: string; opened: string | null }[];

export abstract class Handle implements Disposable {
  readonly #kind: string;
  #observer: Observer | null;
  readonly #opened: string | undefined;
  readonly #parents: Handle[];
  /** The lists of children of all its parents: the finalizer removes it from them. */
  readonly #families: Set<WeakRef<Handle>>[];
  readonly #self: WeakRef<Handle>;
  readonly #children = new Set<WeakRef<Handle>>();
  readonly #release: (self: never) => void;
  #disposed = false;

  static {
    isHandle = (value) => #kind in value;
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
      if (handle.#disposed) {
        handle.#observer?.usedDisposed(handle);
        throw disposedError(handle.#kind);
      }
    };
    observerOf = (handle) => handle.#observer;
    observe = (host, observer) => {
      host.#observer = observer;
    };
    kindOf = (handle) => handle.#kind;
    openedAt = (handle) => handle.#opened;
    parentsOf = (handle) => handle.#parents;
    childrenOf = (handle) => [...handle.#children].reverse().flatMap((child) => child.deref() ?? []);
    openBelow = (handle) =>
      childrenOf(handle).flatMap((child) => [
        ...openBelow(child),
        { kind: child.#kind, opened: child.#opened ?? null },
      ]);
    livingChildren = (handle) => childrenOf(handle).map((child) => child.#kind);
  }

  /**
   * `resources` are disposed if the handle is collected undisposed; without resources that causes no warning. `release` frees
   * what the handle owns: it is called once, after its children were disposed, and must not throw. Neither may be a closure
   * that captures the constructor's `this`, nor be made in a scope where another closure does: the handle would then never be
   * collected.
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
    const first = all[0];
    this.#observer = first === undefined ? null : first.#observer;
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
        : stackOf(new Error())?.split('\n').slice(3).join('\n');
    this.#opened = opened;
    forgotten.register(this, new Remains(kind, opened, resources, leave), self);
  }

  /** Whether the handle was disposed. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** Closes the handle; its live children first, newest first. A second call does nothing. */
  [Symbol.dispose](): void {
    this.#end();
  }

  /** Disposes the handle. A parent's disposal calls this and not [Symbol.dispose], which a program can replace. */
  #end(withParent = false): void {
    if (this.#disposed) return;
    try {
      // A handle that ends with its parent is told of by the parent.
      if (!withParent) this.#observer?.ends(this, descendantsOf(this));
    } finally {
      this.#close();
    }
  }

  #close(): void {
    this.#disposed = true;
    for (const child of childrenOf(this)) child.#end(true);
    this.#children.clear();
    for (const parent of this.#parents) parent.#children.delete(this.#self);
    forgotten.unregister(this.#self);
    (this.#release as (self: this) => void)(this);
  }
}

/** The live handles that end with this one, each once. */
function descendantsOf(handle: Handle): Handle[] {
  const found = new Set<Handle>();
  const search = (from: Handle) => {
    for (const child of childrenOf(from)) {
      if (found.has(child)) continue;
      found.add(child);
      search(child);
    }
  };
  search(handle);
  return [...found];
}

/**
 * The open file of a handle; throws ERR_VFIO_DISPOSED if it is disposed. For this package's own modules: no program may get
 * hold of a file, whose calls trust the addresses that they are given.
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
 * Checks that a value is an instance of one of this package's classes, and was made by this package. `kind`: the name by which
 * a caller knows the class, if it is another than the class's own.
 */
export function instance<T extends Handle>(
  value: unknown,
  of: abstract new (...args: never[]) => T,
  name: string,
  kind = of.name,
): T {
  if (value instanceof of && isHandle(value)) return value;
  throw refusal(`${/^[AEIOU]/.test(kind) ? 'an' : 'a'} ${kind}`, name, value);
}
