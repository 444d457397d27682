/** BARs of simulated devices that are memory, whole or in parts: the driver maps them, and the model has the same bytes. */
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Host, SimulatedDevice, type SoftwareHost } from '../lib/index.ts';
import { needs } from './support/backends.ts';
import { collect } from './support/collect.ts';

needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

const BDF = '0000:00:1c.0';
const PAGE = 4096;

/** BAR 0 is memory; BAR 2 has memory in its second page and from its fifth on, registers elsewhere; BAR 3 can't be mapped. */
class Store extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f2, classCode: 0x050000 };
  override readonly bars = [
    { size: 2 * PAGE, kind: 'memory64' as const, memory: true, prefetchable: true },
    null,
    {
      size: 8 * PAGE,
      areas: [
        { offset: PAGE, size: PAGE },
        { offset: 4 * PAGE, size: 2 * PAGE },
      ],
    },
    { size: PAGE, mmapable: false },
  ];
  override readonly msix = 4;
  readonly seen: [bar: number, offset: number, value: bigint][] = [];
  override onRead(): number {
    return 0x77;
  }
  override onWrite(bar: number, offset: number, _: number, value: bigint): void {
    this.seen.push([bar, offset, value]);
  }
  bytes(bar: number): Uint8Array {
    return this.memory(bar);
  }
}

let host: SoftwareHost;
beforeEach(() => {
  host = Host.open({ backend: 'software' });
});
afterEach(() => host[Symbol.dispose]());

describe('memory of a device', () => {
  test('is shared by the driver and the model, by read and write and by mapping', () => {
    const model = new Store();
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    const region = user.device.region('bar0');
    using mapped = region.mmap();
    const bytes = model.bytes(0);
    expect(bytes.length).toBe(2 * PAGE);
    bytes.set([1, 2, 3, 4], PAGE);
    expect(mapped.read32(PAGE)).toBe(0x04030201);
    expect(region.read32(PAGE)).toBe(0x04030201);
    mapped.write8(5, 0xab);
    region.write8(6, 0xcd);
    new Uint8Array(mapped.buffer)[7] = 0xef;
    expect([...bytes.subarray(5, 8)]).toEqual([0xab, 0xcd, 0xef]);
    expect(model.seen).toEqual([]);
    expect(model.bytes(0)).toBe(bytes);
    // Another device has memory of its own.
    const other = new Store();
    host.software.addDevice('0000:00:1d.0', other);
    expect(other.bytes(0)[5]).toBe(0);
  });

  test('in parts of a BAR is what the driver is told to map; all else reaches the model', () => {
    const model = new Store();
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    const region = user.device.region('bar2');
    expect(region.mmapable).toBe(true);
    expect(region.sparse).toEqual([
      { offset: BigInt(PAGE), size: BigInt(PAGE) },
      { offset: BigInt(4 * PAGE), size: BigInt(2 * PAGE) },
    ]);
    for (const o of [
      {},
      { offset: 0, length: PAGE },
      { offset: PAGE, length: 2 * PAGE },
      { offset: 2 * PAGE, length: PAGE },
      { offset: 3 * PAGE, length: 2 * PAGE },
      { offset: 4 * PAGE, length: 4 * PAGE },
    ])
      expect(() => region.mmap(o)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    using second = region.mmap({ offset: PAGE, length: PAGE });
    using last = region.mmap({ offset: 5 * PAGE, length: PAGE });
    model.bytes(2)[PAGE + 1] = 0x11;
    model.bytes(2)[5 * PAGE] = 0x22;
    expect([second.read8(1), last.read8(0)]).toEqual([0x11, 0x22]);
    expect([region.read8(PAGE + 1), region.read8(5 * PAGE)]).toEqual([0x11, 0x22]);
    region.write32(2 * PAGE - 4, 1);
    region.write32(2 * PAGE, 2);
    region.write32(4 * PAGE - 4, 3);
    expect(region.read32(0)).toBe(0x77);
    expect(model.seen).toEqual([
      [2, 2 * PAGE, 2n],
      [2, 4 * PAGE - 4, 3n],
    ]);
    expect(model.bytes(2)[2 * PAGE - 4]).toBe(1);
    // One access that crosses the border is one to each side.
    expect(region.writeFrom(2 * PAGE - 4, Uint8Array.of(1, 1, 1, 1, 9, 0, 0, 0))).toBe(8);
    expect(model.seen.at(-1)).toEqual([2, 2 * PAGE, 9n]);
  });

  test('a BAR that is not to be mapped says so, and is read and written', () => {
    host.software.addDevice(BDF, new Store());
    using user = host.attach(BDF);
    const region = user.device.region('bar3');
    expect([region.mmapable, region.sparse]).toEqual([false, null]);
    expect(() => region.mmap()).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(region.read8(0)).toBe(0x77);
  });

  test('stays with the array when the device and the host are gone', async () => {
    let model = new Store();
    let machine: SoftwareHost = Host.open({ backend: 'software' });
    machine.software.addDevice(BDF, model);
    const bytes = model.bytes(0);
    bytes[0] = 42;
    await machine.software.removeDevice(BDF);
    await collect(() => !model.plugged);
    expect(() => model.bytes(0)).toThrow(/a device that is plugged in/);
    machine[Symbol.dispose]();
    model = new Store();
    machine = Host.open({ backend: 'software' });
    machine.software.addDevice(BDF, model);
    const others = model.bytes(2);
    machine[Symbol.dispose]();
    await collect(() => !model.plugged);
    others.fill(7);
    bytes.fill(9, 1);
    expect([bytes[0], bytes[1], others[0]]).toEqual([42, 9, 7]);
  });

  test('is kept by a mapping of the driver, and is given back when nobody has it', async () => {
    const before = mappings();
    for (let each = 0; each < 20; each++) {
      using machine = Host.open({ backend: 'software' });
      const model = new Store();
      machine.software.addDevice(BDF, model);
      model.bytes(0).fill(1);
      model.bytes(2).fill(1);
    }
    expect(await collect(() => mappings() <= before + 4)).toBe(true); // the last ones may still be on the stack
  });

  test('that a model gives away is made anew, or stays: nothing crashes', () => {
    const model = new Store();
    host.software.addDevice(BDF, model);
    const bytes = model.bytes(0);
    bytes[3] = 1;
    try {
      structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] });
    } catch (error) {
      expect(error).toMatchObject({ name: 'DataCloneError' });
    }
    expect(model.bytes(0)[3]).toBe(1);
  });

  test('is refused in words where there is none', () => {
    const model = new Store();
    expect(() => model.bytes(0)).toThrow(/a device that is plugged in/);
    host.software.addDevice(BDF, model);
    for (const bar of [1, 3, 5]) expect(() => model.bytes(bar)).toThrow(/a BAR with memory for bar/);
    for (const bar of [6, -1, 0.5, '0' as never, undefined as never])
      expect(() => model.bytes(bar)).toThrow(/an integer from 0 to 5 for bar/);
    const bad = (bar: object, why: RegExp) => {
      class Bad extends SimulatedDevice {
        readonly identity = { vendor: 0x1af4, device: 0x10f2, classCode: 0x050000 };
        override readonly bars = [bar as { size: number }];
      }
      expect(() => host.software.addDevice('0000:00:1d.0', new Bad())).toThrow(why);
    };
    bad({ size: PAGE, areas: [{ offset: 1, size: PAGE }] }, /a multiple of 4096/);
    bad(
      { size: 2 * PAGE, areas: [{ offset: PAGE, size: 2 * PAGE }] },
      /whole pages of 4096 bytes inside the BAR/,
    );
    bad({ size: 2 * PAGE, areas: [{ offset: PAGE, size: 100 }] }, /whole pages of 4096 bytes inside the BAR/);
    bad(
      {
        size: 2 * PAGE,
        areas: [
          { offset: PAGE, size: PAGE },
          { offset: 0, size: PAGE },
        ],
      },
      /behind the area before/,
    );
    bad(
      { size: PAGE, memory: true, areas: [{ offset: 0, size: PAGE }] },
      /nothing of a BAR that is all memory/,
    );
    bad({ size: 16, kind: 'io', memory: true }, /false for ports/);
    bad({ size: 2 ** 31, kind: 'memory64', memory: true }, /false above 1 GiB/);
    bad({ size: PAGE, areas: 7 }, /an array for bars\[0\]\.areas/);
    bad({ size: PAGE, memory: 'yes' }, /true or false|a boolean/);
  });
});

/** How many mappings of BARs' memory this process has. */
function mappings(): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes('vfio-bar')).length;
}
