/** Mediated devices: shares of a device, confined by its driver. The guest has those of mtty, from the kernel's samples. */
import { existsSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { DmaBuffer, Host, type Topology, VfioDevice } from '../lib/index.ts';
import { backend, EDU, needs, openHost } from './support/backends.ts';
import { Edu } from './support/edu.ts';

const ONE = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
const OTHER = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1002';
const CREATE = '/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create';

const code = (expected: string, reason?: RegExp) =>
  expect.objectContaining({
    code: expected,
    ...(reason === undefined ? {} : { reason: expect.stringMatching(reason) }),
  });

/** A machine whose parent device is bound to a driver of the host, and in a group with its neighbour. */
function machine(mdevsIsolated = true): Topology {
  return {
    devices: [
      { model: 'root-port', bdf: '0000:00:12.0' },
      { model: 'bridge', behind: '0000:00:12.0', slot: 0 },
      { model: 'edu', behind: '0000:01:00.0', slot: 1, driver: 'edu', mdevs: [ONE, OTHER], mdevsIsolated },
      { model: 'edu', behind: '0000:01:00.0', slot: 2 },
      { model: 'edu', bdf: EDU },
    ],
  };
}
const PARENT = '0000:02:01.0';

let host: Host;
beforeAll(() => {
  if (backend === 'kernel') for (const uuid of [ONE, OTHER]) writeFileSync(CREATE, uuid);
});
afterAll(() => {
  if (backend !== 'kernel') return;
  for (const uuid of [ONE, OTHER]) writeFileSync(`/sys/bus/mdev/devices/${uuid}/remove`, '1');
  expect(existsSync(`/sys/bus/mdev/devices/${ONE}`)).toBe(false);
});
beforeEach(() => {
  host =
    backend === 'kernel' ? openHost() : Host.open({ backend: 'software', software: { topology: machine() } });
});
afterEach(() => host?.[Symbol.dispose]());

function groupOf(uuid: string): number {
  return host.device(uuid).group ?? -1;
}

describe('mediated devices', () => {
  test('A6: each is alone in a group, whichever group its parent is in', () => {
    const device = host.device(ONE.toUpperCase());
    expect([device.bdf, device.mediated]).toEqual([ONE, true]);
    expect(device.vfioNode).toMatch(/^\/dev\/vfio\/devices\/vfio\d+$/);
    expect(device.iommu).toBeNull();
    const group = host.group(groupOf(ONE));
    expect(group.devices.map(({ bdf }) => bdf)).toEqual([ONE]);
    expect(host.group(groupOf(OTHER)).devices.map(({ bdf }) => bdf)).toEqual([OTHER]);
    expect([group.noIommu, group.type, group.dmaOwner]).toEqual([false, 'unknown', 'none']);
    expect(group.viability()).toEqual({ viable: true, blockers: [] });
    expect(group.reservedRegions).toEqual([]);
    if (backend === 'kernel') return;
    const parents = host.group(host.device(PARENT).group ?? -1);
    expect(parents.id).not.toBe(group.id);
    expect(parents.dmaOwner).toBe('kernel');
  });

  test('they have no ids in sysfs and no driver to choose', async () => {
    const device = host.device(ONE);
    expect(() => device.vendor).toThrow(code('ENODEV', /its ids are in its config space/));
    await expect(device.bind()).rejects.toThrow(
      code('EINVAL', /bound to a VFIO driver for as long as it exists/),
    );
    await expect(device.unbind({ force: true })).rejects.toThrow(code('EINVAL'));
    const missing = ONE.replace('1001', '1003');
    expect(() => host.device(missing)).toThrow(code('ENODEV', /there is no mediated device/));
    expect(host.diagnose(ONE).findings).toEqual([]);
    expect(host.devices().map(({ bdf }) => bdf)).not.toContain(ONE);
  });

  for (const via of ['cdev', 'group-iommufd', 'group-type1'] as const)
    test(`A3, A6: by ${via} it works like any other device`, () => {
      using user = host.attach(ONE, { via });
      expect([user.via, user.device.bdf]).toEqual([via, ONE]);
      expect(user.device.info.pci).toBe(true);
      expect(user.device.config.vendor).toBe(backend === 'kernel' ? 0x4348 : 0x1234);
      expect(user.device.irq('intx').enable()).toHaveLength(1);
      using memory = DmaBuffer.alloc(8192);
      const mapping = user.dma.map(memory);
      expect(user.dma.mappings()).toEqual([{ iova: mapping.iova, length: 8192n, writable: true }]);
      user.dma.unmapAll();
      if (via === 'cdev') expect(() => user.device.hotResetInfo()).toThrow(code('ENOTTY'));
    });

  test('A6: two of one parent can be used by two users', () => {
    using first = host.attach(ONE);
    using second = host.attach(OTHER);
    expect([first.via, second.via]).toEqual(['cdev', 'cdev']);
    expect(() => host.openGroup(groupOf(ONE))).toThrow(code('EBUSY'));
    using third = host.openDevice(ONE);
    using iommufd = host.openIommufd();
    expect(() => third.bind(iommufd)).toThrow(code('EINVAL'));
  });

  test('it is attached to an address space only, and no page table is made (60, 66)', () => {
    using iommufd = host.openIommufd();
    const device = host.openDevice(ONE);
    device.bind(iommufd);
    const ioas = iommufd.allocIoas();
    const whole = { ranges: [{ start: 0n, last: 0xffffffffffffffffn }], alignment: 1n };
    expect(ioas.iovaRanges()).toEqual(whole);
    expect(device.attach(ioas)).toBe(ioas.id);
    expect(ioas.iovaRanges()).toEqual({ ...whole, alignment: 4096n });
    expect(() => iommufd.destroy(ioas.id)).toThrow(code('EBUSY'));
    const second = iommufd.allocIoas();
    expect(device.attach(second)).toBe(second.id);
    expect(ioas.iovaRanges()).toEqual(whole);
    expect(() => iommufd.allocHwpt({ device, parent: second })).toThrow(code('ENOENT'));
    expect(() => iommufd.hwInfo(device)).toThrow(code('ENOENT'));
    expect(() => iommufd.destroy(device.id ?? 0)).toThrow(code('EBUSY'));
    using memory = DmaBuffer.alloc(4096);
    second.map(memory, { iova: 0xfee00000n });
    device.detach();
    expect(second.iovaRanges()).toEqual(whole);
    device.detach();
    iommufd.destroy(second.id);
    device[Symbol.dispose]();
  });

  test('it can not be attached to a page table (66)', async (ctx) => {
    needs(ctx, { guest: ['intel', 'amd'], because: 'a page table takes a device with an IOMMU' });
    await host.device(EDU).bind();
    using iommufd = host.openIommufd();
    using mdev = host.openDevice(ONE);
    mdev.bind(iommufd);
    using edu = host.openDevice(EDU);
    edu.bind(iommufd);
    const ioas = iommufd.allocIoas();
    const hwpt = iommufd.allocHwpt({ device: edu, parent: ioas });
    expect(() => mdev.attach(hwpt)).toThrow(code('ENOENT'));
    expect(mdev.attach(ioas)).toBe(ioas.id);
    expect(() => mdev.attach(hwpt)).toThrow(code('ENOENT'));
    mdev.detach();
  });

  test('type1 with mediated devices alone pins nothing and has no ranges (110)', () => {
    using container = host.openContainer();
    using group = host.openGroup(groupOf(ONE));
    expect(group.viable).toBe(true);
    group.setContainer(container);
    container.setIommu('type1v2');
    expect(container.info()).toMatchObject({ ranges: [], pageSizes: 0xfffffffffffff000n });
    expect([container.supports('type1v2'), container.supports('update-vaddr')]).toEqual([true, false]);
    using memory = DmaBuffer.alloc(4096);
    container.map(memory, { iova: 0xfee00000n });
    expect(() => container.map(memory, { iova: 0xfee00000n })).toThrow(code('EEXIST'));
    expect(() => container.map(memory, { iova: 0x10800n })).toThrow(code('EINVAL'));
    expect(() => container.invalidateAllVaddrs()).toThrow(code('EBUSY'));
    container.startDirtyTracking();
    expect(container.dirtyBitmap(0xfee00000n, 4096n, { pageSize: 4096 })[0]).toBe(0);
    expect(container.unmap(0xfee00000n, 4096n)).toBe(4096n);
    using device = group.openDevice(ONE);
    expect(device.config.device).toBeGreaterThan(0);
    expect(() => group.openDevice(OTHER)).toThrow(code('ENODEV'));
    expect(() => group.unsetContainer()).toThrow(code('EBUSY'));
  });

  test('type1: the first device with an IOMMU makes the kernel pin all mapped memory, and its ranges apply', async (ctx) => {
    needs(ctx, { guest: ['intel', 'amd'], because: 'the others have no IOMMU that isolates interrupts' });
    await host.device(EDU).bind();
    using container = host.openContainer();
    using group = host.openGroup(groupOf(ONE));
    group.setContainer(container);
    container.setIommu('type1v2');
    using memory = DmaBuffer.alloc(4096);
    memory.bytes.fill(0x5a);
    container.map(memory, { iova: 0xfee00000n });
    using real = host.openGroup(groupOf(EDU));
    expect(() => real.setContainer(container)).toThrow(code('EINVAL'));
    container.unmapAll();
    container.map(memory, { iova: 0x100000n });
    real.setContainer(container);
    expect(container.info().ranges.length).toBeGreaterThan(0);
    expect(() => container.map(memory, { iova: 0xfee00000n })).toThrow(code('EINVAL'));
    using edu = new Edu(real.openDevice(EDU));
    await edu.fetch(0x100000n, 8);
    await edu.store(0x100800n, 8);
    expect([...memory.bytes.subarray(0x800, 0x808)]).toEqual(new Array(8).fill(0x5a));
    container.startDirtyTracking();
    expect(container.dirtyBitmap(0x100000n, 4096n, { pageSize: 4096 })[0]).toBe(1);
    container.stopDirtyTracking();
    edu.device[Symbol.dispose]();
    real.unsetContainer();
    expect(container.mappings()).toHaveLength(1);
    expect(container.unmapAll()).toBe(4096n);
  });
});

describe('a simulated one', () => {
  needs({ backends: ['software'], because: 'mtty does no DMA, and its driver keeps its devices apart' });

  for (const via of ['cdev', 'group-type1'] as const)
    test(`its DMA goes through the address space, by ${via}`, async () => {
      using user = host.attach(ONE, { via });
      const edu = new Edu(user.device);
      using memory = DmaBuffer.alloc(8192);
      memory.bytes.fill(0x11, 0, 4096);
      using mapping = user.dma.map(memory, { iova: 0x10000n });
      await edu.fetch(0x10ff8n, 8);
      await edu.store(0x11000n, 8);
      expect([...memory.bytes.subarray(4096, 4105)]).toEqual([...new Array(8).fill(0x11), 0]);
      expect(host.software?.takeFaults()).toEqual([]);
      using source = user.dma.map(memory, { iova: 0x20000n, write: false });
      await edu.store(0x20000n, 8);
      await edu.fetch(0x30000n, 8);
      expect(host.software?.takeFaults().map(({ bdf, iova, reason }) => [bdf, iova, reason])).toEqual([
        [ONE, 0x20000n, 'not writable'],
        [ONE, 0x30000n, 'not mapped'],
      ]);
      expect([mapping.iova, source.iova]).toEqual([0x10000n, 0x20000n]);
      const [interrupt] = user.device.irq('msi').enable(1);
      edu.start(0x10000n, 0x40000n, 8, false, true);
      expect(await interrupt?.wait({ timeout: 5000 })).toBe(1n);
    });

  test('type1 knows which pages it wrote', async () => {
    using user = host.attach(ONE, { via: 'group-type1' });
    const edu = new Edu(user.device);
    const container = user.dma as ReturnType<Host['openContainer']>;
    using memory = DmaBuffer.alloc(16 * 4096);
    container.map(memory, { iova: 0x100000n });
    container.startDirtyTracking();
    await edu.store(0x103ffcn, 8);
    await edu.fetch(0x108000n, 8);
    const dirty = () => [...container.dirtyBitmap(0x100000n, 16n * 4096n, { pageSize: 4096 })].slice(0, 2);
    expect(dirty()).toEqual([0b11000, 0]);
    expect(dirty()).toEqual([0, 0]);
  });

  test('E4: without isolation they share a group, which sysfs shows, and which has one user', async () => {
    using broken = Host.open({ backend: 'software', software: { topology: machine(false) } });
    const group = broken.device(ONE).group ?? -1;
    expect(broken.device(OTHER).group).toBe(group);
    expect(broken.group(group).devices.map(({ bdf }) => bdf)).toEqual([ONE, OTHER]);
    expect(broken.group(group).id).not.toBe(broken.device(PARENT).group);
    using user = broken.attach(ONE);
    expect(broken.group(group).dmaOwner).toBe('user');
    using iommufd = broken.openIommufd();
    const other = broken.openDevice(OTHER);
    expect(() => other.bind(iommufd)).toThrow(code('EPERM'));
    other[Symbol.dispose]();
    using together = broken.openDevice(OTHER);
    if (user.device.iommufd !== null) together.bind(user.device.iommufd);
    expect(together.id).not.toBeNull();
  });

  test('they are removed with their parent, and their programs are asked first', async () => {
    const user = host.attach(ONE);
    const [asked] = user.device.irq('req').enable(1);
    const gone = host.software?.removeDevice(PARENT);
    expect(await asked?.wait({ timeout: 5000 })).toBe(1n);
    const groups = [groupOf(ONE)];
    user[Symbol.dispose]();
    await gone;
    expect(() => host.device(ONE)).toThrow(code('ENODEV'));
    expect(() => host.device(OTHER)).toThrow(code('ENODEV'));
    expect(host.groups().map(({ id }) => id)).not.toEqual(expect.arrayContaining(groups));
  });

  test("they are removed with their parent's driver, which waits for programs that have one open", async () => {
    const parent = host.device(PARENT);
    {
      const user = host.attach(ONE);
      await expect(parent.unbind()).rejects.toThrow(
        code('EBUSY', RegExp(`has the device or its group open: ${ONE}, a mediated device of ${PARENT}$`)),
      );
      user[Symbol.dispose]();
      // With force this program's handles are disposed first; for its other descriptor the program is asked.
      using hidden = host.attach(ONE, { via: 'group-type1' });
      using rest = VfioDevice.fromFd(hidden.device.fd);
      const [asked] = rest.irq('req').enable(1);
      await expect(parent.unbind({ force: true })).rejects.toThrow(code('EBUSY'));
      expect([hidden.device.disposed, rest.disposed]).toEqual([true, false]);
      expect(await asked?.wait({ timeout: 5000 })).toBe(1n);
      expect([parent.driver, host.device(OTHER).mediated]).toEqual(['edu', true]);
    }
    const groups = [groupOf(ONE), groupOf(OTHER)];
    const user = host.attach(ONE);
    await parent.unbind({ force: true });
    expect(user.device.disposed).toBe(true);
    for (const uuid of [ONE, OTHER]) expect(() => host.device(uuid)).toThrow(code('ENODEV'));
    expect(host.groups().map(({ id }) => id)).not.toEqual(expect.arrayContaining(groups));
    await parent.bind();
    using its = host.attach(PARENT, { via: 'cdev' });
    expect(its.device.config.vendor).toBe(0x1234);
  });
});
