/** A driver in TypeScript for the NVMe controller of the software host. test/soft/nvme.cc says all that the device does. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DmaBuffer, Host, type Interrupt, registers, type SoftwareHost, view } from '../lib/index.ts';
import { needs } from './support/backends.ts';

needs({ backends: ['software'], because: 'it plugs in a device of the software host' });

const BDF = '0000:00:1c.0';
const PAGE = 4096;

const map = registers({
  capabilities: { offset: 0x00, width: 8, access: 'ro' },
  configuration: { offset: 0x14, width: 4 },
  status: { offset: 0x1c, width: 4, access: 'ro', fields: { ready: { bits: 0 }, fatal: { bits: 1 } } },
  adminSizes: { offset: 0x24, width: 4 },
  adminSubmission: { offset: 0x28, width: 8 },
  adminCompletion: { offset: 0x30, width: 8 },
});

/** The queues of a controller, in its memory page after page: admin and I/O; behind them a page of data. */
class Driver implements Disposable {
  readonly memory = DmaBuffer.alloc(8 * PAGE);
  readonly #attachment: ReturnType<Host['attach']>;
  readonly #interrupt: Interrupt;
  readonly #iova: bigint;
  readonly #tails = [0, 0];

  constructor(host: Host) {
    this.#attachment = host.attach(BDF);
    const { device, dma } = this.#attachment;
    device.config.busMaster = true;
    this.#iova = dma.map(this.memory).iova;
    [this.#interrupt] = device.irq('msix').enable(1);
  }
  get registers() {
    return view(this.#attachment.device.region('bar0'), map);
  }
  at(page: number): bigint {
    return this.#iova + BigInt(page * PAGE);
  }
  async enable(host: SoftwareHost): Promise<void> {
    const r = this.registers;
    r.adminSizes.write(0x000f_000f);
    r.adminSubmission.write(this.at(0));
    r.adminCompletion.write(this.at(1));
    r.configuration.write(0x0046_0001);
    await host.software.settle();
  }
  /** Does a command, and returns its status code and type. */
  async run(queue: 0 | 1, opcode: number, prp: bigint, words: readonly number[]): Promise<number> {
    const bytes = Buffer.from(this.memory.buffer);
    const slot = this.#tails[queue] ?? 0;
    const command = bytes.subarray(queue * 2 * PAGE + slot * 64).fill(0, 0, 64);
    command.writeUInt32LE((slot << 16) | opcode, 0);
    command.writeUInt32LE(1, 4);
    command.writeBigUInt64LE(prp, 24);
    for (const [at, word] of words.entries()) command.writeUInt32LE(word, 40 + at * 4);
    this.#tails[queue] = slot + 1;
    const doorbells = this.#attachment.device.region('bar0');
    doorbells.write32(0x1000 + queue * 8, slot + 1);
    await this.#interrupt.wait({ timeout: 5000 });
    doorbells.write32(0x1004 + queue * 8, slot + 1);
    return (bytes.readUInt32LE((queue * 2 + 1) * PAGE + slot * 16 + 12) >>> 17) & 0x7ff;
  }
  [Symbol.dispose](): void {
    this.#attachment[Symbol.dispose]();
    this.memory[Symbol.dispose]();
  }
}

let host: SoftwareHost;
beforeEach(() => {
  host = Host.open({ backend: 'software' });
});
afterEach(() => host[Symbol.dispose]());

test('an NVMe controller is plugged in, identified, written and read', async () => {
  host.software.addDevice(BDF, { model: 'nvme', size: 1n << 43n, blockSize: 4096 });
  expect(host.device(BDF)).toMatchObject({ vendor: 0x1b36, device: 0x0010, classCode: 0x010802 });
  using driver = new Driver(host);
  expect(driver.registers.status.read()).toBe(0);
  await driver.enable(host);
  expect(driver.registers.status.field('ready')).toBe(1);

  const bytes = Buffer.from(driver.memory.buffer);
  const data = bytes.subarray(4 * PAGE, 5 * PAGE);
  expect(await driver.run(0, 0x06, driver.at(4), [0])).toBe(0);
  expect(data.readBigUInt64LE(0)).toBe(1n << 31n); // blocks
  expect(await driver.run(0, 0x05, driver.at(3), [0x000f_0001, 0x3])).toBe(0);
  expect(await driver.run(0, 0x01, driver.at(2), [0x000f_0001, 0x1_0001])).toBe(0);

  data.fill('block after block ');
  const written = Buffer.from(data);
  expect(await driver.run(1, 0x01, driver.at(4), [0x7fff_ffff, 0, 0])).toBe(0);
  data.fill(0);
  expect(await driver.run(1, 0x02, driver.at(4), [0x7fff_ffff, 0, 0])).toBe(0);
  expect(data.equals(written)).toBe(true);
  expect(await driver.run(1, 0x02, driver.at(4), [0x8000_0000, 0, 0])).toBe(0x80); // past the end
  expect(await driver.run(1, 0x02, 0x7000_0000n, [0, 0, 0])).toBe(0x04); // no memory there
  expect(host.software.takeFaults()[0]).toMatchObject({ bdf: BDF, iova: 0x7000_0000n, write: true });
});

test.each([
  [{ size: 1000 }, /Expected a multiple of the block size, 512 for .*size but received 1000/],
  [{ blockSize: 1024 }, /Expected 512 or 4096 for .*blockSize/],
  [{ doorbellStride: 5 }, /Expected a power of two from 4 to 64 for .*doorbellStride/],
  [
    { file: '/dev/null' },
    /Expected a file that holds a block and can be written \(Invalid argument\) for .*file/,
  ],
  [{ size: 2n ** 63n }, /for .*size/],
])('an NVMe controller with %o is refused', (wrong, words) => {
  expect(() => host.software.addDevice(BDF, { model: 'nvme', ...wrong })).toThrow(words);
});
