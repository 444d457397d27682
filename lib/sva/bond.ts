/**
 * A bond: a process's address space and a device that uses it.
 *
 * Life: Sva.bind makes it. Disposing it unbinds: then the device reaches the process by this bond no more, and what it waited
 * for is answered. It ends with its device at the latest. The end of the process does not end it; disposing it is still needed.
 */
import { types } from 'node:util';
import { isMainThread } from 'node:worker_threads';
import { native } from '../addon/native.ts';
import { integer, known, refusal } from '../base/check.ts';
import { type OURS, ours } from '../base/private.ts';
import { alive, Handle } from '../handles/handle.ts';
import type { Bonding, SvaFault, SvaWay } from './way.ts';

/** What a program wants to be told of a bond. */
export interface SvaOps<T> {
  /**
   * The process is ending, or has ended: exactly once. After it returns, the device must not use the PASID. For this process it
   * is called while the process exits, in the main thread; what it starts is not waited for. For another process it is called
   * when the event loop learns of the end: its memory is gone by then.
   */
  mmExit?(bond: SvaBond<T>): void;
  /** The device accessed memory that it can't have. */
  fault?(fault: SvaFault, bond: SvaBond<T>): void;
}

/** Bytes of this process. */
export type Memory = ArrayBufferView | ArrayBuffer;

let end: (bond: SvaBond<unknown>) => void;
let tell: (bond: SvaBond<unknown>, event: 'exit' | SvaFault) => void;

/** The bonds of this process's own memory in this thread. */
const own = new Set<WeakRef<SvaBond<unknown>>>();

/** Tells a bond of an event, for the module that makes bonds. */
export const tellBond: (bond: SvaBond<unknown>, event: 'exit' | SvaFault) => void = (bond, event) =>
  tell(bond, event);

function exiting(): void {
  // A function of the program may dispose bonds, or throw: each bond is told all the same.
  const errors: unknown[] = [];
  for (const each of [...own]) {
    const bond = each.deref();
    if (bond === undefined || bond.disposed) continue;
    try {
      tell(bond, 'exit');
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

/** The bond of one process and one device. `T`: the type of {@link SvaBond.data}. */
export class SvaBond<T = unknown> extends Handle {
  readonly #bonding: Bonding;
  readonly #data: T;
  readonly #reasons: readonly string[];
  readonly #kept = new Set<object>();
  readonly #self: WeakRef<SvaBond<unknown>> = new WeakRef<SvaBond<unknown>>(this);
  #ops: SvaOps<T> = {};
  #exited = false;
  #toldExit = false;

  static {
    end = (bond) => {
      own.delete(bond.#self);
      bond.#bonding.dispose();
      bond.#kept.clear();
    };
    tell = (bond, event) => {
      if (event !== 'exit') bond.#ops.fault?.(event, bond);
      else {
        bond.#exited = true;
        bond.#tellExit();
      }
    };
  }

  constructor(
    key: typeof OURS,
    parent: Handle,
    bonding: Bonding,
    data: T,
    self: boolean,
    reasons: readonly string[],
  ) {
    ours(key, 'SvaBond');
    super(key, 'SvaBond', parent, [bonding], (bond: SvaBond<unknown>) => end(bond));
    this.#bonding = bonding;
    this.#data = data;
    this.#reasons = reasons;
    if (!self || !isMainThread) return;
    if (own.size === 0 && !process.listeners('exit').includes(exiting)) process.on('exit', exiting);
    for (const each of own) if (each.deref() === undefined) own.delete(each);
    own.add(this.#self);
  }

  /**
   * The PASID (20 bits) that the device sends with its transactions. It is one for all bonds of a process. null: the process has
   * ended, the device was closed, or the way is 'iommufd-mirror' and the device has no PASIDs: then its transactions without
   * one reach the memory.
   */
  get pasid(): number | null {
    alive(this);
    return this.#exited ? null : this.#bonding.pasid();
  }

  /** Whether the process has ended. */
  get exited(): boolean {
    alive(this);
    return this.#exited || this.#bonding.ended();
  }

  /** The data that was given at the bind. */
  get data(): T {
    return this.#data;
  }

  /** How the device reaches the memory. */
  get way(): SvaWay {
    return this.#bonding.way;
  }

  /**
   * The descriptor of the node, for the calls of its driver; null: the way is not 'character-device'. It belongs to this object:
   * don't close it.
   */
  get fd(): number | null {
    alive(this);
    return this.#bonding.fd ?? null;
  }

  /** Why not by a better way: a sentence for each better one. */
  get reasons(): readonly string[] {
    return this.#reasons;
  }

  /**
   * Sets what is called on events. It replaces what was set before. The functions are called from the event loop. What they throw
   * is an uncaught exception. `mmExit` for another process keeps this one alive until it was called; nothing else of a bond does.
   */
  setOps(ops: SvaOps<T>): void {
    alive(this);
    const { mmExit, fault } = known(ops, 'ops', ['mmExit', 'fault']);
    for (const [name, op] of [
      ['mmExit', mmExit],
      ['fault', fault],
    ] as const)
      if (op !== undefined && typeof op !== 'function') throw refusal('a function', name, op);
    this.#ops = {
      ...(mmExit && { mmExit: (bond) => Reflect.apply(mmExit, ops, [bond]) }),
      ...(fault && { fault: (what, bond) => Reflect.apply(fault, ops, [what, bond]) }),
    };
    this.#bonding.awaitEnd?.(mmExit !== undefined);
    // The end came before anybody wanted to know.
    if (this.#exited) queueMicrotask(() => this.#tellExit());
  }

  #tellExit(): void {
    const { mmExit } = this.#ops;
    if (this.#toldExit || this.disposed || mmExit === undefined) return;
    this.#toldExit = true;
    mmExit(this);
  }

  /**
   * The address of memory of this process, for the device. The memory is kept alive until the unbind, or until {@link run} ends.
   *
   * A buffer whose length can change is refused. The program must not transfer the buffer to another thread meanwhile, nor grow
   * a WebAssembly memory: the bytes are elsewhere then, and the device reaches whatever is there.
   *
   * @throws {TypeError} ERR_INVALID_ARG_TYPE not memory, empty, detached, or of a length that can change. @throws {VfioError} EFAULT the device can't
   * reach it by this bond's {@link way}; `reason` says why, `hint` what to use.
   */
  pointer(view: Memory): bigint {
    return this.#point(view, this.#kept);
  }

  /**
   * Memory that the device can reach by every way: whole pages, at least `size` bytes, zeroed. The bond keeps it; it is collected
   * when the bond has ended and the program has dropped it.
   *
   * @throws {VfioError} ENOMEM, ENOSPC.
   */
  allocate(size: number): ArrayBuffer {
    alive(this);
    const memory = this.#bonding.allocate(integer(size, 'size', 1, Number.MAX_SAFE_INTEGER));
    this.#kept.add(memory);
    return memory;
  }

  /**
   * Makes existing memory reachable until the unbind, where the way is 'iommufd-mirror'; otherwise it only checks. Whole pages
   * are mapped: the device reaches what else is on the first and the last one.
   *
   * @throws as {@link pointer}.
   */
  adopt(memory: Memory): void {
    alive(this);
    const { address, length, buffer } = placeOf(memory);
    this.#bonding.adopt(address, length, buffer);
    this.#kept.add(buffer);
  }

  /**
   * Runs `work` with a function that gives pointers as {@link pointer} does, but keeps the memory only until `work` returns, or
   * the promise that it returns is settled. So a bond that lives long need not keep every buffer.
   */
  run<R>(work: (pointer: (view: Memory) => bigint) => R): R {
    alive(this);
    if (typeof work !== 'function') throw refusal('a function', 'work', work);
    const kept = new Set<object>();
    const over = () => kept.clear();
    let result: R;
    try {
      result = work((view) => this.#point(view, kept));
    } catch (error) {
      over();
      throw error;
    }
    const then: unknown = (result as { then?: unknown } | null | undefined)?.then;
    if (typeof then !== 'function') {
      over();
      return result;
    }
    // The caller gets the promise itself, and its rejection; this only waits for its end.
    Reflect.apply(then, result, [over, over]);
    return result;
  }

  #point(view: Memory, kept: Set<object>): bigint {
    alive(this);
    const { address, length, buffer } = placeOf(view);
    this.#bonding.reach(address, length);
    kept.add(buffer);
    return address;
  }
}

/** Where memory is whose place does not change. */
function placeOf(memory: Memory): { address: bigint; length: number; buffer: object } {
  // N-API reads views of shared memory, but not shared memory itself.
  const place = native.addressOf(types.isSharedArrayBuffer(memory) ? new Uint8Array(memory) : memory);
  if (place === null)
    throw refusal('an ArrayBuffer, or a view of one, with at least 1 byte', 'memory', memory);
  const { resizable, growable } = place.buffer as { resizable?: boolean; growable?: boolean };
  if (resizable === true || growable === true)
    throw refusal('memory whose length is fixed', 'memory', memory);
  return place;
}
