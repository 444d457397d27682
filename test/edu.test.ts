/**
 * One driver and one set of cases for three models of the edu device: in TypeScript (vfio/models) and in C++ on the software
 * host, and QEMU's own in the guest.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DmaBuffer, Host, type SoftwareHost } from '../lib/index.ts';
import { EduDevice, eduRegisters } from '../lib/models/index.ts';
import { backend, EDU, needs, openHost } from './support/backends.ts';
import { EduDriver } from './support/edu-driver.ts';

const SLOT = '0000:00:1c.0';

/** Plugs the device in, or binds it. Returns its address. */
type Prepare = (host: Host) => Promise<string>;

async function bind(host: Host): Promise<string> {
  await host.device(EDU).bind();
  return EDU;
}

async function plug(host: Host): Promise<string> {
  (host as SoftwareHost).software.addDevice(SLOT, new EduDevice());
  return SLOT;
}

const models: readonly (readonly [name: string, prepare: Prepare])[] =
  backend === 'kernel'
    ? [['of QEMU', bind]]
    : [
        ['in C++', bind],
        ['in TypeScript', plug],
      ];

describe.each(models)('the edu device %s', (_, prepare) => {
  let host: Host;
  let bdf: string;
  beforeEach(async () => {
    host = openHost();
    bdf = await prepare(host);
  });
  afterEach(() => {
    host[Symbol.dispose]();
    // The driver makes no mistakes, except that two tests give the device wrong addresses.
    if (host.backend === 'software')
      expect(
        (host as SoftwareHost).software.report.findings.filter(
          ({ kind }) => kind !== 'unmapped' && kind !== 'refused',
        ),
      ).toEqual([]);
  });

  test('says what it is', () => {
    using edu = new EduDriver(host, bdf);
    expect(host.device(bdf)).toMatchObject({ vendor: 0x1234, device: 0x11e8, classCode: 0x00ff00 });
    expect(edu.registers.identification.fields()).toEqual({ major: 1, minor: 0, magic: 0xed });
  });

  test('inverts what is stored in its liveness register', () => {
    using edu = new EduDriver(host, bdf);
    for (const value of [0, 1, 0x12345678, 0xffffffff]) {
      edu.registers.liveness.write(value);
      expect(edu.registers.liveness.read()).toBe(~value >>> 0);
    }
  });

  test('computes factorials modulo 2^32, and raises interrupt 0x001 if it is told to', async () => {
    using edu = new EduDriver(host, bdf);
    for (const [n, product] of [
      [0, 1],
      [1, 1],
      [10, 3628800],
      [13, 1932053504],
      [40, 0],
    ] as const)
      expect(await edu.factorial(n), `${n}!`).toBe(product);
    const { factorial, status } = edu.registers;
    factorial.write(5);
    while (status.field('computing') === 1) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(factorial.read()).toBe(120);
    expect(edu.interrupted).toBe(false);
  });

  test.each(['message', 'pin'])('raises and lowers interrupts by its %s', async (kind) => {
    using edu = new EduDriver(host, bdf, { pin: kind === 'pin' });
    const { interruptRaise, interruptStatus, interruptAcknowledge } = edu.registers;
    interruptRaise.write(0x5);
    expect(interruptStatus.read()).toBe(0x5);
    expect(await edu.interrupt()).toBe(0x5);
    expect(interruptStatus.read()).toBe(0);
    interruptRaise.write(0x80000000);
    interruptRaise.write(0x2);
    expect(interruptStatus.read()).toBe(0x80000002);
    interruptAcknowledge.write(0x80000000);
    expect(await edu.interrupt()).toBe(0x2);
  });

  test('moves bytes between memory and its buffer', async () => {
    using edu = new EduDriver(host, bdf);
    using memory = DmaBuffer.alloc(16384);
    using mapping = edu.dma.map(memory, { iova: 0x100000 });
    const length = 4095; // QEMU 7.2 stops the machine at a transfer of the buffer's last byte
    const bytes = Uint8Array.from({ length }, (_, at) => (at * 7 + (at >> 8)) & 0xff);
    memory.write(0, bytes);
    await edu.fetch(mapping.iova, length);
    await edu.store(mapping.iova + 8192n, length);
    expect(memory.bytes.subarray(8192, 8192 + length)).toEqual(bytes);
    await edu.fetch(mapping.iova + 100n, 33, 4062);
    await edu.store(mapping.iova + 4097n, 33, 4062);
    expect(memory.bytes.subarray(4096, 4096 + 36)).toEqual(
      Uint8Array.from([0, ...bytes.subarray(100, 133), 0, 0]),
    );
  });

  test('drives 28 bits of an address, and loses the higher ones', async () => {
    using edu = new EduDriver(host, bdf);
    using memory = DmaBuffer.alloc(4096);
    using mapping = edu.dma.map(memory, { iova: 0x200000 });
    memory.write(0, Buffer.from('reached by its low bits'));
    await edu.fetch(mapping.iova | (1n << 28n) | (1n << 40n), 23);
    await edu.store(mapping.iova + 64n, 23);
    expect(Buffer.from(memory.bytes.subarray(64, 87)).toString()).toBe('reached by its low bits');
  });

  test('ends a transfer that the IOMMU stops as any other', async () => {
    using edu = new EduDriver(host, bdf);
    await edu.fetch(0x300000n, 16);
    expect(edu.registers.dmaCommand.fields()).toEqual({ start: 0, direction: 0, interrupt: 1 });
  });

  test('keeps what was stored in its DMA registers, and takes no command without a start', () => {
    using edu = new EduDriver(host, bdf);
    const { dmaSource, dmaDestination, dmaCount, dmaCommand } = edu.registers;
    const before = dmaCommand.read();
    dmaSource.write(0x123456789abcdef0n);
    dmaDestination.write(0x0fedcba987654321n);
    dmaCount.write(0x1_0000_0001n);
    dmaCommand.write({ direction: 'toMemory', interrupt: before === 0n ? 1 : 0 });
    expect([dmaSource.read(), dmaDestination.read(), dmaCount.read(), dmaCommand.read()]).toEqual([
      0x123456789abcdef0n,
      0x0fedcba987654321n,
      0x1_0000_0001n,
      before,
    ]);
  });

  test('decodes accesses of 4 bytes, and those of 8 to its DMA registers alone', () => {
    using edu = new EduDriver(host, bdf);
    const { mapped } = edu;
    const { layout } = eduRegisters;
    edu.registers.liveness.write(0x0f0f0f0f);
    expect(mapped.read64(layout.identification.offset)).toBe(2n ** 64n - 1n);
    const { factorial, status } = edu.registers;
    const before = factorial.read();
    mapped.write64(layout.factorial.offset, 3n);
    expect([status.field('computing'), factorial.read()]).toEqual([0, before]);
    expect(mapped.read16(layout.liveness.offset)).toBe(0);
    mapped.write8(layout.liveness.offset, 1);
    expect(edu.registers.liveness.read()).toBe(0xf0f0f0f0);
    // Registers that can only be written, and places where there is none, read as all ones.
    for (const offset of [layout.interruptRaise.offset, layout.interruptAcknowledge.offset, 0x0c, 0x1000])
      expect(mapped.read32(offset), `0x${offset.toString(16)}`).toBe(0xffffffff);
    edu.registers.dmaSource.write(0x1122334455667788n);
    expect(mapped.read32(layout.dmaSource.offset)).toBe(0x55667788);
    mapped.write32(layout.dmaSource.offset, 0x99);
    expect(edu.registers.dmaSource.read()).toBe(0x99n);
  });
});

describe('the edu device in TypeScript', () => {
  needs({ backends: ['software'], because: 'a real machine has no devices of ours' });
  let host: SoftwareHost;
  beforeEach(() => {
    host = openHost() as SoftwareHost;
  });
  afterEach(() => host[Symbol.dispose]());

  test('drives as many bits of an address as its option says', async () => {
    const iova = 0x1_2340_0000n;
    for (const [dmaMask, reached] of [
      [0xf_ffff_ffffn, true],
      [0xffff_ffff, false],
    ] as const) {
      const model = new EduDevice({ dmaMask });
      host.software.addDevice(SLOT, model);
      {
        using edu = new EduDriver(host, SLOT);
        using memory = DmaBuffer.alloc(4096);
        using _ = edu.dma.map(memory, { iova });
        memory.write(0, Buffer.from('far'));
        await edu.fetch(iova, 3);
        await edu.store(iova + 8n, 3);
        expect(Buffer.from(memory.bytes.subarray(8, 11)).toString()).toBe(reached ? 'far' : '\0\0\0');
      }
      expect(model.errors).toEqual([]);
      expect(host.software.takeFaults()).toHaveLength(reached ? 0 : 2);
      await host.software.removeDevice(SLOT);
    }
    expect(() => new EduDevice({ dmaMask: -1 })).toThrow(/for dmaMask/);
    expect(() => new EduDevice({ dmaDelayMs: 0.5 })).toThrow(/for dmaDelayMs/);
    // @ts-expect-error: no such option
    expect(() => new EduDevice({ mask: 1 })).toThrow(/mask/);
  });

  test('keeps the transfer registers as they are while a transfer runs', async () => {
    const model = new EduDevice({ dmaDelayMs: 20 });
    host.software.addDevice(SLOT, model);
    using edu = new EduDriver(host, SLOT);
    using memory = DmaBuffer.alloc(4096);
    using mapping = edu.dma.map(memory, { iova: 0x100000 });
    memory.write(0, Buffer.from('late'));
    const done = edu.fetch(mapping.iova, 4);
    edu.registers.dmaSource.write(0n);
    edu.registers.dmaCommand.write({ start: 1, direction: 'toMemory' });
    expect(edu.registers.dmaSource.read()).toBe(mapping.iova);
    await done;
    await edu.store(mapping.iova + 8n, 4);
    expect(Buffer.from(memory.bytes.subarray(8, 12)).toString()).toBe('late');
    expect(model.errors).toEqual([]);
  });

  test('ends its work at a reset of its bus, and keeps its registers', async () => {
    using machine = Host.open({
      backend: 'software',
      software: { topology: { devices: [{ model: 'root-port', bdf: '0000:00:10.0' }] }, deterministic: true },
    });
    const bdf = '0000:01:00.0';
    const model = new EduDevice();
    machine.software.addDevice(bdf, model, { behind: '0000:00:10.0' });
    using edu = new EduDriver(machine, bdf);
    const { status, liveness, factorial, dmaCommand, interruptStatus } = edu.registers;
    liveness.write(0x1234);
    status.write({ interrupt: 1 });
    dmaCommand.write({ start: 1, direction: 'toMemory', interrupt: 1 });
    factorial.write(3);
    await edu.device.hotReset();
    expect(dmaCommand.fields()).toEqual({ start: 0, direction: 1, interrupt: 1 });
    expect(status.fields()).toEqual({ computing: 0, interrupt: 1 });
    await machine.software.settle();
    expect([interruptStatus.read(), liveness.read()]).toEqual([0, ~0x1234 >>> 0]);
    expect(model.errors).toEqual([]);
  });

  test('says that a transfer leaves its buffer, and moves nothing', async () => {
    const model = new EduDevice();
    host.software.addDevice(SLOT, model);
    using edu = new EduDriver(host, SLOT);
    using memory = DmaBuffer.alloc(8192);
    using mapping = edu.dma.map(memory, { iova: 0x100000 });
    memory.bytes.fill(0xee);
    await edu.store(mapping.iova, 4097);
    await edu.store(mapping.iova, 2, 4095);
    await edu.fetch(mapping.iova, 4096); // this one does not
    await host.software.settle();
    expect(memory.bytes.every((each) => each === 0xee)).toBe(true);
    expect(model.errors.map(({ during, error }) => [during, (error as Error).message])).toEqual([
      ['post', 'A transfer of 4097 bytes at 0x40000 leaves the buffer'],
      ['post', 'A transfer of 2 bytes at 0x40fff leaves the buffer'],
    ]);
  });
});
