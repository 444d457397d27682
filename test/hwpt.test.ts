/**
 * Page tables that the program makes: of an address space, with dirty tracking, nested (requirement D5: page tables of the
 * user's own, typed by their format), by PASID. Tests of features that QEMU's IOMMUs lack run on simulated ones only. Numbers
 * are behaviours of docs/behaviours.md.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  DmaBuffer,
  type Host,
  Hwpt,
  type HwptData,
  type Ioas,
  type Iommufd,
  type VfioDevice,
} from '../lib/index.ts';
import { EDU, GROUP_OF_TWO, needs, openHost } from './support/backends.ts';
import { dropsOnPurpose } from './support/dropped.ts';
import type { Edu } from './support/edu.ts';
import { bound, machine } from './support/iommu.ts';

let host: Host;
let iommufd: Iommufd;
let device: VfioDevice;
let edu: Edu;
let ioas: Ioas;
const buffers: DmaBuffer[] = [];
const memory = (size: number) => {
  const buffer = DmaBuffer.alloc(size);
  buffers.push(buffer);
  return buffer;
};
const code = (expected: string, reason?: RegExp) =>
  expect.objectContaining({
    name: 'VfioError',
    code: expected,
    ...(reason ? { reason: expect.stringMatching(reason) } : {}),
  });

async function begin(on: Host) {
  host = on;
  ({ iommufd, device, edu } = await bound(host));
  ioas = iommufd.allocIoas();
}

/** Makes the device store 8 bytes of its buffer, filled with `value`, at an address that need not be mapped. */
async function store(value: number, at: bigint) {
  using own = DmaBuffer.alloc(4096);
  const space = iommufd.allocIoas();
  const [table] = [...attachments];
  own.bytes.fill(value);
  space.map(own, { iova: 0x1000 });
  device.attach(space);
  await edu.fetch(0x1000n, 8);
  if (table) device.attach(table);
  else device.detach();
  space[Symbol.dispose]();
  await edu.store(at, 8);
}
/** The page table that the test has attached the device to. */
let attachments: (Ioas | Hwpt)[] = [];
const attach = (to: Ioas | Hwpt) => {
  attachments = [to];
  return device.attach(to);
};

afterEach(() => {
  attachments = [];
  host[Symbol.dispose]();
  for (const buffer of buffers.splice(0)) buffer[Symbol.dispose]();
});

describe('of an address space', () => {
  beforeEach(() => begin(openHost()));

  test('it has the mappings of the address space, earlier and later ones (D5)', async () => {
    const early = memory(4096);
    const late = memory(4096);
    ioas.map(early, { iova: 0x10000 });
    const table = iommufd.allocHwpt({ device, parent: ioas });
    expect(table).toBeInstanceOf(Hwpt);
    expect(attach(table)).toBe(table.id);
    ioas.map(late, { iova: 0x20000 });
    await store(0x31, 0x10000n);
    await store(0x32, 0x20000n);
    expect([early.bytes[0], late.bytes[0]]).toEqual([0x31, 0x32]);
    ioas.unmap(0x10000, 4096);
    await store(0x33, 0x10000n);
    expect(early.bytes[0]).toBe(0x31);
  });

  test('it is never chosen for an address space that is attached: the kernel makes another (49)', () => {
    const table = iommufd.allocHwpt({ device, parent: ioas });
    const automatic = device.attach(ioas);
    expect(automatic).not.toBe(table.id);
    // An automatic page table is destroyed with its last device; one that the program made is not.
    expect(device.attach(table)).toBe(table.id);
    expect(() => iommufd.destroy(automatic)).toThrow(code('ENOENT'));
    device.detach();
    expect(table.id).toBeGreaterThan(0);
    expect(() => iommufd.destroy(table.id)).not.toThrow();
    expect(table.disposed).toBe(true);
  });

  test('attaching another one replaces it, and DMA uses that from then on (52)', async () => {
    const spaces = [ioas, iommufd.allocIoas()];
    const targets = spaces.map((space) => {
      const target = memory(4096);
      space.map(target, { iova: 0x10000 });
      return target;
    });
    const tables = spaces.map((parent) => iommufd.allocHwpt({ device, parent }));
    for (const [at, table] of tables.entries()) {
      attach(table);
      await store(0x41 + at, 0x10000n);
    }
    expect(targets.map((each) => each.bytes[0])).toEqual([0x41, 0x42]);
    // Attaching the same one again has no effect.
    expect(attach(tables[1]!)).toBe(tables[1]!.id);
    await store(0x43, 0x10000n);
    expect(targets.map((each) => each.bytes[0])).toEqual([0x41, 0x43]);
  });

  test('a replacement that fails leaves the old one in place (52)', async (ctx) => {
    needs(ctx, { guest: ['intel'], because: 'only there a reserved window is known: message interrupts' });
    const target = memory(4096);
    ioas.map(target, { iova: 0x10000 });
    attach(iommufd.allocHwpt({ device, parent: ioas }));
    const other = iommufd.allocIoas();
    other.map(memory(4096), { iova: 0xfee00000 });
    expect(() => device.attach(other)).toThrow(code('EADDRINUSE', /reserves addresses/));
    await store(0x51, 0x10000n);
    expect(target.bytes[0]).toBe(0x51);
  });

  test('while it is attached it can not be disposed: EBUSY says by which device, and it stays', async () => {
    const target = memory(4096);
    ioas.map(target, { iova: 0x10000 });
    const table = iommufd.allocHwpt({ device, parent: ioas });
    attach(table);
    const busy = code('EBUSY', new RegExp(`^device ${EDU} is attached to it$`));
    expect(() => table[Symbol.dispose]()).toThrow(busy);
    expect(() => iommufd.destroy(table.id)).toThrow(busy);
    expect(table.disposed).toBe(false);
    await store(0x61, 0x10000n);
    expect(target.bytes[0]).toBe(0x61);
    device.detach();
    const { id } = table;
    table[Symbol.dispose]();
    table[Symbol.dispose]();
    expect(table.disposed).toBe(true);
    expect(() => iommufd.destroy(id)).toThrow(code('ENOENT'));
  });

  test('an address space that it is made of can not be destroyed, and disposes it first', () => {
    const table = iommufd.allocHwpt({ device, parent: ioas });
    expect(() => iommufd.destroy(ioas.id)).toThrow(code('EBUSY', /a Hwpt was made of it/));
    const { id } = ioas;
    ioas[Symbol.dispose]();
    expect(table.disposed).toBe(true);
    expect(() => iommufd.destroy(id)).toThrow(code('ENOENT'));
  });

  test('disposing the address space or the iommufd never fails, attached or not', async () => {
    const target = memory(4096);
    ioas.map(target, { iova: 0x10000 });
    target.bytes.fill(7);
    const table = iommufd.allocHwpt({ device, parent: ioas });
    attach(table);
    ioas[Symbol.dispose]();
    expect([table.disposed, ioas.disposed]).toEqual([true, true]);
    // The kernel's page table is still there, and empty.
    await edu.store(0x10000n, 8);
    expect(target.bytes[0]).toBe(7);
    iommufd[Symbol.dispose]();
  });

  test('one that is dropped without being disposed is destroyed when it is collected', async () => {
    const { collect } = await import('./support/collect.ts');
    dropsOnPurpose();
    const lost: string[] = [];
    const hear = (warning: Error) => {
      if (warning.name === 'VfioLeakWarning') lost.push(warning.message);
    };
    process.on('warning', hear);
    try {
      const id = (() => iommufd.allocHwpt({ device, parent: ioas }).id)();
      expect(await collect(() => lost.some((each) => each.startsWith('A Hwpt was collected')))).toBe(true);
      expect(() => iommufd.destroy(id)).toThrow(code('ENOENT'));
      // A device keeps the page table that it is attached to.
      (() => device.attach(iommufd.allocHwpt({ device, parent: ioas })))();
      const before = lost.length;
      await collect();
      expect(lost.length).toBe(before);
    } finally {
      process.off('warning', hear);
    }
  });

  test('all devices of a group use one page table: another one for the next device is EINVAL, with a reason (50)', async (ctx) => {
    needs(ctx, {
      guest: ['intel', 'amd'],
      because: 'a group of two needs a bridge that the IOMMU sees as one',
    });
    for (const each of GROUP_OF_TWO) await host.device(each).bind();
    const [first, second] = GROUP_OF_TWO.map((each) => host.openDevice(each)) as [VfioDevice, VfioDevice];
    first.bind(iommufd);
    second.bind(iommufd);
    const own = iommufd.allocHwpt({ device: first, parent: ioas });
    first.attach(own);
    const other = iommufd.allocHwpt({ device: second, parent: ioas });
    expect(() => second.attach(other)).toThrow(code('EINVAL', /another device of its group/));
    expect(second.attach(own)).toBe(own.id);
    for (const each of [second, first]) each.detach();
  });

  test('a page table that the IOMMU can not make is EOPNOTSUPP, with a reason', (ctx) => {
    needs(ctx, { guest: ['intel'], because: "other IOMMUs of QEMU's differ in what they can" });
    const alloc = (o: object) => () => iommufd.allocHwpt({ device, parent: ioas, ...o });
    expect(iommufd.hwInfo(device)).toMatchObject({
      type: 'intel-vtd',
      capabilities: { dirtyTracking: false },
      maxPasidLog2: 0,
    });
    expect(alloc({ dirtyTracking: true })).toThrow(code('EOPNOTSUPP', /does not track dirty pages/));
    expect(alloc({ nestParent: true })).toThrow(code('EOPNOTSUPP', /one stage only/));
    const data: HwptData = { type: 'vtd-s1', pgtblAddr: 0x1000, addrWidth: 48 };
    expect(alloc({ data })).toThrow(code('EOPNOTSUPP', /no page tables of format 'vtd-s1' made of an Ioas/));
    const table = iommufd.allocHwpt({ device, parent: ioas });
    expect(() => table.setDirtyTracking(true)).toThrow(code('EOPNOTSUPP', /without { dirtyTracking: true }/));
    expect(() => table.dirtyBitmap(0, 4096, { pageSize: 4096 })).toThrow(code('EOPNOTSUPP'));
    expect(() => iommufd.allocHwpt({ device, parent: table })).toThrow(
      code('EOPNOTSUPP', /needs data: its format/),
    );
    expect(() => device.attach(ioas, { pasid: 1 })).toThrow(code('EINVAL'));
  });

  test('a page table, a device or an address space of another iommufd is refused', () => {
    using other = host.openIommufd();
    const foreign = other.allocIoas();
    const table = iommufd.allocHwpt({ device, parent: ioas });
    expect(() => iommufd.allocHwpt({ device, parent: foreign })).toThrow(/of this iommufd for parent/);
    expect(() => other.allocHwpt({ device, parent: foreign })).toThrow(
      /^Expected a device that is bound to this iommufd for device/,
    );
    expect(() => other.hwInfo(device)).toThrow(/bound to this iommufd/);
    using unbound = host.openDevice({ fd: device.fd });
    expect(() => iommufd.hwInfo(unbound)).toThrow(/bound to this iommufd/);
    expect(table.iommufd).toBe(iommufd);
  });
});

describe('dirty tracking', () => {
  const dirty = (bitmap: Uint8Array) =>
    [...bitmap].flatMap((byte, at) =>
      Array.from({ length: 8 }, (_, bit) => ((byte >> bit) & 1 ? at * 8 + bit : -1)).filter((n) => n >= 0),
    );

  beforeEach(async (ctx) => {
    needs(ctx, { backends: ['software'], because: "QEMU's VT-d marks no pages" });
    await begin(machine({ kind: 'vtd', dirtyTracking: true }));
  });

  test('pages that a device wrote are marked, each once, and not those that it read', async () => {
    ioas.map(memory(0x20000), { iova: 0x100000 });
    const table = iommufd.allocHwpt({ device, parent: ioas, dirtyTracking: true });
    expect(iommufd.hwInfo(device).capabilities.dirtyTracking).toBe(true);
    device.attach(table);
    const asked = () => dirty(table.dirtyBitmap(0x100000, 0x20000, { pageSize: 4096 }));
    await edu.store(0x100000n, 8);
    expect(asked()).toEqual([]); // it is off
    table.setDirtyTracking(true);
    await edu.fetch(0x103000n, 8);
    await edu.store(0x105ff8n, 16);
    await edu.store(0x11f000n, 4096);
    expect(table.dirtyBitmap(0x100000, 0x20000, { pageSize: 4096, clear: false })).toHaveLength(4);
    expect(asked()).toEqual([5, 6, 31]);
    expect(asked()).toEqual([]);
    await edu.store(0x100000n, 8);
    table.setDirtyTracking(true); // starting clears
    expect(asked()).toEqual([]);
    table.setDirtyTracking(false);
    await edu.store(0x100000n, 8);
    expect(asked()).toEqual([]);
  });

  test('larger pages take the marks of smaller ones together (61)', async () => {
    ioas.map(memory(0x20000), { iova: 0x100000 });
    const table = iommufd.allocHwpt({ device, parent: ioas, dirtyTracking: true });
    device.attach(table);
    table.setDirtyTracking(true);
    await edu.store(0x105000n, 8);
    await edu.store(0x113000n, 8);
    const bitmap = table.dirtyBitmap(0x100000, 0x20000, { pageSize: 0x8000, clear: false });
    expect(dirty(bitmap)).toEqual([0, 2]);
    expect(bitmap).toHaveLength(1);
    expect(() => table.dirtyBitmap(0x100800, 0x1000, { pageSize: 4096 })).toThrow(code('EINVAL'));
    expect(() => table.dirtyBitmap(0x101000, 0x8000, { pageSize: 0x8000 })).toThrow(code('EINVAL'));
  });
});

describe('nested: VT-d first stage', () => {
  /** The guest's memory: 64 KiB at guest-physical 0x100000, with its page tables in the first 16 KiB, then data. */
  const GUEST = 0x100000n;
  const DATA = 0x8000;
  let guest: DmaBuffer;
  let parent: Hwpt;

  /** Maps one page in the guest's page table: four levels, present, writable, for user accesses. */
  function guestMap(iova: bigint, to: bigint, flags = 7n) {
    const word = (table: number, index: bigint, value: bigint) =>
      guest.write(table + Number(index) * 8, Buffer.from(BigUint64Array.of(value).buffer));
    const at = (table: number) => GUEST + BigInt(table);
    word(0x0000, (iova >> 39n) & 511n, at(0x1000) | 7n);
    word(0x1000, (iova >> 30n) & 511n, at(0x2000) | 7n);
    word(0x2000, (iova >> 21n) & 511n, at(0x3000) | 7n);
    word(0x3000, (iova >> 12n) & 511n, to | flags);
  }

  beforeEach(async (ctx) => {
    needs(ctx, { backends: ['software'], because: "QEMU's VT-d of this version does not nest" });
    await begin(machine({ kind: 'vtd', nesting: ['vtd-s1'] }));
    guest = memory(0x10000);
    ioas.map(guest, { iova: GUEST });
    parent = iommufd.allocHwpt({ device, parent: ioas, nestParent: true });
  });

  const nested = (o: Partial<HwptData> = {}) =>
    iommufd.allocHwpt({
      device,
      parent,
      data: { type: 'vtd-s1', pgtblAddr: GUEST, addrWidth: 48, ...o } as HwptData,
    });

  test("the device's accesses are translated by the guest's table, then by the parent (D5)", async () => {
    guestMap(0x5000000n, GUEST + BigInt(DATA));
    const table = nested();
    device.attach(table);
    guest.bytes.fill(0xab, DATA, DATA + 8);
    await edu.fetch(0x5000000n, 8);
    await edu.store(0x5000100n, 8);
    expect([...guest.bytes.subarray(DATA + 0x100, DATA + 0x108)]).toEqual(new Array(8).fill(0xab));
    expect(host.software?.takeFaults()).toEqual([]);
    // The device can't reach an address that the guest has not mapped, though the parent maps it.
    await edu.store(GUEST + 0x9000n, 8);
    expect(guest.bytes[0x9000]).toBe(0);
    expect(host.software?.takeFaults()).toHaveLength(1);
  });

  test('an invalidation makes a change by the guest effective: all entries are handled', async () => {
    guestMap(0x5000000n, GUEST + 0x8000n);
    const table = nested();
    device.attach(table);
    await edu.store(0x5000000n, 8);
    guestMap(0x5000000n, GUEST + 0x9000n);
    expect(table.invalidate('vtd-s1', [{ addr: 0x5000000n, npages: 1, leaf: true }])).toBe(1);
    expect(table.invalidate('vtd-s1', [{ addr: 0, npages: 2n ** 64n - 1n }])).toBe(1);
    expect(table.invalidate('vtd-s1', [])).toBe(0);
    guest.bytes.fill(0x11, 0x9000, 0x9008);
    await edu.fetch(0x5000000n, 8);
    await edu.store(0x5000008n, 8);
    expect(guest.bytes[0x9008]).toBe(0x11);
  });

  test('an invalid entry fails, and the error says how many were handled (63)', () => {
    const table = nested();
    const good = { addr: 0x1000, npages: 1 };
    let caught: unknown;
    try {
      table.invalidate('vtd-s1', [good, good, { addr: 0x1001, npages: 1 }, good]);
    } catch (error) {
      caught = error;
    }
    expect(caught).toMatchObject({
      code: 'EINVAL',
      handled: 2,
      reason: '2 entries were handled',
      request: 'IOMMU_HWPT_INVALIDATE',
    });
    expect(() => table.invalidate('arm-smmuv3' as 'vtd-s1', [{ cmd: [0, 0] } as never])).toThrow(
      expect.objectContaining({ code: 'EINVAL', handled: 0 }),
    );
  });

  test('it must be disposed before its parent, which is busy until then (57)', () => {
    const table = nested();
    expect(() => iommufd.destroy(parent.id)).toThrow(code('EBUSY', /a Hwpt was made of it/));
    device.attach(table);
    // Disposing the parent would dispose it first, which fails: so nothing changes.
    expect(() => parent[Symbol.dispose]()).toThrow(code('EBUSY', /is attached to it/));
    expect([parent.disposed, table.disposed]).toEqual([false, false]);
    device.detach();
    parent[Symbol.dispose]();
    expect([parent.disposed, table.disposed]).toEqual([true, true]);
  });

  test('unsuitable data and parents are refused, with a reason (56, 57)', () => {
    const plain = iommufd.allocHwpt({ device, parent: ioas });
    const data: HwptData = { type: 'vtd-s1', pgtblAddr: GUEST, addrWidth: 48 };
    expect(() => iommufd.allocHwpt({ device, parent: plain, data })).toThrow(
      code('EINVAL', /not made with { nestParent: true }/),
    );
    expect(() => iommufd.allocHwpt({ device, parent, data: { type: 'arm-smmuv3', ste: [0, 0] } })).toThrow(
      expect.objectContaining({ name: 'VfioError' }),
    );
    expect(() => nested().setDirtyTracking(true)).toThrow(code('ENOENT'));
  });
});

describe('by PASID', () => {
  beforeEach(async (ctx) => {
    needs(ctx, { backends: ['software'], because: "QEMU's VT-d of this version has no PASIDs" });
    await begin(machine({ kind: 'vtd', pasidBits: 8 }));
  });

  test('a device has a page table for each PASID, and each is detached by itself (6.15)', () => {
    expect(iommufd.hwInfo(device).maxPasidLog2).toBe(8);
    const [first, second] = [ioas, iommufd.allocIoas()].map((parent) =>
      iommufd.allocHwpt({ device, parent, pasid: true }),
    ) as [Hwpt, Hwpt];
    device.attach(first);
    expect(device.attach(second, { pasid: 5 })).toBe(second.id);
    expect(() => second[Symbol.dispose]()).toThrow(code('EBUSY', /is attached to it/));
    device.detach({ pasid: 5 });
    second[Symbol.dispose]();
    expect(() => first[Symbol.dispose]()).toThrow(code('EBUSY'));
    device.detach();
    first[Symbol.dispose]();
  });
});
