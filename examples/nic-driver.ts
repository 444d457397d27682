/** A driver for the network card of vfio/models, as users write drivers: typed registers, rings in DMA memory, MSI-X. */
import {
  DmaBuffer,
  type DmaSpace,
  type Host,
  type Interrupt,
  type MappedRegion,
  type Mapping,
  type RegisterAccessors,
  type UserDevice,
  type VfioDevice,
  view,
} from '../lib/index.ts';
import { nicDescriptor, nicRegisters } from '../lib/models/index.ts';

export interface NicDriverOptions {
  /** Descriptors of each ring. Default: 256. */
  ringSize?: number;
  /** The bytes of the buffer of each descriptor. Default: 2048. */
  bufferSize?: number;
  /** Whether the rings raise interrupts. Default: true. */
  interrupts?: boolean;
}

const PAGE = 4096;
const ALL_ERRORS = nicDescriptor.badLength | nicDescriptor.fault | nicDescriptor.noLink;

/**
 * A ring: descriptors and a buffer for each, in one piece of memory. The card owns the descriptors from `oldest` up to `next`;
 * one is always left free, since a ring with equal head and tail is empty.
 */
export class DriverRing implements Disposable {
  readonly #memory: DmaBuffer;
  readonly #mapping: Mapping;
  readonly #words: Uint32Array;
  readonly #addresses: BigUint64Array;
  readonly #buffers: readonly Uint8Array[];
  readonly size: number;
  readonly bufferSize: number;
  next = 0;
  oldest = 0;

  constructor(dma: DmaSpace, size: number, bufferSize: number) {
    this.size = size;
    this.bufferSize = bufferSize;
    const start = Math.ceil((size * nicDescriptor.size) / PAGE) * PAGE;
    this.#memory = DmaBuffer.alloc(start + size * bufferSize);
    try {
      this.#mapping = dma.map(this.#memory);
    } catch (error) {
      this.#memory[Symbol.dispose]();
      throw error;
    }
    const { buffer } = this.#memory;
    this.#words = new Uint32Array(buffer, 0, size * 4);
    this.#addresses = new BigUint64Array(buffer, 0, size * 2);
    this.#buffers = Array.from(
      { length: size },
      (_, index) => new Uint8Array(buffer, start + index * bufferSize, bufferSize),
    );
    for (let index = 0; index < size; index++)
      this.#addresses[index * 2] = this.#mapping.iova + BigInt(start + index * bufferSize);
  }

  get iova(): bigint {
    return this.#mapping.iova;
  }

  /** Descriptors that the driver can give to the card. */
  get free(): number {
    return (this.oldest - this.next - 1 + this.size) % this.size;
  }

  /** Gives the next descriptor to the card, with the frame in it, or a free buffer. Nothing is free: false. */
  give(frame?: Uint8Array): boolean {
    const at = this.next;
    const after = at + 1 === this.size ? 0 : at + 1;
    if (after === this.oldest) return false;
    if (frame) this.#buffers[at]!.set(frame);
    this.describe(at, frame?.length ?? this.bufferSize);
    this.next = after;
    return true;
  }

  /** Writes the length of a descriptor, and another address if one is given, and clears its status. */
  describe(at: number, length: number, address?: bigint): void {
    if (address !== undefined) this.#addresses[at * 2] = address;
    this.#words[at * 4 + 2] = length;
    this.#words[at * 4 + 3] = 0;
  }

  /** The status of a descriptor: bits of `nicDescriptor`. */
  status(at: number): number {
    return this.#words[at * 4 + 3]!;
  }

  /** Takes the oldest descriptor back; returns its status, or 0 if the card is not done with it. */
  take(): number {
    if (this.oldest === this.next) return 0;
    const status = this.status(this.oldest);
    if ((status & nicDescriptor.done) !== 0) this.oldest = (this.oldest + 1) % this.size;
    return status;
  }

  /** The frame in the buffer of a descriptor that the card is done with. */
  frame(at: number): Uint8Array {
    return this.#buffers[at]!.subarray(0, this.#words[at * 4 + 2]);
  }

  [Symbol.dispose](): void {
    this.#mapping[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
  }
}

export class NicDriver implements Disposable {
  /** What it has opened, in this order. */
  readonly #opened: Disposable[] = [];
  readonly #user: UserDevice;
  readonly #interrupt: boolean;
  readonly registers: RegisterAccessors<(typeof nicRegisters)['layout']>;
  readonly pairs: number;
  /** As on the card: the receive ring of pair n is number 2n, its transmit ring 2n + 1. */
  readonly rings: readonly DriverRing[];
  /** By ring; the last one is for changes of the link. */
  readonly interrupts: readonly Interrupt[];
  /** Frames that the card could not send. */
  unsent = 0;

  /** Takes the card, which is bound to vfio-pci, and turns its rings on. */
  constructor(host: Host, bdf: string, o: NicDriverOptions = {}) {
    const { ringSize = 256, bufferSize = 2048, interrupts = true } = o;
    this.#interrupt = interrupts;
    this.#user = this.#keep(host.attach(bdf));
    try {
      const { device, dma } = this.#user;
      device.config.busMaster = true;
      const mapped: MappedRegion = this.#keep(device.region('bar0').mmap());
      this.registers = view(mapped, nicRegisters);
      this.pairs = this.registers.pairs.read();
      this.interrupts = device.irq('msix').enable(2 * this.pairs + 1);
      for (const each of this.interrupts) this.#keep(each);
      this.rings = Array.from({ length: 2 * this.pairs }, () =>
        this.#keep(new DriverRing(dma, ringSize, bufferSize)),
      );
      this.start();
    } catch (error) {
      this.#close(); // what was opened before the failure
      throw error;
    }
  }

  #keep<T extends Disposable>(handle: T): T {
    this.#opened.push(handle);
    return handle;
  }

  #close(): void {
    for (const each of this.#opened.splice(0).reverse()) each[Symbol.dispose]();
  }

  get device(): VfioDevice {
    return this.#user.device;
  }

  /** The MAC address. */
  get address(): string {
    const bytes = new Uint8Array(new BigUint64Array([this.registers.address.read()]).buffer, 0, 6);
    return [...bytes].map((each) => each.toString(16).padStart(2, '0')).join(':');
  }

  get linked(): boolean {
    return this.registers.status.field('link') === 1;
  }

  /** Turns the rings on: at the beginning, and after a reset. */
  start(): void {
    const { ringBase, ringLength, ringControl } = this.registers;
    this.rings.forEach((ring, index) => {
      ring.next = 0;
      ring.oldest = 0;
      ringBase.write(ring.iova, index);
      ringLength.write(ring.size, index);
      ringControl.write({ enable: 0 }, index);
      ringControl.write({ enable: 1, interrupt: this.#interrupt ? 1 : 0 }, index);
      if (index % 2 === 1) return;
      while (ring.give()) {} // every buffer is free to receive
      this.ring(index);
    });
  }

  /** Rings the doorbell of a ring. */
  ring(index: number): void {
    this.registers.ringTail.write(this.rings[index]!.next, index);
  }

  /** Sends as many of the frames as there is room for; returns how many. */
  send(frames: readonly Uint8Array[], pair = 0): number {
    const index = 2 * pair + 1;
    const ring = this.rings[index]!;
    this.reclaim(pair);
    let given = 0;
    while (given < frames.length && ring.give(frames[given])) given++;
    if (given > 0) this.ring(index);
    return given;
  }

  /** Takes back the descriptors of frames that were sent. */
  reclaim(pair = 0): void {
    const ring = this.rings[2 * pair + 1]!;
    for (let status = ring.take(); (status & nicDescriptor.done) !== 0; status = ring.take())
      if ((status & ALL_ERRORS) !== 0) this.unsent++;
  }

  /** Calls `take` with each frame that has arrived, which is there until it returns; returns how many there were. */
  receive(take: (frame: Uint8Array) => void, pair = 0): number {
    const index = 2 * pair;
    const ring = this.rings[index]!;
    let frames = 0;
    let given = 0;
    for (;;) {
      const at = ring.oldest;
      const status = ring.take();
      if ((status & nicDescriptor.done) === 0) break;
      if ((status & ALL_ERRORS) === 0) {
        frames++;
        take(ring.frame(at));
      }
      ring.give();
      given++;
    }
    if (given > 0) this.ring(index);
    return frames;
  }

  [Symbol.dispose](): void {
    if (this.#opened.length === 0) return;
    // The card uses the memory of the rings until they are off.
    this.rings.forEach((_, index) => {
      this.registers.ringControl.write({ enable: 0 }, index);
    });
    this.#close();
  }
}
