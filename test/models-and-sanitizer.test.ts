/** What a model tells the sanitizer of the software host: memory that it owns, and the level of its pin. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  DmaBuffer,
  DmaError,
  type DmaFinding,
  Host,
  type Mapping,
  SimulatedDevice,
  type SoftwareHost,
  type UserDevice,
} from '../lib/index.ts';
import { needs } from './support/backends.ts';

needs({ backends: ['software'], because: 'only the software host has a sanitizer' });

const BDF = '0000:00:1c.0';
const PAGE = 4096;

/** Does at a doorbell what its test says. */
class Device extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
  override readonly bars = [{ size: 4096 }];
  override readonly msi = 2;
  override readonly pin = true;
  override readonly express = true;
  override readonly functionReset = true;
  work: () => void = () => {};
  override onWrite(): void {
    this.work();
  }
  move(write: boolean, iova: bigint, length: number): void {
    try {
      if (write) this.dmaWrite(iova, new Uint8Array(length));
      else this.dmaRead(iova, new Uint8Array(length));
    } catch (error) {
      if (!(error instanceof DmaError)) throw error;
    }
  }
  later(iova: bigint): Promise<void> {
    return this.dmaReadAsync(iova, new Uint8Array(4));
  }
  laterWrite(iova: bigint): Promise<void> {
    return this.dmaWriteAsync(iova, new Uint8Array(4).fill(9));
  }
  take(iova: bigint, length: number): void {
    this.own(iova, length);
  }
  give(iova: bigint, length: number): void {
    this.release(iova, length);
  }
  assert(level: boolean): void {
    this.setLine(level);
  }
}

/** The line of this file that a stack names first. */
function lineOf(stack: string | undefined): number {
  const found = /models-and-sanitizer\.test\.ts:(\d+)/.exec(stack?.split('\n')[0] ?? '');
  if (found === null) throw new Error(`no line of this file in ${stack}`);
  return Number(found[1]);
}

/** Rings the doorbell of the device, which then does this. Returns the line of the store. */
function ring(what: () => void): number {
  model.work = what;
  user.device.region('bar0').write32(0, 1);
  return lineOf(new Error().stack?.split('\n')[1]) - 1;
}

function only<K extends DmaFinding['kind']>(kind: K): DmaFinding & { kind: K } {
  const { findings } = host.software.report;
  expect(findings.map((each) => each.kind)).toEqual([kind]);
  return findings[0] as DmaFinding & { kind: K };
}

let host: SoftwareHost;
let model: Device;
let user: UserDevice;

beforeEach(() => {
  host = Host.open({ backend: 'software' });
  model = new Device();
  host.software.addDevice(BDF, model);
  user = host.attach(BDF);
  user.device.config.busMaster = true;
});

afterEach(() => {
  user[Symbol.dispose]();
  host[Symbol.dispose]();
});

describe('Memory that a device owns', () => {
  let buffer: DmaBuffer;
  let bytes: Uint8Array;
  let mapping: Mapping;
  beforeEach(() => {
    buffer = DmaBuffer.alloc(PAGE);
    bytes = buffer.bytes;
    mapping = user.dma.map(buffer, { iova: 0x10000 });
  });
  afterEach(() => {
    mapping[Symbol.dispose]();
    buffer[Symbol.dispose]();
  });

  test.each(['dropped', 'corrupted'] as const)('is looked at without an access: DMA that is %s', (dma) => {
    using fault = host.software.injectFault({ dma, nth: 1 });
    bytes.fill(7, 0, 16);
    ring(() => {
      model.take(0x10000n, 16);
      expect(fault.strikes).toEqual([]);
      model.move(true, 0x10000n, 16);
      model.give(0x10000n, 16);
    });
    expect(fault.strikes.length).toBe(1);
    expect(host.software.report.findings).toEqual([]);
  });

  test('and that the device writes later is given back', async () => {
    let ended: Promise<unknown> = Promise.resolve();
    ring(() => {
      model.take(0x10000n, 64);
      ended = Promise.all([model.laterWrite(0x10000n), model.laterWrite(0x10002n)]);
      model.give(0x10000n, 64);
    });
    await ended;
    expect(bytes[0]).toBe(9);
    expect(host.software.report.findings).toEqual([]);
  });

  test('and that the driver changes: the doorbell that gave it, and what was changed', () => {
    const doorbell = ring(() => model.take(0x10020n, 16));
    bytes.set([1, 2, 3], 0x28);
    ring(() => model.move(false, 0x10020n, 16));
    const found = only('changed-while-owned');
    expect(found).toMatchObject({
      device: BDF,
      iova: 0x10028n,
      length: 3n,
      write: false,
      pasid: null,
      mapping: { iova: 0x10020n, length: 16n },
      count: 1,
    });
    expect(found.message).toContain(
      '3 bytes at IOVA 0x10028, byte 8 of [0x10020, 0x1002f], changed from 00 00 00 to 01 02 03',
    );
    expect(lineOf(found.stacks.doorbell)).toBe(doorbell);
    expect(found.stacks.map).toContain('models-and-sanitizer.test.ts');
  });

  test('is compared when the device writes there, by its promises, and when it gives it back', async () => {
    for (const [at, access] of [
      () => model.move(true, 0x10000n, 4),
      () => void model.later(0x10000n),
      () => model.give(0x10000n, 16),
    ].entries()) {
      ring(() => model.take(0x10000n, 16));
      bytes[at] = 7;
      expect(host.software.report.findings).toEqual([]);
      access();
      expect(only('changed-while-owned').iova).toBe(BigInt(0x10000 + at));
      host.software.report.clear();
      model.give(0x10000n, 16);
    }
    await host.software.settle();
    expect(host.software.report.findings).toEqual([]);
  });

  test('may be written by the device; what it has given back, or lost by a reset, by the driver', async () => {
    ring(() => model.take(0x10000n, 32));
    model.move(true, 0xfff8n, 16); // half of it is not mapped
    host.software.report.clear();
    ring(() => model.take(0x10000n, 32));
    model.move(true, 0x10008n, 8);
    model.give(0x10008n, 8);
    bytes[8] = 1;
    model.move(false, 0x10000n, 32);
    expect(host.software.report.findings).toEqual([]);
    bytes[16] = 1; // the rest is owned still
    model.give(0x10000n, 32);
    only('changed-while-owned');
    host.software.report.clear();
    ring(() => model.take(0x10000n, 32));
    await user.device.reset();
    bytes[0] = 1;
    ring(() => model.move(false, 0x10000n, 32));
    expect(host.software.report.findings).toEqual([]);
  });

  test('each doorbell is a cause of its own', () => {
    for (const iova of [0x10000n, 0x10010n]) {
      if (iova === 0x10000n) ring(() => model.take(iova, 16));
      else ring(() => model.take(iova, 16));
      bytes.fill(5, Number(iova - 0x10000n), Number(iova - 0x10000n) + 4);
      model.give(iova, 16);
    }
    const { findings } = host.software.report;
    expect(findings.map(({ kind, count }) => [kind, count])).toEqual([
      ['changed-while-owned', 1],
      ['changed-while-owned', 1],
    ]);
  });

  test('is looked at only where the device reaches it', () => {
    ring(() => model.take(0x10000n, 64));
    bytes[40] = 1;
    model.move(false, 0x10000n, 32);
    expect(host.software.report.findings).toEqual([]);
    model.move(false, 0x10010n, 0x100);
    expect(only('changed-while-owned')).toMatchObject({ iova: 0x10028n, length: 1n });
  });

  test('is no matter where the sanitizer is off', () => {
    using off = Host.open({ backend: 'software', software: { sanitizer: false, deterministic: true } });
    const device = new Device();
    off.software.addDevice(BDF, device);
    using opened = off.attach(BDF);
    opened.device.config.busMaster = true;
    device.take(0x10000n, 16);
    device.give(0x10000n, 16);
    expect([off.software.takeTrace(), off.software.takeFaults()]).toEqual([[], []]);
  });

  test('bad arguments are refused; memory that is not mapped is a fault at once', () => {
    expect(() => model.take(0x10000n, 0)).toThrow('Expected an integer');
    expect(() => model.give(-1n, 8)).toThrow('iova');
    ring(() => model.take(0x20000n, 16));
    only('unmapped');
  });
});

test('memory of a disposed buffer that is mapped twice, and by another buffer: DMA to it is right again', () => {
  const buffer = DmaBuffer.alloc(PAGE);
  const { address } = buffer;
  using _first = user.dma.map(buffer, { iova: 0x10000 });
  using _second = user.dma.map(buffer, { iova: 0x20000 });
  buffer[Symbol.dispose]();
  using again = DmaBuffer.unsafeFromAddress(address, PAGE);
  using _third = user.dma.map(again, { iova: 0x30000 });
  ring(() => model.move(true, 0x30000n, 16));
  expect(host.software.report.findings).toEqual([]);
});

describe('An INTx that nobody hears of', () => {
  test('one that was masked, and not unmasked while the interrupt was enabled', () => {
    const irq = user.device.irq('intx');
    const [line] = irq.enable(1);
    irq.mask();
    const doorbell = ring(() => model.assert(true));
    line[Symbol.dispose]();
    const found = only('lost-interrupt');
    expect(found.message).toContain('INTx was masked, and the device still asserted it, at the end');
    expect(lineOf(found.stacks.doorbell)).toBe(doorbell);
  });

  test('one that was unmasked in time is heard', () => {
    const irq = user.device.irq('intx');
    const [line] = irq.enable(1);
    irq.mask();
    ring(() => model.assert(true));
    irq.unmask();
    expect(line.poll()).toBe(1n);
    ring(() => model.assert(false));
    line[Symbol.dispose]();
    expect(host.software.report.findings).toEqual([]);
  });

  test('one that the pin told before messages were enabled', () => {
    const doorbell = ring(() => model.assert(true));
    expect(host.software.report.findings).toEqual([]);
    user.device.irq('msi').enable(1)[0][Symbol.dispose]();
    const found = only('lost-interrupt');
    expect(found.message).toContain('it came before interrupts were enabled');
    expect(lineOf(found.stacks.doorbell)).toBe(doorbell);
    host.software.report.clear();
    ring(() => model.assert(true));
    ring(() => model.assert(false));
    user.device.irq('msi').enable(1)[0][Symbol.dispose]();
    expect(host.software.report.findings).toEqual([]);
  });
});
