/** What simulated devices show of themselves, and how they end: capabilities, power, virtual functions, resets, removal. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DmaBuffer, Host, type ResetKind, SimulatedDevice, type SoftwareHost } from '../lib/index.ts';
import { needs } from './support/backends.ts';
import { collect } from './support/collect.ts';

needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

const BDF = '0000:00:1c.0';

class Rich extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f4, classCode: 0x020000 };
  override readonly bars = [{ size: 4096 }, { size: 4096, memory: true }];
  override readonly express: boolean = true;
  override readonly functionReset: boolean = true;
  override readonly msi = 4;
  override readonly power: boolean = true;
  override readonly pasidBits: number = 12;
  override readonly pageRequests: boolean = true;
  override readonly vendorSpecific: readonly Uint8Array[] = [Uint8Array.of(1, 2, 3), Uint8Array.of(0xaa)];
  override readonly sriov: SimulatedDevice['sriov'] = {
    totalVfs: 2,
    offset: 8,
    device: 0x10f5,
    bars: [{ size: 4096 }],
    msi: 1,
  };
  value = 0;
  removed = 0;
  readonly resets: ResetKind[] = [];
  override onRead(): number {
    return this.value;
  }
  override onWrite(_: number, __: number, ___: number, value: bigint): void {
    this.value = Number(value);
  }
  override onReset(kind: ResetKind): void {
    this.resets.push(kind);
  }
  override onRemove(): void {
    this.removed++;
  }
  leave(): void {
    this.remove();
  }
  signal(): boolean {
    return this.interrupt(0);
  }
  bytes(): Uint8Array {
    return this.memory(1);
  }
  fetch(iova: bigint): void {
    this.dmaRead(iova, new Uint8Array(4));
  }
}

let host: SoftwareHost;
beforeEach(() => {
  host = Host.open({ backend: 'software' });
});
afterEach(() => host[Symbol.dispose]());

describe('capabilities of a simulated device', () => {
  test('are in the lists that a driver reads, in the form that PCI gives them', () => {
    host.software.addDevice(BDF, new Rich());
    using user = host.attach(BDF);
    const { config } = user.device;
    const [msi, express, power, first, second] = config.capabilities();
    expect(config.capabilities().map(({ name }) => name)).toEqual([
      'MSI',
      'Express',
      'Power Management',
      'Vendor Specific',
      'Vendor Specific',
    ]);
    expect(msi?.offset).toBeLessThan(express?.offset ?? 0);
    expect(config.read16((power?.offset ?? 0) + 2) & 7).toBe(3); // the version
    const at = first?.offset ?? 0;
    expect([2, 3, 4, 5].map((each) => config.read8(at + each))).toEqual([6, 1, 2, 3]);
    expect(config.read8((second?.offset ?? 0) + 2)).toBe(4);
    expect(config.read8((second?.offset ?? 0) + 3)).toBe(0xaa);
    config.write8(at + 3, 0xff);
    expect(config.read8(at + 3)).toBe(1);
    // VFIO passes PASIDs on in no kernel so far; the machine has them.
    expect(config.extendedCapabilities().map(({ name }) => name)).toEqual(
      expect.arrayContaining(['ATS', 'PRI', 'SR-IOV']),
    );
  });

  test('are left out where the device does not have them', () => {
    class Plain extends Rich {
      override readonly express = false;
      override readonly functionReset = false;
      override readonly power = false;
      override readonly vendorSpecific = [];
      override readonly sriov = undefined;
    }
    host.software.addDevice(BDF, new Plain());
    using user = host.attach(BDF);
    expect(user.device.config.capabilities().map(({ name }) => name)).toEqual(['MSI']);
    expect(user.device.config.size).toBe(256);
  });

  test('that do not fit, or are none, are refused in words', () => {
    const bad = (change: object, why: RegExp) =>
      expect(() => host.software.addDevice(BDF, Object.assign(new Rich(), change))).toThrow(why);
    bad({ vendorSpecific: [new Uint8Array(100)] }, /capabilities of at most \d+ bytes/);
    bad({ vendorSpecific: [new Uint8Array(0)] }, /a list of 1 to 128 bytes/);
    bad({ vendorSpecific: [[1]] }, /a Uint8Array for vendorSpecific\[0\]/);
    bad({ vendorSpecific: 7 }, /an array for vendorSpecific/);
    bad({ power: 1 }, /true or false|a boolean/);
    bad({ pasidBits: 21 }, /pasidBits/);
    bad({ sriov: { totalVfs: 0 } }, /totalVfs/);
    bad({ sriov: { totalVfs: 1, bar: [] } }, /'bar'/);
    bad({ sriov: { totalVfs: 1, bars: [{ size: 16 }] } }, /BARs of memory of at least 4096 bytes/);
    bad({ express: false, functionReset: false }, /sriov/);
    expect(() => host.device(BDF)).toThrow(/there is no PCI device/);
  });

  test('D3hot: no registers, no DMA, until the driver wakes it', () => {
    const model = new Rich();
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    const { config } = user.device;
    config.busMaster = true;
    using memory = DmaBuffer.alloc(4096);
    using mapping = user.dma.map(memory);
    const region = user.device.region('bar0');
    using mapped = region.mmap();
    const control = (config.capabilities().find(({ id }) => id === 1)?.offset ?? 0) + 4;
    mapped.write32(0, 5);
    model.fetch(mapping.iova);
    config.write16(control, 3);
    expect(config.read16(control) & 3).toBe(3);
    expect(() => region.read32(0)).toThrow(expect.objectContaining({ code: 'EIO' }));
    expect(() => mapped.read32(0)).toThrow(expect.objectContaining({ code: 'EIO' }));
    expect(() => model.fetch(mapping.iova)).toThrow(/did not arrive/);
    expect(host.software.takeFaults()).toMatchObject([{ reason: 'the device is in D3hot' }]);
    config.write16(control, 0);
    expect(mapped.read32(0)).toBe(5);
    model.fetch(mapping.iova);
  });

  test('virtual functions are made, with their own id, and are passive', async () => {
    class Physical extends Rich {
      override readonly pasidBits = 0;
      override readonly sriov = { totalVfs: 2, device: 0x10f5, bars: [{ size: 4096 }] };
    }
    host.software.addDevice(BDF, new Physical());
    await host.device(BDF).setNumVfs(2, { enableSriov: true });
    expect(host.device(BDF).sriov).toEqual({ totalVfs: 2, numVfs: 2 });
    expect(host.device('0000:00:1c.2')).toMatchObject({ vendor: 0x1af4, device: 0x10f5 });
    await host.device(BDF).setNumVfs(0);
  });
});

describe('a reset says what it is', () => {
  test('of the function: at open, by the driver, at close', async () => {
    const model = new Rich();
    host.software.addDevice(BDF, model);
    const user = host.attach(BDF);
    await user.device.reset();
    user[Symbol.dispose]();
    expect(model.resets.length).toBeGreaterThanOrEqual(3);
    expect(new Set(model.resets)).toEqual(new Set(['flr']));
  });

  test('of the bus: a device behind a port that can not be reset alone', async () => {
    host[Symbol.dispose]();
    host = Host.open({
      backend: 'software',
      software: { topology: { devices: [{ model: 'root-port', bdf: '0000:00:10.0' }] } },
    });
    class Alone extends Rich {
      override readonly functionReset = false;
      override readonly sriov = undefined;
    }
    const model = new Alone();
    const bus = '0000:01:00.0';
    host.software.addDevice(bus, model, { behind: '0000:00:10.0' });
    const user = host.attach(bus);
    await user.device.hotReset();
    user[Symbol.dispose]();
    expect(model.resets.length).toBeGreaterThan(0);
    expect(new Set(model.resets)).toEqual(new Set(['bus']));
  });
});

describe('a device that is pulled', () => {
  test('gives all ones, takes no store, does no DMA and no interrupt; it goes when nobody has it open', async () => {
    const model = new Rich();
    host.software.addDevice(BDF, model);
    const user = host.attach(BDF);
    const { config } = user.device;
    config.busMaster = true;
    using memory = DmaBuffer.alloc(4096);
    const mapping = user.dma.map(memory);
    const [interrupt] = user.device.irq('msi').enable(1);
    const [request] = user.device.irq('req').enable(1);
    const region = user.device.region('bar0');
    const mapped = region.mmap();
    const bytes = model.bytes();
    mapped.write32(0, 5);
    expect([mapped.read32(0), model.signal()]).toEqual([5, true]);
    expect(await interrupt?.wait({ timeout: 5000 })).toBe(1n);
    const resets = model.resets.length;

    model.leave();
    expect([mapped.read32(0), region.read32(0), region.read8(1)]).toEqual([0xffffffff, 0xffffffff, 0xff]);
    mapped.write32(0, 6);
    region.write32(0, 7);
    expect(model.value).toBe(5);
    expect(config.read32(0x08)).toBe(0xffffffff);
    expect(() => model.fetch(mapping.iova)).toThrow(/did not arrive/);
    expect(model.signal()).toBe(false);
    expect(interrupt?.poll()).toBe(0n);
    expect(() => model.leave()).toThrow(/a device that is plugged in/);
    bytes.fill(1);
    expect(() => model.bytes()).toThrow(/a device that is plugged in/);
    expect(await request?.wait({ timeout: 5000 })).toBe(1n);
    await expect(user.device.reset()).rejects.toMatchObject({ code: 'ENOTTY' });
    await collect(() => model.removed === 1);
    expect(model.plugged).toBe(false);
    expect(host.device(BDF).bdf).toBe(BDF);
    user[Symbol.dispose]();
    expect(model.resets.length).toBe(resets);
    await expect.poll(() => host.devices().some(({ bdf }) => bdf === BDF), { timeout: 5000 }).toBe(false);
    await collect();
    expect(model.removed).toBe(1);
    host.software.addDevice(BDF, new Rich()); // the place is free
  });

  test('in the middle of an access, and of its reset, and when nobody has it open', async () => {
    class Leaver extends Rich {
      override onRead(): number {
        this.remove();
        return 3;
      }
    }
    const model = new Leaver();
    host.software.addDevice(BDF, model);
    {
      using user = host.attach(BDF);
      const region = user.device.region('bar0');
      expect(region.read32(0)).toBe(3);
      expect(region.read32(0)).toBe(0xffffffff);
    }
    await expect.poll(() => host.devices().some(({ bdf }) => bdf === BDF), { timeout: 5000 }).toBe(false);
    class AtReset extends Rich {
      override onReset(): void {
        this.remove();
      }
    }
    const other = new AtReset();
    host.software.addDevice(BDF, other);
    try {
      host.attach(BDF)[Symbol.dispose]();
    } catch (error) {
      expect(error).toHaveProperty('code');
    }
    await expect.poll(() => host.devices().some(({ bdf }) => bdf === BDF), { timeout: 5000 }).toBe(false);
    expect(other.errors).toEqual([]);
    const idle = new Rich();
    host.software.addDevice(BDF, idle);
    idle.leave();
    expect(host.devices().some(({ bdf }) => bdf === BDF)).toBe(false);
    await collect(() => idle.removed === 1);
    expect([idle.removed, other.removed]).toEqual([1, 1]);
    expect(() => new Rich().leave()).toThrow(/a device that is plugged in/);
  });

  test('after its host was disposed, or while it is, ends nothing', async () => {
    const model = new Rich();
    const machine = Host.open({ backend: 'software' });
    machine.software.addDevice(BDF, model);
    const user = machine.attach(BDF);
    const device = user.device;
    model.leave();
    machine[Symbol.dispose]();
    expect(() => device.region('bar0').read32(0)).toThrow();
    await collect(() => model.removed === 1);
    expect(model.removed).toBe(1);
  });
});
