/** A driver for the edu device as a user of the package writes one: registers by name, DMA and interrupts. */
import {
  type DmaSpace,
  type Host,
  type Interrupt,
  type Irq,
  type MappedRegion,
  type RegisterAccessors,
  type UserDevice,
  type VfioDevice,
  view,
} from '../../lib/index.ts';
import { eduRegisters } from '../../lib/models/index.ts';

/** Where the buffer of the device is, for its DMA registers. */
const BUFFER = 0x40000n;
const TIMEOUT = { timeout: 20_000 };

export class EduDriver implements Disposable {
  /** What it has opened, in this order. */
  readonly #opened: Disposable[] = [];
  readonly #user: UserDevice;
  readonly #mapped: MappedRegion;
  readonly #irq: Irq;
  readonly #interrupt: Interrupt;
  readonly registers: RegisterAccessors<(typeof eduRegisters)['layout']>;

  /** Takes the device, which is bound to vfio-pci. Interrupts are messages, or with `pin` those of the INTx pin. */
  constructor(host: Host, bdf: string, o: { pin?: boolean } = {}) {
    this.#user = this.#keep(host.attach(bdf));
    try {
      const { device } = this.#user;
      device.config.busMaster = true;
      this.#mapped = this.#keep(device.region('bar0').mmap());
      this.registers = view(this.#mapped, eduRegisters);
      // No reset lowers the interrupts that another driver has left.
      this.registers.interruptAcknowledge.write(0xffffffff);
      this.registers.status.write({ interrupt: 0 });
      this.#irq = device.irq(o.pin ? 'intx' : 'msi');
      [this.#interrupt] = this.#irq.enable(1);
      this.#keep(this.#interrupt);
    } catch (error) {
      this[Symbol.dispose](); // what was opened before the failure
      throw error;
    }
  }

  #keep<T extends Disposable>(handle: T): T {
    this.#opened.push(handle);
    return handle;
  }

  get device(): VfioDevice {
    return this.#user.device;
  }

  /** Its registers by offset. */
  get mapped(): MappedRegion {
    return this.#mapped;
  }

  get dma(): DmaSpace {
    return this.#user.dma;
  }

  /** Waits for an interrupt and acknowledges it. Resolves to its causes. */
  async interrupt(): Promise<number> {
    await this.#interrupt.wait(TIMEOUT);
    const causes = this.registers.interruptStatus.read();
    this.registers.interruptAcknowledge.write(causes);
    if (this.#irq.automasked) this.#irq.unmask();
    return causes;
  }

  /** Whether an interrupt has come that nobody has waited for. */
  get interrupted(): boolean {
    return this.#interrupt.poll() !== 0n;
  }

  /** n! modulo 2^32. */
  async factorial(n: number): Promise<number> {
    const { factorial, status } = this.registers;
    status.write({ interrupt: 1 });
    factorial.write(n);
    const causes = await this.interrupt();
    if (causes !== 0x001) throw new Error(`a factorial raised 0x${causes.toString(16)}`);
    status.write({ interrupt: 0 });
    return factorial.read();
  }

  /** Moves `count` bytes from IOVA `from` to the device's buffer at `at`. */
  fetch(from: bigint, count: number, at = 0): Promise<void> {
    return this.#transfer(from, BUFFER + BigInt(at), count, 'toDevice');
  }

  /** Moves `count` bytes of the device's buffer, from `at` on, to IOVA `to`. */
  store(to: bigint, count: number, at = 0): Promise<void> {
    return this.#transfer(BUFFER + BigInt(at), to, count, 'toMemory');
  }

  async #transfer(source: bigint, destination: bigint, count: number, direction: 'toDevice' | 'toMemory') {
    const r = this.registers;
    r.dmaSource.write(source);
    r.dmaDestination.write(destination);
    r.dmaCount.write(BigInt(count));
    r.dmaCommand.write({ start: 1, direction, interrupt: 1 });
    const causes = await this.interrupt();
    if (causes !== 0x100) throw new Error(`a transfer raised 0x${causes.toString(16)}`);
  }

  [Symbol.dispose](): void {
    for (const each of this.#opened.splice(0).reverse()) each[Symbol.dispose]();
  }
}
