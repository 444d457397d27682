/**
 * QEMU's edu device (docs/specs/edu of QEMU), which its authors made for teaching: a register that inverts what is stored in
 * it, a factorial unit, a DMA engine with a buffer of 4 KiB, and one interrupt, by MSI or INTx.
 *
 * It shows how to write a device whose bus decodes less than a register bank does, and whose work goes on after the access.
 */

import { integer, known, type U64Like, u64 } from '../base/check.ts';
import { hex } from '../base/hex.ts';
import {
  DmaError,
  RegisterBank,
  type RegisterFile,
  type RegisterWidth,
  registers,
  SimulatedDevice,
} from '../index.ts';

/** The registers of QEMU's edu device, in BAR 0. Those below 0x80 take accesses of 4 bytes only, the others of 4 and 8. */
export const eduRegisters = registers({
  identification: {
    offset: 0x00,
    width: 4,
    access: 'ro',
    reset: 0x010000ed,
    fields: {
      major: { bits: [31, 24] },
      minor: { bits: [23, 16] },
      magic: { bits: [15, 0], doc: '0xed' },
    },
  },
  liveness: { offset: 0x04, width: 4, doc: 'a load gives the inverse of what was stored' },
  factorial: { offset: 0x08, width: 4, doc: 'a store of n starts the computation of n! modulo 2^32' },
  status: {
    offset: 0x20,
    width: 4,
    fields: {
      computing: { bits: 0, access: 'ro', doc: 'the factorial is not done yet' },
      interrupt: { bits: 7, doc: 'raise interrupt 0x001 when the factorial is done' },
    },
  },
  interruptStatus: { offset: 0x24, width: 4, access: 'ro', doc: 'the interrupts that are raised' },
  interruptRaise: { offset: 0x60, width: 4, access: 'wo', doc: 'raises interrupts' },
  interruptAcknowledge: { offset: 0x64, width: 4, access: 'wo', doc: 'clears interrupts' },
  dmaSource: { offset: 0x80, width: 8 },
  dmaDestination: { offset: 0x88, width: 8 },
  dmaCount: { offset: 0x90, width: 8, doc: 'bytes' },
  dmaCommand: {
    offset: 0x98,
    width: 8,
    doc: 'a store without `start` changes nothing. While `start` is set, no DMA register can be changed',
    fields: {
      start: { bits: 0 },
      direction: { bits: 1, values: { toDevice: 0, toMemory: 1 } },
      interrupt: { bits: 2, doc: 'raise interrupt 0x100 when the transfer is done' },
    },
  },
});

export interface EduOptions {
  /** The bits of an IOVA that the device drives; the others are lost. Default: 28 bits, 0xfffffff. */
  dmaMask?: U64Like;
  /** How long a transfer takes at least, in milliseconds. Default: 0; in QEMU it is 100. */
  dmaDelayMs?: number;
}

const FIRST_WIDE = eduRegisters.layout.dmaSource.offset;
const BUFFER = 0x40000n;
const BUFFER_SIZE = 4096n;
const FACTORIAL_DONE = 0x001;
const TRANSFER_DONE = 0x100;
/** What a load gets where nothing is decoded: all ones. */
const ALL_ONES = -1;

/**
 * QEMU's edu device in TypeScript. A reset keeps the registers, as in QEMU, and drops the work under way.
 *
 * The reserved bits of `dmaCommand` read as 0. A transfer that leaves the buffer moves nothing, and is an error of the device
 * (`errors`).
 */
export class EduDevice extends SimulatedDevice {
  override readonly identity = {
    vendor: 0x1234,
    device: 0x11e8,
    classCode: 0x00ff00,
    revision: 0x10,
    subsystemVendor: 0x1af4,
    subsystemDevice: 0x1100,
  };
  override readonly msi = 1;
  override readonly pin = true;
  override readonly bars = [{ size: 1 << 20, registers: this.#decoder() }];

  readonly #bank = new RegisterBank(eduRegisters, {
    liveness: { onWrite: (value) => void this.#bank.registers.liveness.write(~value >>> 0) },
    factorial: { onWrite: () => this.#startFactorial() },
    interruptRaise: { onWrite: (_, bits) => this.#raise(bits) },
    interruptAcknowledge: { onWrite: (_, bits) => this.#acknowledge(bits) },
    dmaCommand: { onWrite: () => this.post(() => this.#transfer(), this.#delay) },
  });
  readonly #buffer = new Uint8Array(Number(BUFFER_SIZE));
  readonly #mask: bigint;
  readonly #delay: number;
  /** How often the device was reset: work that began before the last reset does nothing any more. */
  #resets = 0;

  constructor(o?: EduOptions) {
    super();
    const { dmaMask = 0xfffffffn, dmaDelayMs = 0 } = known(o, 'options', ['dmaMask', 'dmaDelayMs']);
    this.#mask = u64(dmaMask, 'dmaMask');
    this.#delay = integer(dmaDelayMs, 'dmaDelayMs', 0, 60_000);
  }

  /** The bus side: what the device does not decode, and stores that it ignores, never reach the bank. */
  #decoder(): RegisterFile {
    const { factorial, interruptRaise, interruptAcknowledge, dmaCommand } = eduRegisters.layout;
    const writeOnly: readonly number[] = [interruptRaise.offset, interruptAcknowledge.offset];
    const decoded = (offset: number, width: RegisterWidth) =>
      offset < FIRST_WIDE ? width === 4 : width >= 4 && offset % 8 === 0;
    const ignored = (offset: number, value: bigint | number) =>
      offset < FIRST_WIDE
        ? offset === factorial.offset && this.#bank.registers.status.field('computing') === 1
        : this.#bank.registers.dmaCommand.field('start') === 1 ||
          (offset === dmaCommand.offset && BigInt(value) % 2n === 0n);
    return {
      read: (offset, width) => {
        if (width < 4) return 0;
        if (!decoded(offset, width) || writeOnly.includes(offset)) return ALL_ONES;
        return this.#bank.read(offset, width) ?? ALL_ONES;
      },
      // A store of 4 bytes to a register of 8 clears the upper half, as in QEMU.
      write: (offset, width, value) =>
        !decoded(offset, width) ||
        ignored(offset, value) ||
        this.#bank.write(offset, offset < FIRST_WIDE ? 4 : 8, value),
      reset: () => {
        this.#resets++;
        this.#bank.registers.status.update({ computing: 0 });
        this.#bank.registers.dmaCommand.update({ start: 0 });
      },
    };
  }

  #startFactorial(): void {
    this.#bank.registers.status.update({ computing: 1 });
    this.post(() => {
      const { factorial, status } = this.#bank.registers;
      // Modulo 2^32 the product is 0 from 34! on.
      let product = 1;
      for (let factor = factorial.read(); factor > 0 && product !== 0; factor--)
        product = Math.imul(product, factor);
      factorial.write(product >>> 0);
      status.update({ computing: 0 });
      if (status.field('interrupt') === 1) this.#raise(FACTORIAL_DONE);
    });
  }

  async #transfer(): Promise<void> {
    const { dmaSource, dmaDestination, dmaCount, dmaCommand } = this.#bank.registers;
    const reset = this.#resets;
    const toMemory = dmaCommand.field('direction') === 1;
    const [inside, iova] = toMemory
      ? [dmaSource.read() - BUFFER, dmaDestination.read()]
      : [dmaDestination.read() - BUFFER, dmaSource.read()];
    const count = dmaCount.read();
    const fits = inside >= 0n && count <= BUFFER_SIZE && inside <= BUFFER_SIZE - count;
    if (fits) {
      const bytes = this.#buffer.subarray(Number(inside), Number(inside + count));
      const moved = toMemory
        ? this.dmaWriteAsync(iova & this.#mask, bytes)
        : this.dmaReadAsync(iova & this.#mask, bytes);
      // The device does not know whether the transfer failed; the fault log of the host does.
      await moved.catch((error: unknown) => {
        if (!(error instanceof DmaError)) throw error;
      });
    }
    if (reset !== this.#resets) return;
    dmaCommand.update({ start: 0 });
    if (dmaCommand.field('interrupt') === 1) this.#raise(TRANSFER_DONE);
    if (!fits) throw new Error(`A transfer of ${count} bytes at ${hex(inside + BUFFER)} leaves the buffer`);
  }

  #raise(bits: number): void {
    const { interruptStatus } = this.#bank.registers;
    const raised = (interruptStatus.read() | bits) >>> 0;
    interruptStatus.write(raised);
    if (raised === 0) return;
    if (this.messagesEnabled) this.interrupt(0);
    else this.setLine(true);
  }

  #acknowledge(bits: number): void {
    const { interruptStatus } = this.#bank.registers;
    const left = (interruptStatus.read() & ~bits) >>> 0;
    interruptStatus.write(left);
    if (left === 0 && !this.messagesEnabled) this.setLine(false);
  }
}
