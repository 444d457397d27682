/** The stores of a driver to one register, as a loop of the model takes them. */

/** A store by a driver. */
export interface DoorbellWrite {
  readonly bar: number;
  /** In bytes from the start of the BAR. */
  readonly offset: number;
  /** In bytes: 1, 2, 4 or 8. */
  readonly width: number;
  readonly value: bigint;
}

type Result = IteratorResult<DoorbellWrite, undefined>;

/** What a doorbell needs of its device. */
export interface DoorbellOwner {
  /** The loop has something to do: `settle` waits for it. */
  hold(): void;
  release(): void;
  /** The loop was left. */
  left(doorbell: Doorbell): void;
}

/**
 * Stores that wait for the loop, and a loop that waits for stores: one of both is empty.
 *
 * Life: from `doorbell()` of the device until the loop is left or the device is removed.
 */
export class Doorbell implements AsyncIterableIterator<DoorbellWrite> {
  readonly #owner: DoorbellOwner;
  #writes: DoorbellWrite[] = [];
  #readers: ((result: Result) => void)[] = [];
  #begun = false;
  #held = false;
  #ended = false;

  constructor(owner: DoorbellOwner) {
    this.#owner = owner;
  }

  ring(write: DoorbellWrite): void {
    if (this.#begun) this.#hold(true);
    const reader = this.#readers.shift();
    if (reader) reader({ done: false, value: write });
    else this.#writes.push(write);
  }

  /** A reset: stores that the loop has not taken are gone. */
  reset(): void {
    this.#writes = [];
  }

  end(): void {
    this.#ended = true;
    this.#writes = [];
    this.#hold(false);
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined });
  }

  next(): Promise<Result> {
    this.#begun = true;
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    const write = this.#writes.shift();
    this.#hold(write !== undefined);
    if (write) return Promise.resolve({ done: false, value: write });
    return new Promise((resolve) => this.#readers.push(resolve));
  }

  return(): Promise<Result> {
    this.end();
    this.#owner.left(this);
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #hold(busy: boolean): void {
    if (busy === this.#held) return;
    this.#held = busy;
    if (busy) this.#owner.hold();
    else this.#owner.release();
  }
}
