/**
 * A ring of descriptors as a card uses it: it reads some at a time, works on them, and writes them back together.
 *
 * Life: as long as its card. It is off until the driver turns it on, and from a reset or an error of the ring on.
 */

import { DmaError, type RegisterAccessors } from '../index.ts';
import { nicDescriptor, type nicRegisters } from './nic-registers.ts';

/** Descriptors that are read with one access. */
const BATCH = 64;
const LONGEST_RING = 65536;

/** What a ring needs of its card. */
export interface RingOwner {
  readonly registers: RegisterAccessors<(typeof nicRegisters)['layout']>;
  read(iova: bigint, into: Uint8Array): void;
  write(iova: bigint, from: Uint8Array): void;
  interrupt(vector: number): void;
}

export class Ring {
  readonly #card: RingOwner;
  readonly #index: number;
  readonly #bytes = new Uint8Array(BATCH * nicDescriptor.size);
  readonly #words = new Uint32Array(this.#bytes.buffer);
  readonly #addresses = new BigUint64Array(this.#bytes.buffer);
  #on = false;
  #base = 0n;
  #length = 0;
  #head = 0;
  #tail = 0;
  /** How many descriptors from the head on are in `#bytes`, and how many of these the card is done with. */
  #fetched = 0;
  #done = 0;

  constructor(card: RingOwner, index: number) {
    this.#card = card;
    this.#index = index;
  }

  get on(): boolean {
    return this.#on;
  }

  /** The driver turns the ring on, or off. */
  switch(on: boolean): void {
    const { ringBase, ringLength, ringHead, ringTail } = this.#card.registers;
    if (on === this.#on) return;
    this.off();
    if (!on) return;
    this.#base = ringBase.read(this.#index);
    this.#length = ringLength.read(this.#index);
    if (this.#length < 2 || this.#length > LONGEST_RING || this.#base % BigInt(nicDescriptor.size) !== 0n) {
      this.fail('badRing');
      return;
    }
    ringHead.write(0, this.#index);
    ringTail.write(0, this.#index);
    this.#on = true;
  }

  off(): void {
    this.#on = false;
    this.#head = 0;
    this.#tail = 0;
    this.#fetched = 0;
    this.#done = 0;
  }

  /** Turns the ring off, and tells the driver why. */
  fail(why: 'badRing' | 'fault'): void {
    this.off();
    this.#card.registers.ringControl.update({ enable: 0 }, this.#index);
    this.#card.registers.ringStatus.update({ [why]: 1 }, this.#index);
  }

  /** The driver has moved the tail. */
  moveTail(tail: number): void {
    if (!this.#on) return;
    if (tail >= this.#length) this.fail('badRing');
    else this.#tail = tail;
  }

  /** Whether there is a descriptor to use. It reads the next ones if all that it has read are used. */
  ready(): boolean {
    if (this.#done < this.#fetched) return true;
    this.writeBack();
    const end = this.#tail < this.#head ? this.#length : this.#tail;
    const count = Math.min(end - this.#head, BATCH);
    if (!this.#on || count === 0) return false;
    try {
      this.#card.read(this.#at(this.#head), this.#bytes.subarray(0, count * nicDescriptor.size));
    } catch (error) {
      if (!(error instanceof DmaError)) throw error;
      this.fail('fault');
      return false;
    }
    this.#fetched = count;
    return true;
  }

  /** The next descriptor, if the ring is ready. */
  get address(): bigint {
    return this.#addresses[this.#done * 2] as bigint;
  }
  get length(): number {
    return this.#words[this.#done * 4 + 2] as number;
  }

  /** The card is done with the next descriptor. */
  complete(status: number, length: number): void {
    const at = this.#done++ * 4;
    this.#words[at + 2] = length;
    this.#words[at + 3] = nicDescriptor.done | status;
  }

  /** Counts a frame that did not arrive. */
  drop(): void {
    const { ringDropped } = this.#card.registers;
    ringDropped.write((ringDropped.read(this.#index) + 1) >>> 0, this.#index);
  }

  /** Writes back what is done, and says so. */
  writeBack(): void {
    const done = this.#done;
    if (done === 0) return;
    const { ringHead, ringControl } = this.#card.registers;
    const bytes = this.#bytes.subarray(0, done * nicDescriptor.size);
    try {
      this.#card.write(this.#at(this.#head), bytes);
    } catch (error) {
      if (!(error instanceof DmaError)) throw error;
      this.fail('fault');
      return;
    }
    this.#head = (this.#head + done) % this.#length;
    this.#bytes.copyWithin(0, bytes.length, this.#fetched * nicDescriptor.size);
    this.#fetched -= done;
    this.#done = 0;
    ringHead.write(this.#head, this.#index);
    if (ringControl.field('interrupt', this.#index) === 1) this.#card.interrupt(this.#index);
  }

  #at(index: number): bigint {
    return this.#base + BigInt(index * nicDescriptor.size);
  }
}
