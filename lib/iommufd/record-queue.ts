/**
 * A queue of an iommufd whose records are read from a descriptor: page faults, or events of a virtual IOMMU.
 *
 * Life: the descriptor is closed when the queue is disposed or collected; pending waits are rejected then. Records are read
 * only when the program asks for one, so that the kernel keeps (and counts) those that a slow reader has not read yet. The
 * event loop polls the descriptor: there is no thread and no timer. Only a pending wait keeps the process alive. A module of
 * this package can listen instead: it is given each record as it comes, and does not keep the process alive.
 */

import type { NativeFile, NativeObject } from '../addon/files.ts';
import { type NativeWatch, native } from '../addon/native.ts';
import type { Signal } from '../base/check.ts';
import { type OURS, ours } from '../base/private.ts';
import { alive, disposedError, type Handle } from '../handles/handle.ts';
import type { IommufdFile } from '../handles/iommufd-file.ts';
import { Waiters } from '../handles/waiters.ts';
import { IommufdObject } from './iommufd-object.ts';

/** Joins two resources. A function of its own: a closure of the constructor would keep the queue from being collected. */
const bothOf = (first: { dispose(): void }, second: { dispose(): void }) => ({
  dispose() {
    first.dispose();
    second.dispose();
  },
});

/** Is given each record as it comes, from the event loop. Neither function may throw. */
export interface Listener<T> {
  record(record: T): void;
  /** The queue can't be read: nothing more comes. */
  failed(error: unknown): void;
}

/** From now on this listener is given the records of a queue that nobody else reads. */
export let listen: <T>(queue: RecordQueue<T>, listener: Listener<T>) => void;

/** A queue of records. Each record is given to one reader: to the one that has waited longest. */
export abstract class RecordQueue<T> extends IommufdObject implements AsyncIterable<T> {
  readonly #kind: string;
  readonly #records: NativeFile;
  /** Reads the records that are there; an empty array if there are none. */
  readonly #read: () => T[];
  readonly #watch: NativeWatch;
  readonly #onReadable: () => void;
  readonly #waiters = new Waiters<T>('record');
  /** Records that were read but not asked for yet: the kernel returns several at once. */
  readonly #ready: T[] = [];
  #listener: Listener<T> | undefined;

  static {
    listen = (queue, listener) => {
      alive(queue);
      queue.#listener = listener;
      queue.#rest();
    };
  }

  protected constructor(
    key: typeof OURS,
    kind: string,
    iommufd: IommufdFile,
    parents: readonly Handle[],
    object: NativeObject,
    records: NativeFile,
    read: () => T[],
  ) {
    ours(key, kind);
    // The native object refers weakly to its callback while no wait is pending; this object refers to it strongly.
    const onReadable = () => this.#serve();
    let watch: NativeWatch;
    try {
      watch = new native.Watch(records, onReadable);
    } catch (error) {
      // The kernel has made the queue already, and without a handle nothing would ever destroy it.
      records.dispose();
      object.dispose();
      throw error;
    }
    super(key, kind, iommufd, parents, object, bothOf(watch, records), (self: RecordQueue<T>) =>
      self.#ended(),
    );
    this.#kind = kind;
    this.#records = records;
    this.#read = read;
    this.#watch = watch;
    this.#onReadable = onReadable;
  }

  /** The descriptor that records are read from. It belongs to this object: don't close it, nor read it while a wait is pending. */
  get fd(): number {
    alive(this);
    return this.#records.fd;
  }

  /** The next record without waiting; null if there is none. */
  poll(): T | null {
    alive(this);
    if (this.#ready.length === 0) this.#ready.push(...this.#read());
    return this.#ready.shift() ?? null;
  }

  /**
   * Resolves with the next record. A pending wait keeps the process alive. Bad arguments and the use of a disposed queue throw
   * at once; they are not rejections.
   *
   * @throws {VfioError} ETIMEDOUT after `timeout` milliseconds; the signal's reason when it is aborted; code ERR_VFIO_DISPOSED
   * when the queue is disposed meanwhile. None of these loses a record.
   */
  wait(o?: { signal?: Signal; timeout?: number }): Promise<T> {
    alive(this);
    return this.#waiters.wait(
      o,
      // Earlier waits are served first.
      () => (this.#waiters.size === 0 ? (this.poll() ?? undefined) : undefined),
      () => this.#rest(),
    );
  }

  /** Ends when the queue is disposed. Records that the loop has not read stay there for the next reader. */
  async *[Symbol.asyncIterator](): AsyncIterator<T> {
    while (!this.disposed) {
      let record: T;
      try {
        record = await this.wait();
      } catch (error) {
        if (this.disposed) return;
        throw error;
      }
      yield record;
    }
  }

  #ended(): void {
    this.#waiters.fail(() => disposedError(this.#kind));
    void this.#onReadable;
  }

  /** The descriptor is readable: the pending waits are given the records that are there. */
  #serve(): void {
    try {
      this.#waiters.serve(() => this.poll() ?? undefined);
      while (this.#listener !== undefined && !this.disposed) {
        const record = this.poll();
        if (record === null) break;
        this.#listener.record(record);
      }
    } catch (error) {
      this.#waiters.fail(() => error);
      const listener = this.#listener;
      this.#listener = undefined;
      listener?.failed(error);
    }
    if (!this.disposed) this.#rest();
  }

  /** Polls the descriptor while a wait is pending or somebody listens, and only then. */
  #rest(): void {
    if (this.#waiters.size > 0) this.#watch.watch();
    else if (this.#listener !== undefined) this.#watch.watch(true);
    else this.#watch.rest();
  }
}
