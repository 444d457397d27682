/**
 * A network card with rings of descriptors, and the cable between two of them.
 *
 * It shows a device with many queues that is fast: its doorbells post the work, the work reads and writes descriptors many at a
 * time, and frames go from the memory of one driver to that of the other without a queue between.
 */
import { integer, known, refusal, text } from '../base/check.ts';
import { DmaError, RegisterBank, SimulatedDevice } from '../index.ts';
import { LONGEST_FRAME, MOST_PAIRS, nicDescriptor, nicRegisters, SHORTEST_FRAME } from './nic-registers.ts';
import { Ring, type RingOwner } from './nic-ring.ts';

export interface NicOptions {
  /** How many pairs of a receive and a transmit ring it has, 1 to 16. Default: 1. */
  pairs?: number;
  /** Its MAC address. Default: '02:00:00:00:00:01'. */
  address?: string;
}

/** A cable between two cards. Disposing it takes it away: the link of both goes down. */
export interface NicLink extends Disposable {
  readonly disposed: boolean;
}

let connect: (a: Nic, b: Nic) => NicLink;

/**
 * A network card (vendor 0x1af4, device 0x10f8) for frames of 64 to 9000 bytes. `nicRegisters` and `nicDescriptor` describe
 * it for its driver; {@link link} connects two.
 *
 * A frame of transmit ring n arrives in receive ring n of the other card, modulo the number of pairs there. The card takes
 * frames for any MAC address, and checks nothing in them.
 */
export class Nic extends SimulatedDevice {
  override readonly identity = { vendor: 0x1af4, device: 0x10f8, classCode: 0x020000 };
  override readonly express = true;
  override readonly functionReset = true;
  override readonly msix: number;

  readonly #bank = new RegisterBank(nicRegisters, {
    control: { onWrite: (value) => void (value === 1 && this.#restart()) },
    status: { onRead: () => this.#linkStatus() },
    address: { onRead: () => this.#address },
    pairs: { onRead: () => this.#pairs },
    ringTail: { onWrite: (value, _, index) => this.#doorbell(index, value) },
    ringControl: { onWrite: (value, _, index) => this.#switch(index, (value & 1) === 1) },
  });
  override readonly bars = [{ size: 65536, registers: this.#bank }];

  readonly #pairs: number;
  readonly #address: bigint;
  readonly #rings: readonly Ring[];
  /** The transmit rings that have a job posted. */
  readonly #posted = new Set<Ring>();
  readonly #frame = new Uint8Array(LONGEST_FRAME);
  #peer: Nic | undefined;

  static {
    connect = (a, b) => {
      for (const [nic, name] of [
        [a, 'a'],
        [b, 'b'],
      ] as const) {
        if (typeof nic !== 'object' || nic === null || !(#peer in nic)) throw refusal('a Nic', name, nic);
        if (nic.#peer !== undefined) throw refusal('a Nic without a link', name, nic);
      }
      if (a === b) throw refusal('another Nic than a', 'b', b);
      a.#peer = b;
      b.#peer = a;
      for (const each of [a, b]) each.#linkChanged();
      let disposed = false;
      return {
        get disposed() {
          return disposed;
        },
        [Symbol.dispose]() {
          if (disposed) return;
          disposed = true;
          for (const each of [a, b]) each.#peer = undefined;
          for (const each of [a, b]) each.#linkChanged();
        },
      };
    };
  }

  constructor(o?: NicOptions) {
    super();
    const { pairs = 1, address = '02:00:00:00:00:01' } = known(o, 'options', ['pairs', 'address']);
    this.#pairs = integer(pairs, 'pairs', 1, MOST_PAIRS);
    this.msix = 2 * this.#pairs + 1;
    if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text(address, 'address')))
      throw refusal("a MAC address such as '02:00:00:00:00:01'", 'address', address);
    this.#address = BigInt(`0x${address.split(':').reverse().join('')}`);
    const owner: RingOwner = {
      registers: this.#bank.registers,
      read: (iova, into) => this.dmaRead(iova, into),
      write: (iova, from) => this.dmaWrite(iova, from),
      interrupt: (vector) => void this.interrupt(vector),
    };
    this.#rings = Array.from({ length: 2 * this.#pairs }, (_, index) => new Ring(owner, index));
  }

  override onPlug(): void {
    this.#linkChanged();
    if (this.#peer) this.#peer.#linkChanged();
  }
  override onRemove(): void {
    if (this.#peer) this.#peer.#linkChanged();
  }
  override onReset(): void {
    this.#posted.clear();
    for (const ring of this.#rings) ring.off();
  }

  /** The driver resets the registers: a job that is posted finds its ring off. */
  #restart(): void {
    this.#bank.reset();
    for (const ring of this.#rings) ring.off();
  }

  get #up(): boolean {
    return this.plugged && this.#peer?.plugged === true;
  }

  #linkStatus(): number {
    const { status } = this.#bank.registers;
    status.update({ link: this.#up ? 1 : 0 });
    return status.read();
  }

  #linkChanged(): void {
    this.#bank.registers.status.update({ linkChanged: 1 });
    if (this.plugged) this.interrupt(2 * this.#pairs);
  }

  #switch(index: number, on: boolean): void {
    const ring = this.#rings[index];
    if (ring) ring.switch(on);
    else if (on) {
      this.#bank.registers.ringControl.update({ enable: 0 }, index);
      this.#bank.registers.ringStatus.update({ badRing: 1 }, index);
    }
  }

  #doorbell(index: number, tail: number): void {
    const ring = this.#rings[index];
    ring?.moveTail(tail);
    if (index % 2 === 0 || !ring?.on || this.#posted.has(ring)) return;
    this.post(() => {
      this.#posted.delete(ring);
      this.#transmit(ring, index >> 1);
    });
    this.#posted.add(ring);
  }

  #transmit(ring: Ring, pair: number): void {
    const peer = this.#up ? this.#peer : undefined;
    const to = peer === undefined ? undefined : peer.#rings[2 * (pair % peer.#pairs)];
    while (ring.ready()) {
      const { length } = ring;
      ring.complete(this.#send(ring.address, length, peer, to), length);
    }
    to?.writeBack();
  }

  /** Sends a frame; returns the error bits of its descriptor. */
  #send(address: bigint, length: number, peer: Nic | undefined, to: Ring | undefined): number {
    if (length < SHORTEST_FRAME || length > LONGEST_FRAME) return nicDescriptor.badLength;
    if (peer === undefined || to === undefined) return nicDescriptor.noLink;
    const frame = this.#frame.subarray(0, length);
    try {
      this.dmaRead(address, frame);
    } catch (error) {
      if (!(error instanceof DmaError)) throw error;
      return nicDescriptor.fault;
    }
    peer.#receive(to, frame);
    return 0;
  }

  #receive(ring: Ring, frame: Uint8Array): void {
    if (!ring.ready() || this.#take(ring, frame) !== 0) ring.drop();
  }

  /** Puts a frame into the buffer of the next descriptor; returns the error bits. */
  #take(ring: Ring, frame: Uint8Array): number {
    let error: number = frame.length > ring.length ? nicDescriptor.badLength : 0;
    try {
      if (error === 0) this.dmaWrite(ring.address, frame);
    } catch (reason) {
      if (!(reason instanceof DmaError)) throw reason;
      error = nicDescriptor.fault;
    }
    ring.complete(error, frame.length);
    return error;
  }
}

/**
 * Connects two cards, of one host or of two. A card has one cable at a time.
 *
 * @throws {TypeError} a card is no {@link Nic} of this thread's, has a link already, or both are the same.
 */
export function link(a: Nic, b: Nic): NicLink {
  return connect(a, b);
}
