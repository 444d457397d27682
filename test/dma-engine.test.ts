/** The copy engine of vfio/models: descriptors, PASIDs of different address spaces, and pages that are missing. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  DmaBuffer,
  type FaultQueue,
  Host,
  type Interrupt,
  type Ioas,
  type Iommufd,
  type RegisterAccessors,
  type SoftwareHost,
  type VfioDevice,
  view,
} from '../lib/index.ts';
import {
  DmaEngine,
  type DmaEngineOptions,
  dmaEngineDescriptor,
  dmaEngineRegisters,
} from '../lib/models/index.ts';
import { needs } from './support/backends.ts';

needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

const BDF = '0000:00:1c.0';
const D = dmaEngineDescriptor;
const TIMEOUT = { timeout: 5000 };

/** Where a driver has its descriptors, its completions and its data. */
const DESCRIPTORS = 0x100000n;
const COMPLETION = 0x2000n;

interface Copy {
  source: bigint;
  destination: bigint;
  length: number;
  pasid?: number;
  completion?: bigint;
  flags?: number;
  interrupt?: boolean;
}

let host: SoftwareHost;
let model: DmaEngine;
let device: VfioDevice;
let iommufd: Iommufd;
let ioas: Ioas;
let queue: FaultQueue | undefined;
let r: RegisterAccessors<(typeof dmaEngineRegisters)['layout']>;
let interrupts: readonly Interrupt[];
/** The descriptors, at DESCRIPTORS in the space without a PASID. */
let ring: DmaBuffer;

/** A machine with an IOMMU that has PASIDs and page requests, and a driver that has the engine. */
function begin(o: { engine?: DmaEngineOptions; faults?: boolean } = {}): void {
  model = new DmaEngine(o.engine);
  host.software.addDevice(BDF, model);
  iommufd = host.openIommufd();
  device = host.openDevice(BDF);
  device.bind(iommufd);
  ioas = iommufd.allocIoas();
  queue = o.faults ? iommufd.allocFaultQueue() : undefined;
  device.attach(
    iommufd.allocHwpt({ device, parent: ioas, ...(queue ? { faultQueue: queue } : { pasid: true }) }),
  );
  device.config.busMaster = true;
  r = view(device.region('bar0'), dmaEngineRegisters);
  interrupts = device.irq('msix').enable(r.channels.read());
  ring = DmaBuffer.alloc(16384);
  ioas.map(ring, { iova: DESCRIPTORS });
}

/** An address space for a PASID. */
function space(pasid: number): Ioas {
  const own = iommufd.allocIoas();
  device.attach(iommufd.allocHwpt({ device, parent: own, pasid: true }), { pasid });
  return own;
}

/** Writes a descriptor in place `at`. */
function describeCopy(at: number, copy: Copy): bigint {
  const { source, destination, length, pasid, completion, interrupt = true, flags = 0 } = copy;
  const view = new DataView(ring.buffer, at * D.size, D.size);
  view.setBigUint64(0, source, true);
  view.setBigUint64(8, destination, true);
  view.setBigUint64(16, completion ?? 0n, true);
  view.setUint32(24, length, true);
  const wanted = [
    interrupt ? D.interrupt : 0,
    pasid === undefined ? 0 : D.pasid,
    completion === undefined ? 0 : D.completion,
  ];
  view.setUint32(
    28,
    wanted.reduce((sum, each) => sum | each, flags),
    true,
  );
  view.setUint32(32, pasid ?? 0, true);
  return DESCRIPTORS + BigInt(at * D.size);
}

/** Has the engine copy on channel 0, and waits for its interrupt. */
async function copy(what: Copy): Promise<void> {
  r.submit.write(describeCopy(0, what));
  await interrupts[0]!.wait(TIMEOUT);
}

/** The status and the copied bytes of the completion in this memory. */
function completionIn(memory: DmaBuffer): [status: number, copied: bigint] {
  const view = new DataView(memory.buffer, Number(COMPLETION), D.completionSize);
  return [view.getUint32(0, true), view.getBigUint64(8, true)];
}

const pattern = (length: number, seed = 1) =>
  Uint8Array.from({ length }, (_, at) => (at * seed + (at >> 8)) & 0xff);

beforeEach(() => {
  host = Host.open({
    backend: 'software',
    software: {
      topology: {
        iommus: [{ kind: 'vtd', pageRequests: 'pri', pasidBits: 8 }],
        devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
      },
    },
  });
});
afterEach(() => {
  host[Symbol.dispose]();
  ring[Symbol.dispose]();
});

describe('a copy engine', () => {
  test('copies, completes and interrupts, on the channel that was asked', async () => {
    begin({ engine: { channels: 3 } });
    expect([r.channels.read(), r.maxLength.read()]).toEqual([3, 2 ** 24]);
    using memory = DmaBuffer.alloc(0x60000);
    ioas.map(memory, { iova: 0x400000 });
    const bytes = pattern(0x22345, 3);
    memory.write(0x3000, bytes);
    const from = 0x403000n;
    r.submit.write(
      describeCopy(5, { source: from, destination: 0x430001n, length: bytes.length, completion: 0x402000n }),
      2,
    );
    await interrupts[2]!.wait(TIMEOUT);
    expect(memory.bytes.subarray(0x30001, 0x30001 + bytes.length)).toEqual(bytes);
    expect([memory.bytes[0x30000], memory.bytes[0x30001 + bytes.length]]).toEqual([0, 0]);
    expect(completionIn(memory)).toEqual([D.success, BigInt(bytes.length)]);
    expect([0, 1, 2].map((each) => r.completed.read(each))).toEqual([0, 0, 1]);
    expect(interrupts.map((each) => each.poll())).toEqual([0n, 0n, 0n]);
    expect(model.errors).toEqual([]);
  });

  test('works on the descriptors of a channel in their order', async () => {
    begin();
    using memory = DmaBuffer.alloc(0x4000);
    ioas.map(memory, { iova: 0 });
    memory.write(0, pattern(16));
    // Each copies what the one before it has written.
    for (let at = 0; at < 20; at++)
      r.submit.write(
        describeCopy(at, {
          source: BigInt(at * 16),
          destination: BigInt(at * 16 + 16),
          length: 16,
          interrupt: at === 19,
        }),
      );
    await interrupts[0]!.wait(TIMEOUT);
    expect(memory.bytes.subarray(320, 336)).toEqual(pattern(16));
    expect(r.completed.read()).toBe(20);
  });

  test('says what is wrong in the completion', async () => {
    begin({ engine: { maxLength: 0x20000 } });
    using memory = DmaBuffer.alloc(0x20000);
    ioas.map(memory, { iova: 0 });
    const good = { source: 0n, destination: 0x4000n, length: 16, completion: COMPLETION };
    const wrong: [Partial<Copy>, number, bigint][] = [
      [{}, D.success, 16n],
      [{ length: 0 }, D.badDescriptor, 0n],
      [{ length: 0x20001 }, D.badDescriptor, 0n],
      [{ flags: 8 }, D.badDescriptor, 0n],
      [{ source: 2n ** 64n - 15n }, D.badDescriptor, 0n],
      [{ destination: 2n ** 64n - 15n }, D.badDescriptor, 0n],
      [{ source: 0x7000_0000n }, D.sourceFault, 0n],
      [{ destination: 0x7000_0000n }, D.destinationFault, 0n],
      // The second piece of 64 KiB leaves the mapping.
      [{ destination: 0x10000n, length: 0x20000 }, D.destinationFault, 0x10000n],
    ];
    for (const [change, status, copied] of wrong) {
      await copy({ ...good, ...change });
      expect(completionIn(memory), JSON.stringify(Object.keys(change))).toEqual([status, copied]);
    }
    expect(r.channelStatus.read()).toBe(0);
    expect(host.software.takeFaults()).toHaveLength(3);
  });

  test('says that a descriptor or a completion was lost', async () => {
    begin();
    const descriptors = [
      0x7000_0000n,
      DESCRIPTORS + 8n,
      describeCopy(0, {
        source: DESCRIPTORS,
        destination: DESCRIPTORS + 4096n,
        length: 1,
        completion: 0x7000_0000n,
      }),
    ];
    for (const each of descriptors) {
      r.submit.write(each);
      await interrupts[0]!.wait(TIMEOUT);
      expect(r.channelStatus.field('lost')).toBe(1);
      r.channelStatus.write({ lost: 1 });
      expect(r.channelStatus.field('lost')).toBe(0);
    }
    expect(r.completed.read()).toBe(3);
  });

  test('copies in the address space of the PASID that a descriptor names', async () => {
    begin();
    const memories = [3, 200].map((pasid) => {
      const memory = DmaBuffer.alloc(0x4000);
      space(pasid).map(memory, { iova: 0 });
      memory.write(0, pattern(100, pasid));
      return memory;
    });
    const [three, twoHundred] = memories as [DmaBuffer, DmaBuffer];
    for (const pasid of [3, 200])
      await copy({ source: 0n, destination: 0x1000n, length: 100, completion: COMPLETION, pasid });
    expect(three.bytes.subarray(0x1000, 0x1064)).toEqual(pattern(100, 3));
    expect(twoHundred.bytes.subarray(0x1000, 0x1064)).toEqual(pattern(100, 200));
    expect(memories.map(completionIn)).toEqual([
      [D.success, 100n],
      [D.success, 100n],
    ]);
    expect(host.software.takeFaults()).toEqual([]);
    // A PASID that has no address space, and one that is too wide for the engine.
    await copy({ source: 0n, destination: 0x1000n, length: 100, pasid: 4 });
    expect(host.software.takeFaults()).toHaveLength(1);
    await copy({ source: 0n, destination: 0x1000n, length: 1, pasid: 256, completion: DESCRIPTORS + 4096n });
    expect(ring.bytes[4096]).toBe(D.badDescriptor);
    for (const each of memories) each[Symbol.dispose]();
  });

  test('takes descriptors from the address space of the PASID that a channel has', async () => {
    begin();
    using memory = DmaBuffer.alloc(0x4000);
    space(3).map(memory, { iova: 0 });
    memory.write(0x1000, pattern(100));
    // The descriptor is in that space too, at 0x3000; with no PASID, nothing is mapped there.
    describeCopy(0, { source: 0x1000n, destination: 0x800n, length: 100, completion: COMPLETION });
    memory.write(0x3000, ring.bytes.subarray(0, D.size));
    r.channelPasid.write({ pasid: 3, enable: 1 });
    r.submit.write(0x3000n);
    await interrupts[0]!.wait(TIMEOUT);
    expect(completionIn(memory)).toEqual([D.success, 100n]);
    expect(memory.bytes.subarray(0x800, 0x864)).toEqual(pattern(100));
    expect(r.channelStatus.field('lost')).toBe(0);
    // One that the engine can't send, and one that is not enabled.
    for (const wrong of [
      { pasid: 256, enable: 1 },
      { pasid: 3, enable: 0 },
    ]) {
      r.channelPasid.write(wrong);
      r.submit.write(0x3000n);
      await interrupts[0]!.wait(TIMEOUT);
      expect(r.channelStatus.field('lost')).toBe(1);
      r.channelStatus.write({ lost: 1 });
    }
  });

  test('waits for a page that is missing, and another channel goes on meanwhile', async () => {
    begin({ faults: true });
    using memory = DmaBuffer.alloc(0x4000);
    memory.write(0, pattern(64, 5));
    r.submit.write(describeCopy(0, { source: 0x400000n, destination: 0x401000n, length: 64 }), 0);
    const fault = await queue!.wait(TIMEOUT);
    expect(fault).toMatchObject({ address: 0x400000n, access: { read: true, write: false } });
    r.submit.write(describeCopy(1, { source: DESCRIPTORS, destination: DESCRIPTORS + 4096n, length: 8 }), 1);
    await interrupts[1]!.wait(TIMEOUT);
    expect([r.completed.read(0), r.completed.read(1)]).toEqual([0, 1]);
    ioas.map(memory, { iova: 0x400000 });
    queue!.respond(fault, 'success');
    await interrupts[0]!.wait(TIMEOUT);
    expect(memory.bytes.subarray(0x1000, 0x1040)).toEqual(pattern(64, 5));
    expect(host.software.takeFaults()).toEqual([]);
  });

  test('completes with a fault if the page is refused', async () => {
    begin({ faults: true });
    r.submit.write(
      describeCopy(0, {
        source: 0x400000n,
        destination: DESCRIPTORS,
        length: 64,
        completion: DESCRIPTORS + 4096n,
      }),
    );
    queue!.respond(await queue!.wait(TIMEOUT), 'invalid');
    await interrupts[0]!.wait(TIMEOUT);
    expect(ring.bytes[4096]).toBe(D.sourceFault);
  });

  test('drops what it was asked for at a reset, and works on', async () => {
    begin({ faults: true });
    const waits = describeCopy(0, {
      source: 0x400000n,
      destination: 0x401000n,
      length: 64,
      completion: DESCRIPTORS + 4096n,
    });
    const next = describeCopy(1, { source: DESCRIPTORS, destination: DESCRIPTORS + 8192n, length: 8 });
    r.submit.write(waits);
    r.submit.write(next);
    await queue!.wait(TIMEOUT);
    await device.reset();
    await host.software.settle();
    expect([r.completed.read(), ring.bytes[4096], ring.bytes[8192 + 2]]).toEqual([0, 0, 0]);
    device.config.busMaster = true;
    interrupts = device.irq('msix').enable(2);
    r.submit.write(next);
    await interrupts[0]!.wait(TIMEOUT);
    expect([r.completed.read(), ring.bytes[8192 + 2]]).toEqual([1, ring.bytes[2]]);
    expect(model.errors).toEqual([]);
  });

  test('takes stores of 8 bytes alone to its doorbells', async () => {
    begin();
    const at = dmaEngineRegisters.layout.submit.offset;
    device.region('bar0').write32(at, 0x100000);
    await host.software.settle();
    expect([r.completed.read(), r.channelStatus.read()]).toEqual([0, 0]);
  });

  test('refuses wrong options', () => {
    ring = DmaBuffer.alloc(4096);
    expect(() => new DmaEngine({ channels: 9 })).toThrow(/for channels/);
    expect(() => new DmaEngine({ maxLength: 0 })).toThrow(/for maxLength/);
    expect(() => new DmaEngine({ pasidBits: 21 })).toThrow(/for pasidBits/);
    // @ts-expect-error: no such option
    expect(() => new DmaEngine({ queues: 1 })).toThrow(/queues/);
  });
});
