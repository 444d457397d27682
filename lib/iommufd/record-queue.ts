/**
 * A file of an iommufd that records are read from: page faults, virtual events.
 *
 * Life: the descriptor is closed when the queue is disposed or collected; who waits is rejected then. Records are read
 * only when someone asks for them, so that the kernel keeps (and counts) what a slow reader leaves. Waiting is the event
 * loop's own polling: there is no thread and no timer. Only a pending wait keeps the process alive.
 */

import type { NativeFile, NativeObject } from '../addon/files.ts';
import { type NativeWatch, native } from '../addon/native.ts';
import type { Signal } from '../base/check.ts';
import { type OURS, ours } from '../base/private.ts';
import { alive, disposedError, type Handle } from '../handles/handle.ts';
import type { IommufdFile } from '../handles/iommufd-file.ts';
import { Waiters } from '../handles/waiters.ts';
import { IommufdObject } from './iommufd-object.ts';

/** As one. Not a closure of the constructor, which would keep the queue that is to be collected. */
const bothOf = (first: { dispose(): void }, second: { dispose(): void }) => ({
  dispose() {
    first.dispose();
    second.dispose();
  },
});

/** A queue of records. Each record goes to one reader: of several who wait, to the one who has waited longest. */
export abstract class RecordQueue<T> extends IommufdObject implements AsyncIterable<T> {
  readonly #kind: string;
  readonly #records: NativeFile;
  /** Reads what is there, if anything. */
  readonly #read: () => T[];
  readonly #watch: NativeWatch;
  readonly #onReadable: () => void;
  readonly #waiters = new Waiters<T>('record');
  /** Read, but not asked for yet: the kernel gives several at once. */
  readonly #ready: T[] = [];

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
    // The native object holds its callback weakly while nobody waits; this object holds it for good.
    const onReadable = () => this.#serve();
    let watch: NativeWatch;
    try {
      watch = new native.Watch(records, onReadable);
    } catch (error) {
      // The kernel has made the queue already, and nobody would know of it.
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

  /** The descriptor that records are read from. Belongs to this object: don't close it, and don't read it while waiting. */
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
   * Resolves with the next record. A pending wait keeps the process alive. Bad arguments and a disposed queue are thrown
   * at once, not as a rejection.
   *
   * @throws {VfioError} ETIMEDOUT after `timeout` milliseconds; the signal's reason when it is aborted; code
   * ERR_VFIO_DISPOSED when the queue is disposed meanwhile. No record is lost by any of them.
   */
  wait(o?: { signal?: Signal; timeout?: number }): Promise<T> {
    alive(this);
    return this.#waiters.wait(
      o,
      // Those who wait already come first.
      () => (this.#waiters.size === 0 ? (this.poll() ?? undefined) : undefined),
      () => this.#rest(),
    );
  }

  /** Ends when the queue is disposed. A record that the loop did not get to is there for the next reader. */
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

  /** The descriptor is readable: those who wait are given what there is. */
  #serve(): void {
    try {
      this.#waiters.serve(() => this.poll() ?? undefined);
    } catch (error) {
      this.#waiters.fail(() => error);
    }
    if (!this.disposed) this.#rest();
  }

  /** Polls while someone waits, and only then. */
  #rest(): void {
    if (this.#waiters.size > 0) this.#watch.watch();
    else this.#watch.rest();
  }
}
