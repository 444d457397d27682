/** Faults that are injected into the software host: calls that fail, and devices that misbehave. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DmaBuffer, Host, SimulatedDevice, type SoftwareHost, VfioError } from '../lib/index.ts';
import { EDU, needs } from './support/backends.ts';
import { BUFFER, Edu } from './support/edu.ts';
import { bound, machine } from './support/iommu.ts';

needs({ backends: ['software'], because: 'a real kernel fails when it wants to' });

let host: SoftwareHost;
beforeEach(() => {
  host = Host.open({ backend: 'software' });
});
afterEach(() => host[Symbol.dispose]());

/** The code of the error that a call throws; null: none. */
function codeOf(call: () => unknown): string | null {
  try {
    call();
    return null;
  } catch (error) {
    if (error instanceof VfioError) return error.code;
    throw error;
  }
}

describe('a call of the kernel', () => {
  test('the nth one of its name fails with the code, and the others do not', () => {
    using iommufd = host.openIommufd();
    using fault = host.software.injectFault({ request: 'IOMMU_IOAS_ALLOC', nth: 2, code: 'ENOSPC' });
    const codes = [1, 2, 3, 4].map(() => codeOf(() => iommufd.allocIoas()[Symbol.dispose]()));
    expect(codes).toEqual([null, 'ENOSPC', null, null]);
    expect(fault.strikes.map(({ what }) => what)).toEqual(['IOMMU_IOAS_ALLOC']);
    expect(fault.strikes[0]?.stack).toContain('fault-injection.test.ts');
  });

  test('without nth each one fails, until the fault is disposed', () => {
    const fault = host.software.injectFault({ request: 'open', code: 'EMFILE' });
    expect([1, 2].map(() => codeOf(() => host.openIommufd()))).toEqual(['EMFILE', 'EMFILE']);
    fault[Symbol.dispose]();
    fault[Symbol.dispose]();
    expect(codeOf(() => host.openIommufd()[Symbol.dispose]())).toBeNull();
    expect(fault.strikes.length).toBe(2);
  });

  test('nothing of it is done: a map that failed can be made at the same place', () => {
    using iommufd = host.openIommufd();
    using ioas = iommufd.allocIoas();
    using memory = DmaBuffer.alloc(4096);
    {
      using _fault = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'ENOMEM' });
      expect(codeOf(() => ioas.map(memory, { iova: 0x10000 }))).toBe('ENOMEM');
    }
    using mapping = ioas.map(memory, { iova: 0x10000 });
    expect(mapping.iova).toBe(0x10000n);
  });

  test('mapAsync fails too, and its strike has no stack', async () => {
    using iommufd = host.openIommufd();
    using ioas = iommufd.allocIoas();
    using memory = DmaBuffer.alloc(4096);
    using fault = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', nth: 1, code: 'ENOMEM' });
    await expect(ioas.mapAsync(memory)).rejects.toMatchObject({ code: 'ENOMEM', request: 'IOMMU_IOAS_MAP' });
    expect(fault.strikes).toEqual([{ what: 'IOMMU_IOAS_MAP', stack: null }]);
  });

  test('eventfd, mmap and pread of a device fail by their names, and it works afterwards', async () => {
    await host.device(EDU).bind();
    using user = host.attach(EDU);
    const { device } = user;
    for (const [request, call] of [
      ['eventfd', () => device.irq('msi').enable(1)],
      ['VFIO_DEVICE_SET_IRQS', () => device.irq('msi').enable(1)],
      ['mmap', () => device.region('bar0').mmap()],
      ['pread', () => device.config.vendor],
      ['ioctl', () => device.irq('msi').enable(1)],
    ] as const) {
      using _fault = host.software.injectFault({ request, nth: 1, code: 'ENOMEM' });
      expect([request, codeOf(call)]).toEqual([request, 'ENOMEM']);
    }
    const [interrupt] = device.irq('msi').enable(1);
    interrupt?.[Symbol.dispose]();
    using registers = device.region('bar0').mmap();
    expect(registers.read32(0)).toBe(0x010000ed);
  });

  test('a probability follows from the seed of the host', () => {
    const pattern = (seed: number) => {
      using other = Host.open({ backend: 'software', software: { seed } });
      using iommufd = other.openIommufd();
      using _fault = other.software.injectFault({
        request: 'IOMMU_IOAS_ALLOC',
        probability: 0.5,
        code: 'ENOMEM',
      });
      return Array.from(
        { length: 64 },
        () => codeOf(() => iommufd.allocIoas()[Symbol.dispose]()) ?? '-',
      ).join();
    };
    expect(pattern(7)).toBe(pattern(7));
    expect(pattern(7)).not.toBe(pattern(8));
    const failed = pattern(7).split('ENOMEM').length - 1;
    expect(failed).toBeGreaterThan(16);
    expect(failed).toBeLessThan(48);
  });

  test('with the code null each one is listed, and none fails', () => {
    using watch = host.software.injectFault({ code: null });
    using iommufd = host.openIommufd();
    iommufd.allocIoas()[Symbol.dispose]();
    expect(watch.strikes.map(({ what }) => what)).toEqual(
      expect.arrayContaining(['open', 'IOMMU_IOAS_ALLOC']),
    );
    expect(watch.strikes.map(({ what }) => what)).not.toContain('IOMMU_DESTROY');
  });

  test('faults of one host do not strike another one', () => {
    using other = Host.open({ backend: 'software' });
    using _fault = host.software.injectFault({ code: 'ENOMEM' });
    expect(codeOf(() => other.openIommufd()[Symbol.dispose]())).toBeNull();
    expect(codeOf(() => host.openIommufd())).toBe('ENOMEM');
  });

  test.each([
    [
      { code: 'ENOMEM', request: 'IOMMU_IOAS_MAPP' },
      /^Expected 'open', .* for request but received 'IOMMU_IOAS_MAPP'$/,
    ],
    [{ code: 'ENOMEM', request: 'close' }, /^Expected 'open', .* for request but received 'close'$/],
    [{ code: 'ENOMEM', request: '' }, /^Expected the name of a call for request/],
    [{ code: 'ENOMEN' }, /^Expected the name of an error such as 'ENOMEM' for code but received 'ENOMEN'/],
    [{ code: 'ENOMEM', nth: 0 }, /^Expected an integer from 1 to \d+ for nth but received 0/],
    [{ code: 'ENOMEM', nth: 1, probability: 0.5 }, /^Expected not both 'nth' and 'probability' for fault/],
    [{ code: 'ENOMEM', probability: 2 }, /^Expected a number from 0 to 1 for probability but received 2/],
    [
      { code: 'ENOMEM', dma: 'dropped' },
      /^Expected one of 'code', 'interrupt', 'dma' and 'pageRequest' for fault/,
    ],
    [{}, /^Expected one of 'code', 'interrupt', 'dma' and 'pageRequest' for fault/],
    [undefined, /^Expected a plain object for fault but received undefined/],
    [{ interrupt: 'late' }, /^Expected 'lost' or 'delayed' or 'doubled' or 'reordered' for interrupt/],
    [{ interrupt: 'lost', delay: 1 }, /^Expected only .* for fault but received 'delay'/],
    [{ dma: 'delayed', delay: -1 }, /^Expected an integer from 0 to 86400000 for delay/],
    [{ dma: 'delayed', device: 'edu' }, /^Expected a PCI address .* for device but received 'edu'/],
    [{ pageRequest: 'loud' }, /^Expected 'silent' for pageRequest/],
  ])('%j is refused', (fault, message) => {
    expect(() => host.software.injectFault(fault as never)).toThrow(message);
  });
});

/** Writes 4 bytes to memory, reads them back, and raises vectors: as its registers say. */
class Writer extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
  override readonly msix = 4;
  override readonly bars = [{ size: 8192 }];
  readonly back = new Uint8Array(4);
  override onWrite(_bar: number, offset: number, _width: number, value: bigint | number): void {
    if (offset === 0) this.interrupt(Number(value));
    if (offset === 4) this.dmaWrite(Number(value), Uint8Array.of(1, 2, 3, 4));
    if (offset === 8) this.dmaRead(Number(value), this.back);
  }
}

describe('a device', () => {
  const BDF = '0000:00:1c.0';

  test('loses, doubles, delays and reorders its messages', async () => {
    host.software.addDevice(BDF, new Writer());
    using user = host.attach(BDF);
    user.device.config.busMaster = true;
    const [first, second] = user.device.irq('msix').enable(2);
    using registers = user.device.region('bar0').mmap();
    const seen = () => [first?.poll(), second?.poll()].map(Number);
    if (first === undefined || second === undefined) throw new Error('two vectors were enabled');
    {
      using fault = host.software.injectFault({ interrupt: 'lost', device: BDF, nth: 1 });
      registers.write32(0, 0);
      registers.write32(0, 1);
      expect(seen()).toEqual([0, 1]);
      expect(fault.strikes).toEqual([{ what: 'interrupt', stack: null }]);
    }
    {
      using _fault = host.software.injectFault({ interrupt: 'doubled', nth: 1 });
      registers.write32(0, 0);
      registers.write32(0, 1);
      expect(seen()).toEqual([2, 1]);
    }
    {
      using _fault = host.software.injectFault({ interrupt: 'delayed', nth: 1, delay: 20 });
      registers.write32(0, 0);
      expect(seen()).toEqual([0, 0]);
      await host.software.settle();
      expect(seen()).toEqual([1, 0]);
    }
    {
      using _fault = host.software.injectFault({ interrupt: 'reordered', nth: 1, delay: 86_400_000 });
      registers.write32(0, 0);
      expect(seen()).toEqual([0, 0]);
      registers.write32(0, 1);
      expect(seen()).toEqual([1, 1]);
    }
    {
      using _fault = host.software.injectFault({ interrupt: 'lost', device: EDU });
      registers.write32(0, 0);
      expect(seen()).toEqual([1, 0]);
    }
    first[Symbol.dispose]();
    second[Symbol.dispose]();
  });

  test('drops, corrupts and delays its DMA', async () => {
    const writer = new Writer();
    host.software.addDevice(BDF, writer);
    using user = host.attach(BDF);
    user.device.config.busMaster = true;
    using memory = DmaBuffer.alloc(4096);
    using mapping = user.dma.map(memory);
    using registers = user.device.region('bar0').mmap();
    const iova = Number(mapping.iova);
    const written = () => Array.from(memory.bytes.subarray(0, 4));
    {
      using _fault = host.software.injectFault({ dma: 'dropped', nth: 1 });
      registers.write32(4, iova);
      expect(written()).toEqual([0, 0, 0, 0]);
    }
    {
      using _fault = host.software.injectFault({ dma: 'delayed', delay: 20 });
      registers.write32(4, iova);
      expect(written()).toEqual([0, 0, 0, 0]);
      await host.software.settle();
      expect(written()).toEqual([1, 2, 3, 4]);
    }
    {
      using fault = host.software.injectFault({ dma: 'corrupted' });
      registers.write32(8, iova);
      const wrong = written().map((byte, at) => byte ^ (writer.back[at] ?? 0));
      const bits = wrong.flatMap((byte) => Array.from(byte.toString(2)).filter((bit) => bit === '1'));
      expect(bits.length).toBe(1);
      expect(fault.strikes).toEqual([{ what: 'dma', stack: null }]);
    }
    expect(host.software.takeFaults()).toEqual([]);
  });

  test('a transfer that the model does not wait for is delayed, dropped and corrupted too: edu', async () => {
    await host.device(EDU).bind();
    using user = host.attach(EDU);
    using edu = new Edu(user.device);
    using memory = DmaBuffer.alloc(4096);
    using mapping = user.dma.map(memory, { iova: 0x10000 });
    memory.bytes.fill(7, 0, 16);
    {
      using fault = host.software.injectFault({ dma: 'delayed', delay: 30 });
      await edu.fetch(mapping.iova, 16);
      await edu.store(mapping.iova + 64n, 16);
      expect(fault.strikes.length).toBe(2);
      expect(memory.bytes.subarray(64, 80)).toEqual(new Uint8Array(16).fill(7));
    }
    {
      using _fault = host.software.injectFault({ dma: 'dropped' });
      await edu.store(mapping.iova + 128n, 16);
      expect(memory.bytes.subarray(128, 144)).toEqual(new Uint8Array(16));
    }
    {
      using _fault = host.software.injectFault({ dma: 'corrupted', nth: 1 });
      await edu.store(mapping.iova + 128n, 16);
      const wrong = memory.bytes.subarray(128, 144).filter((byte) => byte !== 7);
      expect(wrong.length).toBe(1);
    }
  });

  test('a page request that nobody gets leaves the device waiting until it is reset', async () => {
    using simulated = machine({ kind: 'vtd', pageRequests: 'pri' }) as SoftwareHost;
    const { iommufd, device, edu } = await bound(simulated);
    const ioas = iommufd.allocIoas();
    const queue = iommufd.allocFaultQueue();
    device.attach(iommufd.allocHwpt({ device, parent: ioas, faultQueue: queue }));
    using injected = simulated.software.injectFault({ pageRequest: 'silent', nth: 1 });
    edu.start(0x10000n, BUFFER, 16, false);
    await simulated.software.settle();
    expect(edu.registers.read64(0x98) & 1n).toBe(1n);
    expect(queue.poll()).toBeNull();
    expect(injected.strikes).toEqual([{ what: 'page request', stack: null }]);
  });
});

test('a fault that strikes again and again lists its first 65,536 strikes', async () => {
  await host.device(EDU).bind();
  using user = host.attach(EDU);
  const region = user.device.region('bar0');
  using fault = host.software.injectFault({ request: 'pread', code: null });
  for (let i = 0; i < 65_600; i++) region.read32(0);
  expect(fault.strikes.length).toBe(65_536);
});
