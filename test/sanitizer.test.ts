/** The DMA sanitizer of the software host: each mistake is found once, with the lines that led to it. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  DmaBuffer,
  DmaError,
  type DmaFinding,
  Host,
  Iommufd,
  SimulatedDevice,
  type SoftwareHost,
  type UserDevice,
} from '../lib/index.ts';
import { needs } from './support/backends.ts';
import { BUFFER, Reg, startJob } from './support/edu.ts';

needs({ backends: ['software'], because: 'only the software host has a sanitizer' });

const BDF = '0000:00:1c.0';
const OTHER = '0000:00:1d.0';
const PAGE = 4096;

/** Does at a doorbell what its test says. */
class Device extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
  override readonly bars = [{ size: 4096 }];
  override readonly msi = 2;
  override readonly express = true;
  override readonly functionReset = true;
  work: () => void = () => {};
  /** Errors that the device saw on the bus. */
  failed = 0;
  override onWrite(): void {
    this.work();
  }
  move(write: boolean, iova: bigint, length = 8, pasid?: number): void {
    try {
      const o = pasid === undefined ? {} : { pasid };
      if (write) this.dmaWrite(iova, new Uint8Array(length), o);
      else this.dmaRead(iova, new Uint8Array(length), o);
    } catch (error) {
      if (!(error instanceof DmaError)) throw error;
      this.failed++;
    }
  }
  raise(vector: number): boolean {
    return this.interrupt(vector);
  }
}

/** The line of this file that a stack names first. */
function lineOf(stack: string | undefined): number {
  const found = /sanitizer\.test\.ts:(\d+)/.exec(stack?.split('\n')[0] ?? '');
  if (found === null) throw new Error(`no line of this file in ${stack}`);
  return Number(found[1]);
}

/** The line from which it is called. */
function here(): number {
  return lineOf(new Error().stack?.split('\n')[2]);
}

function only<K extends DmaFinding['kind']>(host: SoftwareHost, kind: K): DmaFinding & { kind: K } {
  const { findings } = host.software.report;
  expect(findings.map((each) => each.kind)).toEqual([kind]);
  return findings[0] as DmaFinding & { kind: K };
}

let host: SoftwareHost;
let model: Device;
let user: UserDevice;

function plug(bdf: string): { model: Device; user: UserDevice } {
  const made = new Device();
  host.software.addDevice(bdf, made);
  const opened = host.attach(bdf);
  opened.device.config.busMaster = true;
  return { model: made, user: opened };
}

beforeEach(() => {
  host = Host.open({ backend: 'software' });
  ({ model, user } = plug(BDF));
});

afterEach(() => {
  user[Symbol.dispose]();
  host[Symbol.dispose]();
});

/** Rings the doorbell of a device, which then does this. */
function ring(what: () => void, device = { model, user }): number {
  device.model.work = what;
  device.user.device.region('bar0').write32(0, 1);
  return here() - 1;
}

describe('Accesses of a device', () => {
  test('to memory that was unmapped: where it was mapped, unmapped, and the doorbell', () => {
    using buffer = DmaBuffer.alloc(2 * PAGE);
    const mapping = user.dma.map(buffer, { iova: 0x10000 });
    const mapped = here() - 1;
    mapping[Symbol.dispose]();
    const unmapped = here() - 1;
    const doorbell = ring(() => model.move(true, 0x10010n));
    const found = only(host, 'use-after-unmap');
    expect(found).toMatchObject({
      device: BDF,
      iova: 0x10010n,
      length: 8n,
      write: true,
      pasid: null,
      mapping: { iova: 0x10000n, length: 8192n },
      count: 1,
    });
    expect(lineOf(found.stacks.map)).toBe(mapped);
    expect(lineOf(found.stacks.unmap)).toBe(unmapped);
    expect(lineOf(found.stacks.doorbell)).toBe(doorbell);
    expect(found.message).toContain('byte 16 of [0x10000, 0x11fff], which was unmapped before');
  });

  test('by unmap of a range, and by unmapAll', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    user.dma.map(buffer, { iova: 0x10000 });
    user.dma.unmap(0x10000, PAGE);
    const first = here() - 1;
    user.dma.map(buffer, { iova: 0x20000 });
    user.dma.unmapAll();
    const second = here() - 1;
    ring(() => {
      model.move(true, 0x10000n);
      model.move(false, 0x20000n);
    });
    const { findings } = host.software.report;
    expect(findings.map((each) => lineOf(each.stacks.unmap))).toEqual([first, second]);
  });

  test('of a container of type1', () => {
    user[Symbol.dispose]();
    user = host.attach(BDF, { via: 'group-type1' });
    user.device.config.busMaster = true;
    using buffer = DmaBuffer.alloc(PAGE);
    using _kept = user.dma.map(buffer, { iova: 0x40000 });
    user.dma.map(buffer, { iova: 0x10000 });
    user.dma.unmap(0x10000, PAGE);
    const unmapped = here() - 1;
    ring(() => model.move(true, 0x10000n));
    expect(lineOf(only(host, 'use-after-unmap').stacks.unmap)).toBe(unmapped);
  });

  test('in a space that another handle of the descriptor has mapped: found, without the stacks', () => {
    const { iommufd } = user.device;
    if (iommufd === null) throw new Error('not bound');
    using other = Iommufd.fromFd(iommufd.fd);
    const ioas = other.allocIoas();
    user.device.attach(ioas);
    using buffer = DmaBuffer.alloc(PAGE);
    ioas.map(buffer, { iova: 0x10000 })[Symbol.dispose]();
    const doorbell = ring(() => model.move(true, 0x10000n));
    const { stacks } = only(host, 'unmapped');
    expect(Object.keys(stacks)).toEqual(['doorbell']);
    expect(lineOf(stacks.doorbell)).toBe(doorbell);
    user.device.detach();
  });

  test('by mapAsync: where the program asked for it', async () => {
    using buffer = DmaBuffer.alloc(PAGE);
    const mapping = await user.dma.mapAsync(buffer, { iova: 0x10000 });
    const mapped = here() - 1;
    mapping[Symbol.dispose]();
    ring(() => model.move(true, 0x10000n));
    expect(lineOf(only(host, 'use-after-unmap').stacks.map)).toBe(mapped);
  });

  test('the same cause is one finding, with a count; a mapping that is there again is none', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    for (let i = 0; i < 5; i++) {
      user.dma.map(buffer, { iova: 0x10000 })[Symbol.dispose]();
      ring(() => model.move(true, 0x10000n));
    }
    expect(only(host, 'use-after-unmap').count).toBe(5);
    host.software.report.clear();
    using _again = user.dma.map(buffer, { iova: 0x10000 });
    ring(() => model.move(true, 0x10000n));
    expect(host.software.report.findings).toEqual([]);
  });

  test('what happened first is judged by what was mapped then, however late the report is read', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    ring(() => model.move(true, 0x10000n));
    user.dma.map(buffer, { iova: 0x10000 })[Symbol.dispose]();
    only(host, 'unmapped');
  });

  test('behind the end of a ring: how far, and the mapping', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    using _mapping = user.dma.map(buffer, { iova: 0x10000 });
    const mapped = here() - 1;
    const doorbell = ring(() => {
      model.move(false, 0x10ff8n, 16);
      model.move(false, 0x11008n);
      model.move(false, 0xff00n);
    });
    const { findings } = host.software.report;
    expect(findings.map(({ kind, count }) => [kind, count])).toEqual([['unmapped', 3]]);
    const [found] = findings;
    expect(found?.message).toContain('right behind the end of [0x10000, 0x10fff]');
    expect(found).toMatchObject({ iova: 0x11000n, length: 8n, nearest: [{ iova: 0x10000n, length: 4096n }] });
    expect(lineOf(found?.stacks.map)).toBe(mapped);
    expect(lineOf(found?.stacks.doorbell)).toBe(doorbell);
  });

  test('an IOVA without its upper half: said as possible only', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    using _mapping = user.dma.map(buffer, { iova: 0x5_0001_0000n });
    ring(() => model.move(false, 0x10008n));
    expect(only(host, 'unmapped').message).toContain(
      'possible: the IOVA lacks its upper 32 bits (0x500010008 is mapped)',
    );
  });

  test('against the permission', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    using _mapping = user.dma.map(buffer, { iova: 0x10000, write: false });
    const mapped = here() - 1;
    ring(() => model.move(true, 0x10000n));
    const found = only(host, 'permission');
    expect(found.message).toContain('mapped without write');
    expect(lineOf(found.stacks.map)).toBe(mapped);
  });

  test('to a buffer that was disposed while it was mapped; none once it is unmapped', () => {
    const buffer = DmaBuffer.alloc(PAGE);
    const mapping = user.dma.map(buffer, { iova: 0x10000 });
    buffer[Symbol.dispose]();
    const disposed = here() - 1;
    const doorbell = ring(() => model.move(true, 0x10100n));
    const found = only(host, 'disposed-buffer');
    expect(found).toMatchObject({ iova: 0x10100n, mapping: { iova: 0x10000n, length: 4096n } });
    expect(lineOf(found.stacks.dispose)).toBe(disposed);
    expect(lineOf(found.stacks.doorbell)).toBe(doorbell);
    expect(model.failed).toBe(0);
    mapping[Symbol.dispose]();
    host.software.report.clear();
    // The process may give the same addresses to these.
    const buffers = Array.from({ length: 8 }, () => DmaBuffer.alloc(PAGE));
    const mappings = buffers.map((each) => user.dma.map(each));
    ring(() => {
      for (const each of mappings) model.move(true, each.iova);
    });
    expect(host.software.report.findings).toEqual([]);
    for (const each of [...mappings, ...buffers]) each[Symbol.dispose]();
  });

  test('with a PASID that is not attached, and without an address space', () => {
    ring(() => model.move(true, 0x10000n, 8, 5));
    expect(only(host, 'not-attached')).toMatchObject({ pasid: 5, device: BDF });
    host.software.report.clear();
    user.device.detach();
    const detached = here() - 1;
    ring(() => model.move(true, 0x10000n));
    expect(lineOf(only(host, 'not-attached').stacks.unmap)).toBe(detached);
  });

  test('while bus mastering is off', () => {
    user.device.config.busMaster = false;
    const doorbell = ring(() => model.move(true, 0x10000n));
    expect(lineOf(only(host, 'bus-master').stacks.doorbell)).toBe(doorbell);
  });

  test('after a reset, before the driver has told the device anything', async () => {
    using buffer = DmaBuffer.alloc(PAGE);
    using _mapping = user.dma.map(buffer, { iova: 0x10000 });
    ring(() => {});
    const reset = user.device.reset();
    const line = here() - 1;
    await reset;
    model.move(true, 0x10000n);
    expect(lineOf(only(host, 'after-reset').stacks.reset)).toBe(line);
    host.software.report.clear();
    ring(() => {});
    model.move(true, 0x10000n);
    expect(host.software.report.findings).toEqual([]);
  });

  test('at a doorbell that is the first store after a reset, to where nothing is mapped', async () => {
    ring(() => {});
    const reset = user.device.reset();
    const line = here() - 1;
    await reset;
    ring(() => model.move(false, 0n));
    const found = only(host, 'unmapped');
    expect(found.message).toContain('possible: the device was not set up again after its reset');
    expect(lineOf(found.stacks.reset)).toBe(line);
    host.software.report.clear();
    ring(() => model.move(false, 0n));
    expect(only(host, 'unmapped').stacks.reset).toBeUndefined();
  });

  test('of two devices to the same memory at once; one after the other is none', () => {
    const second = plug(OTHER);
    using buffer = DmaBuffer.alloc(PAGE);
    using _one = user.dma.map(buffer, { iova: 0x10000 });
    using _other = second.user.dma.map(buffer, { iova: 0x20000 });
    ring(() => model.move(true, 0x10000n, 64));
    ring(() => second.model.move(true, 0x20020n, 64), second);
    expect(host.software.report.findings).toEqual([]);
    ring(() => model.move(true, 0x10000n, 64));
    second.model.move(true, 0x20020n, 64);
    expect(only(host, 'overlapping-writes')).toMatchObject({ device: OTHER, other: BDF, iova: 0x20020n });
    second.user[Symbol.dispose]();
  });

  test("of two devices to the same memory, but the first one can't write there any more: none", () => {
    const second = plug(OTHER);
    using buffer = DmaBuffer.alloc(PAGE);
    using _other = second.user.dma.map(buffer, { iova: 0x20000 });
    const ends: Record<string, (space: typeof user.dma) => void> = {
      unmap: (space) => void space.unmap(0x10000, PAGE),
      detach: () => user.device.detach(),
    };
    for (const [name, end] of Object.entries(ends)) {
      const mapping = user.dma.map(buffer, { iova: 0x10000 });
      ring(() => second.model.move(true, 0x20000n), second);
      ring(() => model.move(true, 0x10000n));
      end(user.dma);
      second.model.move(true, 0x20000n);
      expect(host.software.report.findings, name).toEqual([]);
      if (name === 'unmap') mapping[Symbol.dispose]();
    }
    second.user[Symbol.dispose]();
  });
});

describe('Interrupts that nobody hears of', () => {
  test('a vector without an eventfd, and interrupts that were disabled', () => {
    const [first, second] = user.device.irq('msi').enable(2);
    second[Symbol.dispose]();
    ring(() => model.raise(1));
    expect(only(host, 'lost-interrupt')).toMatchObject({ device: BDF, vector: 1 });
    host.software.report.clear();
    first[Symbol.dispose]();
    const doorbell = ring(() => model.raise(0));
    const found = only(host, 'lost-interrupt');
    expect(found.message).toContain('interrupts were disabled');
    expect(lineOf(found.stacks.doorbell)).toBe(doorbell);
  });

  test('one that came before they were enabled; a driver that only polls is told nothing', () => {
    ring(() => model.raise(0));
    expect(host.software.report.findings).toEqual([]);
    const [interrupt] = user.device.irq('msi').enable(1);
    expect(only(host, 'lost-interrupt').message).toContain('it came before interrupts were enabled');
    interrupt[Symbol.dispose]();
  });
});

describe('What the driver does with its handles', () => {
  test('registers touched after they were disposed, by both ways', () => {
    const bar = user.device.region('bar0');
    const mapped = bar.mmap();
    mapped[Symbol.dispose]();
    const disposed = here() - 1;
    expect(() => mapped.write32(0, 1)).toThrow('The MappedRegion was used after it was disposed');
    const call = here() - 1;
    user[Symbol.dispose]();
    expect(() => bar.write32(0, 1)).toThrow('was used after it was disposed');
    const { findings } = host.software.report;
    expect(findings.map(({ kind, device }) => [kind, device])).toEqual([
      ['use-after-dispose', BDF],
      ['use-after-dispose', BDF],
    ]);
    expect(lineOf(findings[0]?.stacks.call)).toBe(call);
    expect(lineOf(findings[0]?.stacks.dispose)).toBe(disposed);
  });

  test('a range that is unmapped twice', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    user.dma.map(buffer, { iova: 0x10000 });
    user.dma.unmap(0x10000, PAGE);
    const first = here() - 1;
    expect(() => user.dma.unmap(0x10000, PAGE)).toThrow('ENOENT');
    expect(lineOf(only(host, 'double-unmap').stacks.unmap)).toBe(first);
  });

  test('an unmap that fails leaves what is mapped known', () => {
    using buffer = DmaBuffer.alloc(2 * PAGE);
    using _mapping = user.dma.map(buffer, { iova: 0x10000 });
    expect(() => user.dma.unmap(0x10000, PAGE)).toThrow('ENOENT');
    ring(() => model.move(true, 0x12000n));
    expect(only(host, 'unmapped').message).toContain('right behind the end of [0x10000, 0x11fff]');
  });

  test('what is left when a device and its address space end', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    user.dma.map(buffer, { iova: 0x10000 });
    const mapped = here() - 1;
    user.device.region('bar0').mmap();
    const region = here() - 1;
    user.device.irq('msi').enable(1);
    user[Symbol.dispose]();
    const { findings } = host.software.report;
    expect(findings.map((each) => each.kind)).toEqual(['left-at-close', 'left-at-close', 'left-at-close']);
    const of = (text: string) => findings.find(({ message }) => message.includes(text));
    expect(lineOf(of('the MappedRegion')?.stacks.map)).toBe(region);
    expect(of('the Interrupt')?.device).toBe(BDF);
    expect(lineOf(of('[0x10000, 0x10fff] was still mapped')?.stacks.map)).toBe(mapped);
  });

  test('what is left when the host is closed is in its report afterwards', () => {
    const { report } = host.software;
    host[Symbol.dispose]();
    expect(report.findings.map(({ message }) => message)).toEqual([
      'the Iommufd was not disposed before the Host was',
      'the Ioas was not disposed before the Host was',
      `the VfioDevice ${BDF} was not disposed before the Host was`,
    ]);
  });
});

describe('A store to a register that is stored to very often', () => {
  const EARLIER = '(an earlier store to the same register: not each one takes a stack)';
  const last = (stack: string | undefined) => stack?.split('\n').at(-1);

  test('has its own stack 256 times and then each 32nd time; else it has that of an earlier store, and says so', () => {
    const region = user.device.region('bar0');
    using mapped = region.mmap();
    const own: number[] = [];
    for (let store = 1; store <= 400; store++) {
      host.software.report.clear();
      model.work = () => model.move(true, 0x10000n);
      // Two lines that store to the same register, by turns.
      if (store % 2 === 0) mapped.write32(0, store);
      else region.write32(0, store);
      const even = here() - 2;
      const { doorbell } = only(host, 'unmapped').stacks;
      if (last(doorbell) === EARLIER) continue;
      own.push(store);
      expect(lineOf(doorbell)).toBe(store % 2 === 0 ? even : even + 1);
    }
    const all = Array.from({ length: 256 }, (_, at) => at + 1);
    expect(own).toEqual([...all, 257, 289, 321, 353, 385]);
  });

  test('does not take the stacks of stores to other registers, and is the same cause as a store with a stack', () => {
    using mapped = user.device.region('bar0').mmap();
    for (let store = 0; store < 400; store++) {
      model.work = () => model.move(true, 0x10000n);
      mapped.write32(8, store);
      expect(only(host, 'unmapped').count).toBe(store + 1);
    }
    const often = here() - 3;
    expect(lineOf(only(host, 'unmapped').stacks.doorbell)).toBe(often);
    host.software.report.clear();
    mapped.write32(12, 1);
    const { doorbell } = only(host, 'unmapped').stacks;
    expect(lineOf(doorbell)).toBe(here() - 2);
    expect(last(doorbell)).not.toBe(EARLIER);
  });
});

describe('The report', () => {
  test('the C++ edu device, on the engine, is in it when settle() resolves', async () => {
    using job = await startJob(host);
    using buffer = DmaBuffer.alloc(PAGE);
    job.dma.map(buffer, { iova: 0x10000 })[Symbol.dispose]();
    const unmapped = here() - 1;
    job.edu.registers.write64(Reg.source, BUFFER);
    job.edu.registers.write64(Reg.destination, 0x10000n);
    job.edu.registers.write64(Reg.count, 8n);
    job.edu.registers.write64(Reg.command, 3);
    const doorbell = here() - 1;
    await host.software.settle();
    const found = only(host, 'use-after-unmap');
    expect(found.device).toBe('0000:00:10.0');
    expect(lineOf(found.stacks.unmap)).toBe(unmapped);
    expect(lineOf(found.stacks.doorbell)).toBe(doorbell);
  });

  test('a clean driver has none', async () => {
    const { report } = host.software;
    {
      using job = await startJob(host);
      using interrupt = job.msi();
      using buffer = DmaBuffer.alloc(PAGE);
      using mapping = job.dma.map(buffer);
      for (let i = 0; i < 20; i++) {
        job.edu.start(BUFFER, mapping.iova, 64, true, true);
        await interrupt.wait({ timeout: 10_000 });
        job.edu.registers.write32(Reg.acknowledge, 0xffffffff);
        await job.edu.idle();
      }
    }
    user[Symbol.dispose]();
    host[Symbol.dispose]();
    expect(report.findings).toEqual([]);
    expect(report.toString()).toBe('');
    expect(report.dropped).toBe(0);
  });

  test('its text has the places', () => {
    using buffer = DmaBuffer.alloc(PAGE);
    user.dma.map(buffer, { iova: 0x10000 })[Symbol.dispose]();
    ring(() => model.move(true, 0x10000n));
    const text = host.software.report.toString();
    expect(text).toMatch(/^1 mistake with DMA:\n1\. use-after-unmap: 0000:00:1c\.0 tried to write 8 bytes/);
    expect(text).toMatch(/\n {3}unmapped\n {5}at .*sanitizer\.test\.ts:\d+:\d+/);
  });

  test('a device in a loop fills no memory', () => {
    ring(() => {
      for (let i = 0; i < 5000; i++) model.move(true, BigInt(i) * 0x1000n);
    });
    const { report } = host.software;
    expect(report.dropped).toBe(5000 - 1024);
    expect(report.findings.length).toBe(1);
  });

  test("a program's own Error.prepareStackTrace that throws hides no place", () => {
    const before = Error.prepareStackTrace;
    try {
      Error.prepareStackTrace = () => {
        throw new Error('mine');
      };
      using buffer = DmaBuffer.alloc(PAGE);
      user.dma.map(buffer, { iova: 0x10000 })[Symbol.dispose]();
      model.work = () => model.move(true, 0x10000n);
      user.device.region('bar0').write32(0, 1);
      expect(only(host, 'use-after-unmap').stacks.unmap).toMatch(/sanitizer\.test\.ts:\d+:\d+/);
    } finally {
      Error.prepareStackTrace = before;
    }
  });

  test('is empty where the sanitizer is off', () => {
    using off = Host.open({ backend: 'software', software: { sanitizer: false } });
    const device = new Device();
    off.software.addDevice(BDF, device);
    using opened = off.attach(BDF);
    device.work = () => device.move(true, 0x10000n);
    opened.device.region('bar0').write32(0, 1);
    expect(device.failed).toBe(1);
    const { report } = off.software;
    expect([report.enabled, report.findings, report.dropped, String(report)]).toEqual([false, [], 0, '']);
    expect(off.software.takeFaults()).toHaveLength(1);
  });

  test('an option that is no boolean is refused', () => {
    expect(() => Host.open({ backend: 'software', software: { sanitizer: 1 as never } })).toThrow(
      'software.sanitizer',
    );
  });
});
