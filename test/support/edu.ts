/** QEMU's edu device as the tests drive it. Its registers are in examples/edu.ts and QEMU's specification. */
import type { DmaSpace, Host, Interrupt, MappedRegion, UserDevice, VfioDevice } from '../../lib/index.ts';
import { EDU } from './backends.ts';

export const Reg = {
  identification: 0x00,
  liveness: 0x04,
  factorial: 0x08,
  status: 0x20,
  interruptStatus: 0x24,
  raise: 0x60,
  acknowledge: 0x64,
  source: 0x80,
  destination: 0x88,
  count: 0x90,
  command: 0x98,
} as const;

/** The address of the device's own buffer of 4096 bytes, as its DMA registers use it. */
export const BUFFER = 0x40000n;

const START = 1;
const FROM_DEVICE = 2;
const INTERRUPT = 4;

export class Edu implements Disposable {
  readonly device: VfioDevice;
  readonly registers: MappedRegion;

  constructor(device: VfioDevice) {
    this.device = device;
    device.config.busMaster = true;
    this.registers = device.region('bar0').mmap();
    // The device has no reset: an interrupt that another program has not acknowledged is still raised.
    this.registers.write32(Reg.acknowledge, 0xffffffff);
  }

  /** Moves `count` bytes from IOVA `from` into the device's buffer at `at`, and waits until it is done. */
  async fetch(from: bigint, count: number, at = 0): Promise<void> {
    await this.#transfer(from, BUFFER + BigInt(at), count, 0);
  }

  /** Moves `count` bytes of the device's buffer, from `at` on, to IOVA `to`, and waits until it is done. */
  async store(to: bigint, count: number, at = 0): Promise<void> {
    await this.#transfer(BUFFER + BigInt(at), to, count, FROM_DEVICE);
  }

  /** Starts a transfer and does not wait; with `interrupt`, the device raises one at its end. */
  start(source: bigint, destination: bigint, count: number, fromDevice: boolean, interrupt = false): void {
    this.registers.write64(Reg.source, source);
    this.registers.write64(Reg.destination, destination);
    this.registers.write64(Reg.count, count);
    this.registers.write64(Reg.command, START | (fromDevice ? FROM_DEVICE : 0) | (interrupt ? INTERRUPT : 0));
  }

  /** Waits until the device is done with its transfer. */
  async idle(): Promise<void> {
    while ((this.registers.read64(Reg.command) & 1n) !== 0n)
      await new Promise((resolve) => setTimeout(resolve, 1));
  }

  async #transfer(source: bigint, destination: bigint, count: number, direction: number): Promise<void> {
    this.start(source, destination, count, direction !== 0);
    await this.idle();
  }

  [Symbol.dispose](): void {
    this.registers[Symbol.dispose]();
  }
}

/** A device ready for work: bound to vfio-pci, attached to a new address space. */
export interface Job extends Disposable {
  readonly user: UserDevice;
  readonly device: VfioDevice;
  readonly dma: DmaSpace;
  readonly edu: Edu;
  msi(): Interrupt;
}

/** Binds the device, attaches it to a new address space and maps its registers. */
export async function startJob(host: Host, bdf: string = EDU): Promise<Job> {
  await host.device(bdf).bind();
  const user = host.attach(bdf);
  const edu = new Edu(user.device);
  return {
    user,
    device: user.device,
    dma: user.dma,
    edu,
    msi() {
      const [interrupt] = user.device.irq('msi').enable(1);
      if (!interrupt) throw new Error('no MSI');
      return interrupt;
    },
    [Symbol.dispose]() {
      edu[Symbol.dispose]();
      user[Symbol.dispose]();
    },
  };
}
