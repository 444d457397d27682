/**
 * A memory copy engine: it takes the addresses of descriptors, and copies what they say.
 *
 * It shows a device whose work is asynchronous: each channel is a loop over the stores to its doorbell, and its accesses to
 * memory wait for pages that are missing.
 */
import { integer, known } from '../base/check.ts';
import { DmaError, RegisterBank, registers, SimulatedDevice } from '../index.ts';

const MOST_CHANNELS = 8;
const CHANNELS = { count: MOST_CHANNELS } as const;

/** The registers of the {@link DmaEngine}, in BAR 0. Channel n has the MSI-X vector n. */
export const dmaEngineRegisters = registers({
  channels: { offset: 0x00, width: 4, access: 'ro', doc: 'how many channels there are' },
  maxLength: {
    offset: 0x04,
    width: 4,
    access: 'ro',
    doc: 'the most bytes that a descriptor can have copied',
  },
  submit: {
    ...CHANNELS,
    offset: 0x40,
    width: 8,
    access: 'wo',
    doc: 'doorbell: the IOVA of a descriptor. A channel works on its descriptors one after the other',
  },
  channelStatus: {
    ...CHANNELS,
    offset: 0x80,
    width: 4,
    fields: {
      lost: { bits: 0, access: 'w1c', doc: 'a descriptor could not be read, or a completion not written' },
    },
  },
  completed: {
    ...CHANNELS,
    offset: 0xc0,
    width: 4,
    access: 'ro',
    doc: 'how many descriptors the channel is done with, modulo 2^32',
  },
  channelPasid: {
    ...CHANNELS,
    offset: 0x100,
    width: 4,
    fields: {
      pasid: { bits: [19, 0], doc: 'the PASID of the descriptors, and of what they ask for' },
      enable: { bits: 31, doc: 'use it' },
    },
    doc: 'so a driver with shared virtual addressing needs no mapping, not even for descriptors',
  },
});

/**
 * A descriptor is 64 bytes, little-endian, at a multiple of 64: 8 bytes IOVA of the source; 8 bytes IOVA of the destination;
 * 8 bytes IOVA of the completion; 4 bytes length; 4 bytes flags; 4 bytes PASID; the rest is 0. A completion is 16 bytes: 4 bytes
 * status, 4 bytes 0, 8 bytes how many bytes were copied. The engine reads descriptors without a PASID, unless `channelPasid` of
 * the channel gives one, which then is also that of the copy; a descriptor with a PASID of its own uses that.
 */
export const dmaEngineDescriptor = {
  size: 64,
  completionSize: 16,
  /** Bits of the flags. Raise an interrupt when it is done. */
  interrupt: 1,
  /** Copy, and write the completion, with the PASID of the descriptor. */
  pasid: 2,
  /** Write a completion. */
  completion: 4,
  /** The status of a completion. */
  success: 1,
  badDescriptor: 2,
  sourceFault: 3,
  destinationFault: 4,
} as const;

const { interrupt, pasid, completion, success, badDescriptor, sourceFault, destinationFault } =
  dmaEngineDescriptor;
const ALL_FLAGS = interrupt | pasid | completion;
/** Bytes that are copied with one read and one write. */
const PIECE = 65536;
const END = 2n ** 64n;

export interface DmaEngineOptions {
  /** How many channels it has, 1 to 8. A channel that waits for a page does not delay the others. Default: 2. */
  channels?: number;
  /** The most bytes that a descriptor can have copied, up to 1 GiB. Default: 16 MiB. */
  maxLength?: number;
  /** The width of its PASIDs in bits, 1 to 20. Default: 8. */
  pasidBits?: number;
}

/** Whose access it is. */
interface By {
  readonly pasid?: number;
}

/** A descriptor that was read. */
interface Descriptor {
  readonly source: bigint;
  readonly destination: bigint;
  readonly completion: bigint;
  readonly length: number;
  readonly flags: number;
  readonly pasid: number;
  /** The options of the accesses that it asks for. */
  readonly with: By;
}

/**
 * A memory copy engine (vendor 0x1af4, device 0x10f9) with PASIDs and page requests. `dmaEngineRegisters` and
 * `dmaEngineDescriptor` describe it for its driver.
 *
 * Source and destination must not overlap. A reset drops the descriptors that are not completed. The completion of a
 * descriptor whose PASID is too wide is written as that of one without a PASID.
 */
export class DmaEngine extends SimulatedDevice {
  override readonly identity = { vendor: 0x1af4, device: 0x10f9, classCode: 0x088000 };
  override readonly express = true;
  override readonly functionReset = true;
  override readonly pageRequests = true;
  override readonly pasidBits: number;
  override readonly msix: number;

  readonly #bank = new RegisterBank(dmaEngineRegisters, {
    channels: { onRead: () => this.msix },
    maxLength: { onRead: () => this.#maxLength },
  });
  override readonly bars = [{ size: 16384, registers: this.#bank }];
  readonly #maxLength: number;
  /** How often the device was reset. A job is known by the number when it began, and ends with it. */
  #resets = 0;

  constructor(o?: DmaEngineOptions) {
    super();
    const given = known(o, 'options', ['channels', 'maxLength', 'pasidBits']);
    this.msix = integer(given.channels ?? 2, 'channels', 1, MOST_CHANNELS);
    this.#maxLength = integer(given.maxLength ?? 2 ** 24, 'maxLength', 1, 2 ** 30);
    this.pasidBits = integer(given.pasidBits ?? 8, 'pasidBits', 1, 20);
  }

  override async onPlug(): Promise<void> {
    await Promise.all(Array.from({ length: this.msix }, (_, channel) => this.#serve(channel)));
  }

  override onReset(): void {
    this.#resets++;
  }

  async #serve(channel: number): Promise<void> {
    const { offset, width } = dmaEngineRegisters.layout.submit;
    for await (const store of this.doorbell(0, offset + channel * width))
      if (store.width === width) await this.#work(channel, store.value);
  }

  async #work(channel: number, address: bigint): Promise<void> {
    const job = this.#resets;
    const descriptor = await this.#fetch(job, address, this.#owner(channel));
    let lost = descriptor === undefined;
    if (descriptor) {
      const [status, copied] = await this.#copy(job, descriptor);
      if ((descriptor.flags & completion) !== 0)
        lost = !(await this.#complete(job, descriptor, status, copied));
    }
    if (job !== this.#resets) return;
    const { channelStatus, completed } = this.#bank.registers;
    if (lost) channelStatus.update({ lost: 1 }, channel);
    completed.write((completed.read(channel) + 1) >>> 0, channel);
    if (lost || ((descriptor?.flags ?? 0) & interrupt) !== 0) this.interrupt(channel);
  }

  /** Whether a transfer moves all of its bytes. It is not begun if the device was reset since its job began. */
  async #arrives(job: number, transfer: () => Promise<void>): Promise<boolean> {
    if (job !== this.#resets) return false;
    try {
      await transfer();
      return true;
    } catch (error) {
      if (error instanceof DmaError) return false;
      throw error;
    }
  }

  /** Whose the descriptors of a channel are; undefined: the PASID is too wide. */
  #owner(channel: number): By | undefined {
    const { pasid: id, enable } = this.#bank.registers.channelPasid.fields(channel);
    if (enable === 0) return {};
    return id < 2 ** this.pasidBits ? { pasid: id } : undefined;
  }

  async #fetch(job: number, address: bigint, by: By | undefined): Promise<Descriptor | undefined> {
    const bytes = new DataView(new ArrayBuffer(dmaEngineDescriptor.size));
    if (by === undefined || address % BigInt(bytes.byteLength) !== 0n) return undefined;
    const into = new Uint8Array(bytes.buffer);
    if (!(await this.#arrives(job, () => this.dmaReadAsync(address, into, by)))) return undefined;
    const flags = bytes.getUint32(28, true);
    const id = bytes.getUint32(32, true);
    return {
      source: bytes.getBigUint64(0, true),
      destination: bytes.getBigUint64(8, true),
      completion: bytes.getBigUint64(16, true),
      length: bytes.getUint32(24, true),
      flags,
      pasid: id,
      with: (flags & pasid) !== 0 && id < 2 ** this.pasidBits ? { pasid: id } : by,
    };
  }

  /** The status, and how many bytes were copied. */
  async #copy(job: number, descriptor: Descriptor): Promise<[status: number, copied: number]> {
    const { source, destination, length, with: by } = descriptor;
    if (!this.#valid(descriptor)) return [badDescriptor, 0];
    const piece = new Uint8Array(Math.min(PIECE, length));
    for (let at = 0; at < length; at += PIECE) {
      const bytes = piece.subarray(0, Math.min(PIECE, length - at));
      const [from, to] = [source + BigInt(at), destination + BigInt(at)];
      if (!(await this.#arrives(job, () => this.dmaReadAsync(from, bytes, by)))) return [sourceFault, at];
      if (!(await this.#arrives(job, () => this.dmaWriteAsync(to, bytes, by)))) return [destinationFault, at];
    }
    return [success, length];
  }

  #valid({ source, destination, length, flags, pasid: id }: Descriptor): boolean {
    const end = (from: bigint) => from + BigInt(length);
    const fits = length > 0 && length <= this.#maxLength && end(source) <= END && end(destination) <= END;
    const addressed = (flags & pasid) === 0 || id < 2 ** this.pasidBits;
    return fits && addressed && (flags & ~ALL_FLAGS) === 0;
  }

  #complete(job: number, descriptor: Descriptor, status: number, copied: number): Promise<boolean> {
    const record = new DataView(new ArrayBuffer(dmaEngineDescriptor.completionSize));
    record.setUint32(0, status, true);
    record.setBigUint64(8, BigInt(copied), true);
    const bytes = new Uint8Array(record.buffer);
    return this.#arrives(job, () => this.dmaWriteAsync(descriptor.completion, bytes, descriptor.with));
  }
}
