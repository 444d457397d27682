/**
 * Virtual IOMMUs, the devices behind them and their events (requirement D5: page tables of the user's own). The guest's Linux
 * 6.12 does not have them, and QEMU has no SMMUv3 for x86: these tests check a simulated one against the documented interface.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  DmaBuffer,
  type Host,
  type Hwpt,
  type Ioas,
  type Iommufd,
  type VfioDevice,
  type Viommu,
  type ViommuEvent,
} from '../lib/index.ts';
import { EDU, needs } from './support/backends.ts';
import type { Edu } from './support/edu.ts';
import { bound, machine } from './support/iommu.ts';

/** Stream table entries: they are valid, and say how the device's accesses are translated. */
const BYPASS = 1n | (4n << 1n);
const FIRST_STAGE = 1n | (5n << 1n);
/** The guest's number for the device. */
const STREAM = 0x1234n;

let host: Host;
let iommufd: Iommufd;
let device: VfioDevice;
let edu: Edu;
let ioas: Ioas;
let parent: Hwpt;
let viommu: Viommu;
let memory: DmaBuffer;
const code = (expected: string, reason = /^/) =>
  expect.objectContaining({ name: 'VfioError', code: expected, message: expect.stringMatching(reason) });
const table = (ste0: bigint) =>
  iommufd.allocHwpt({ device, parent: viommu, data: { type: 'arm-smmuv3', ste: [ste0, 0] } });

describe('a virtual IOMMU', () => {
  beforeEach(async (ctx) => {
    needs(ctx, { backends: ['software'], because: 'Linux 6.12 has no virtual IOMMUs' });
    host = machine({ kind: 'smmuv3' });
    ({ iommufd, device, edu } = await bound(host));
    ioas = iommufd.allocIoas();
    memory = DmaBuffer.alloc(0x4000);
    ioas.map(memory, { iova: 0x100000 });
    parent = iommufd.allocHwpt({ device, parent: ioas, nestParent: true });
    viommu = iommufd.allocViommu({ device, parent, type: 'arm-smmuv3' });
  });
  afterEach(() => {
    host?.[Symbol.dispose]();
    memory?.[Symbol.dispose]();
  });

  test('is made on a nest parent of its IOMMU, and has its type', () => {
    expect(iommufd.hwInfo(device)).toMatchObject({ type: 'arm-smmuv3' });
    const info = iommufd.hwInfo(device);
    expect(info.type === 'arm-smmuv3' && info.idr).toHaveLength(6);
    expect(viommu).toMatchObject({ type: 'arm-smmuv3', mmap: null });
    const plain = iommufd.allocHwpt({ device, parent: ioas });
    expect(() => iommufd.allocViommu({ device, parent: plain, type: 'arm-smmuv3' })).toThrow(
      code('EINVAL', /made without { nestParent: true }/),
    );
    expect(() => iommufd.allocViommu({ device, parent, type: 'tegra241-cmdqv' })).toThrow(
      code('EOPNOTSUPP', /makes no virtual one of type 'tegra241-cmdqv'/),
    );
    expect(() => viommu.allocHwQueue({ index: 0, iova: 0x100000, length: 4096 })).toThrow(code('EOPNOTSUPP'));
  });

  test("a device is put behind it under the guest's number for it, once", () => {
    const vdevice = viommu.allocVdevice({ device, virtId: STREAM });
    expect([vdevice.virtId, vdevice.id > 0]).toEqual([STREAM, true]);
    expect(() => viommu.allocVdevice({ device, virtId: STREAM + 1n })).toThrow(code('EEXIST'));
    vdevice[Symbol.dispose]();
    viommu.allocVdevice({ device, virtId: STREAM + 1n })[Symbol.dispose]();
  });

  test("with a page table that bypasses the guest's translation, addresses are those of its memory (D5)", async () => {
    viommu.allocVdevice({ device, virtId: STREAM });
    device.attach(table(BYPASS));
    memory.bytes.fill(0x77, 0, 8);
    await edu.fetch(0x100000n, 8);
    await edu.store(0x101000n, 8);
    expect([...memory.bytes.subarray(0x1000, 0x1008)]).toEqual(new Array(8).fill(0x77));
    expect(() => table(1n | (7n << 1n))).toThrow(code('EIO'));
  });

  test("a fault of a device is reported as an event, with the guest's number for it", async () => {
    viommu.allocVdevice({ device, virtId: STREAM });
    const events = viommu.allocEventQueue({ depth: 4 });
    expect(() => viommu.allocEventQueue({ depth: 4 })).toThrow(code('EEXIST'));
    expect(events.poll()).toBeNull();
    // Its context descriptor is all zeroes, so it is not valid.
    device.attach(table(FIRST_STAGE | 0x102000n));
    const waiting = events.wait({ timeout: 5000 });
    await edu.store(0x5000n, 8);
    const event = await waiting;
    expect(event).toMatchObject({ type: 'arm-smmuv3', sequence: 0, lost: false });
    if (event.type !== 'arm-smmuv3') throw new Error('not reached');
    expect(event.evt).toHaveLength(4);
    expect((event.evt[0] as bigint) >> 32n).toBe(STREAM);
    const seen: ViommuEvent[] = [];
    const loop = (async () => {
      for await (const each of events) if (seen.push(each) === 2) break;
    })();
    await edu.store(0x5000n, 8);
    await edu.store(0x5000n, 8);
    await loop;
    expect(seen.map((each) => each.sequence)).toEqual([1, 2]);
  });

  test('more events than its queue holds are lost, and an event says so', async () => {
    viommu.allocVdevice({ device, virtId: STREAM });
    const events = viommu.allocEventQueue({ depth: 2 });
    device.attach(table(FIRST_STAGE | 0x102000n));
    for (let each = 0; each < 5; each++) await edu.store(0x5000n, 8);
    const seen: ViommuEvent[] = [];
    for (let next = events.poll(); next; next = events.poll()) seen.push(next);
    expect(seen.map((each) => each.type)).toEqual(['arm-smmuv3', 'arm-smmuv3', 'lost']);
    expect(seen.map((each) => each.lost)).toEqual([false, false, true]);
  });

  test("the guest's commands are handled one by one, and an error says how many were", () => {
    viommu.allocVdevice({ device, virtId: STREAM });
    const everything = { cmd: [0x10n, 0n] as const };
    const ofDevice = (stream: bigint) => ({ cmd: [0x05n | (stream << 32n), 0n] as const });
    expect(viommu.invalidate('arm-smmuv3', [everything, ofDevice(STREAM)])).toBe(2);
    expect(() => viommu.invalidate('arm-smmuv3', [everything, everything, ofDevice(STREAM + 1n)])).toThrow(
      expect.objectContaining({ code: 'EIO', handled: 2 }),
    );
  });

  test('disposing it disposes all that belongs to it, and fails while a device is attached', () => {
    const vdevice = viommu.allocVdevice({ device, virtId: STREAM });
    const events = viommu.allocEventQueue({ depth: 2 });
    const nested = table(BYPASS);
    device.attach(nested);
    expect(() => iommufd.destroy(viommu.id)).toThrow(code('EBUSY', /a Hwpt was made of it/));
    expect(() => viommu[Symbol.dispose]()).toThrow(
      code('EBUSY', new RegExp(`device ${EDU} is attached to it`)),
    );
    expect([viommu.disposed, nested.disposed]).toEqual([false, false]);
    device.detach();
    parent[Symbol.dispose]();
    expect([viommu, vdevice, events, nested, parent].every((each) => each.disposed)).toBe(true);
    expect(ioas.disposed).toBe(false);
    // No kernel object is left but the address space and the device.
    ioas[Symbol.dispose]();
    expect([iommufd.allocIoas().id, device.id]).toEqual([2, 1]);
  });

  test('closing a device destroys its Vdevice', () => {
    const vdevice = viommu.allocVdevice({ device, virtId: STREAM });
    device[Symbol.dispose]();
    expect([vdevice.disposed, viommu.disposed]).toEqual([true, false]);
    viommu[Symbol.dispose]();
  });
});
