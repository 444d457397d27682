/**
 * Groups, containers, and Host.attach by all ways, on both backends. Numbers are behaviours of docs/behaviours.md.
 */
import { closeSync, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Container, DmaBuffer, type Group, type Host, VfioError } from '../lib/index.ts';
import {
  EDU,
  GROUP_OF_TWO,
  guestIommu,
  IVSHMEM,
  NO_TWO,
  needs,
  openHost,
  USABLE_TWO,
} from './support/backends.ts';
import { Edu, Reg } from './support/edu.ts';

let host: Host;
const buffers: DmaBuffer[] = [];
const memory = (size: number) => {
  const buffer = DmaBuffer.alloc(size);
  buffers.push(buffer);
  return buffer;
};
const code = (expected: string, reason = /(?:)/) =>
  expect.objectContaining({
    code: expected,
    ...(reason.source === '(?:)' ? {} : { reason: expect.stringMatching(reason) }),
  });
const groupOf = (bdf: string) => host.device(bdf).group ?? -1;

needs({ guest: ['intel', 'amd', 'virtio'], because: 'the other has no IOMMU, so no group' });

beforeEach(async () => {
  host = openHost();
  for (const bdf of [EDU, IVSHMEM, ...USABLE_TWO]) await host.device(bdf).bind();
});
afterEach(() => {
  host[Symbol.dispose]();
  for (const buffer of buffers.splice(0)) buffer[Symbol.dispose]();
});

/** Moves memory to the device's own buffer and back. */
async function echo(edu: Edu, buffer: DmaBuffer, iova: bigint, text: string): Promise<string> {
  buffer.write(0, Buffer.from(text));
  await edu.fetch(iova, text.length);
  await edu.store(iova + 2048n, text.length);
  const back = Buffer.alloc(text.length);
  buffer.read(2048, back);
  return back.toString();
}

describe('a group and a container', () => {
  let container: Container;
  let group: Group;
  beforeEach(() => {
    container = host.openContainer();
    group = host.openGroup(groupOf(EDU));
  });

  test('A2: group, container, device, DMA, interrupt; and disposing the container disposes all of them', async () => {
    expect([group.viable, group.containerSet, group.container, group.noIommu]).toEqual([
      true,
      false,
      null,
      false,
    ]);
    group.setContainer(container);
    expect([group.viable, group.containerSet, group.container]).toEqual([true, true, container]);
    container.setIommu('type1v2');
    const device = group.openDevice(EDU);
    expect([device.bdf, device.id, device.iommufd, device.info.pci]).toEqual([EDU, null, null, true]);
    const edu = new Edu(device);
    const buffer = memory(4096);
    const mapping = container.map(buffer);
    expect(await echo(edu, buffer, mapping.iova, 'by its group')).toBe('by its group');
    const [interrupt] = device.irq('msi').enable(1);
    device.irq('msi').trigger(0);
    expect(await interrupt?.wait({ timeout: 5000 })).toBe(1n);
    expect(host.group(group.id).dmaOwner).toBe('user');
    container[Symbol.dispose]();
    expect([device.disposed, group.disposed, container.disposed]).toEqual([true, true, true]);
    expect(host.group(group.id).dmaOwner).toBe('none');
    using again = host.openGroup(group.id);
    expect(again.containerSet).toBe(false);
  });

  test('without a group, an IOMMU, or twice: EINVAL, and the error says what is missing (76)', () => {
    expect(container.apiVersion).toBe(0);
    expect(container.iommuType).toBeNull();
    const noIommu = code('EINVAL', /the container has no IOMMU/);
    expect(() => container.setIommu('type1v2')).toThrow(code('EINVAL', /no group has joined/));
    expect(() => container.info()).toThrow(noIommu);
    expect(() => container.map(memory(4096))).toThrow(noIommu);
    expect(() => container.map(memory(4096), { iova: 0x1000 })).toThrow(noIommu);
    expect(() => container.unmap(0x1000, 0x1000)).toThrow(noIommu);
    expect(() => container.unmapAll()).toThrow(noIommu);
    expect(() => container.startDirtyTracking()).toThrow(noIommu);
    expect(() => group.openDevice(EDU)).toThrow(code('EINVAL', /no address space yet/));
    expect(() => group.unsetContainer()).toThrow(code('EINVAL', /is in no container/));
    group.setContainer(container);
    expect(() => group.setContainer(container)).toThrow(code('EINVAL', /already/));
    expect(() => group.openDevice(EDU)).toThrow(code('EINVAL'));
    container.setIommu('type1v2');
    expect(() => container.setIommu('type1')).toThrow(code('EINVAL', /its IOMMU already: type1v2/));
  });

  test('it says which extensions it has, and the properties of its IOMMU (110)', () => {
    const has = (['type1', 'type1v2', 'unmap-all', 'noiommu'] as const).map((each) =>
      container.supports(each),
    );
    expect(has).toEqual([true, true, true, false]);
    for (const each of ['spapr-tce', 'spapr-tce-v2', 'eeh', 'update-vaddr'] as const)
      expect(container.supports(each)).toBe(false);
    group.setContainer(container);
    container.setIommu('type1v2');
    // A mediated device in the container forbids it, which is known only now.
    expect(container.supports('update-vaddr')).toBe(true);
    const info = container.info();
    expect(info.pageSizes & 4096n).toBe(4096n);
    expect(info.dmaAvailable).toBe(65535);
    expect(info.migration).toEqual({ pageSizes: 4096n, maxDirtyBitmapSize: 256n << 20n });
    const reserved = host.group(group.id).reservedRegions.filter((each) => each.type !== 'direct-relaxable');
    for (const { start, last } of reserved)
      expect(info.ranges.some((each) => each.start <= last && each.last >= start)).toBe(false);
    using _mapping = container.map(memory(4096));
    expect(container.info().dmaAvailable).toBe(65534);
  });

  test('one file of a group at a time: EBUSY, by either way (72)', () => {
    expect(() => host.openGroup(group.id)).toThrow(code('EBUSY', /is open already/));
    using device = host.openDevice(EDU);
    using iommufd = host.openIommufd();
    expect(() => device.bind(iommufd)).toThrow(code('EBUSY', /group file .* is open/));
    group[Symbol.dispose]();
    device.bind(iommufd);
    expect(() => host.openGroup(group.id)).toThrow(code('EBUSY', /character device/));
  });

  test('a group or a device that is not there (76)', () => {
    expect(() => host.openGroup(4711)).toThrow(
      expect.objectContaining({ reason: 'there is no group 4711', syscall: 'open', path: '/dev/vfio/4711' }),
    );
    expect(() => group.openDevice('0000:7f:00.0')).toThrow(code('ENODEV', /is not in group/));
  });

  test('A4, B2: a member with a host driver: not viable, EPERM, and the error says which (74)', async (ctx) => {
    needs(ctx, { guest: ['intel', 'amd'], because: NO_TWO });
    const driver = host.backend === 'kernel' ? 'uio_pci_generic' : 'nvme';
    const sibling = host.device(GROUP_OF_TWO[1]);
    await sibling.bind(driver);
    try {
      using both = host.openGroup(groupOf(GROUP_OF_TWO[0]));
      expect(both.viable).toBe(false);
      expect(() => both.setContainer(container)).toThrow(
        code(
          'EPERM',
          new RegExp(`group ${both.id} is not viable: ${sibling.bdf} is in use by driver ${driver}`),
        ),
      );
      using iommufd = host.openIommufd();
      both.setContainer(iommufd); // this does not claim the DMA yet
      expect(() => both.openDevice(GROUP_OF_TWO[0])).toThrow(code('EPERM', /is not viable/));
    } finally {
      await sibling.bind();
    }
  });

  test('a device may be opened twice; while one is open the group stays in its container (77, 78)', () => {
    group.setContainer(container);
    container.setIommu('type1v2');
    const devices = [group.openDevice(EDU), group.openDevice(EDU)];
    expect(() => group.unsetContainer()).toThrow(code('EBUSY', /devices of group \d+ are open/));
    devices[0]?.[Symbol.dispose]();
    expect(() => group.unsetContainer()).toThrow(code('EBUSY'));
    devices[1]?.[Symbol.dispose]();
    group.unsetContainer();
    expect([group.container, group.containerSet]).toEqual([null, false]);
  });

  test('with its last group a container loses its IOMMU and its mappings', () => {
    group.setContainer(container);
    const other = host.openGroup(groupOf(IVSHMEM));
    other.setContainer(container);
    container.setIommu('type1v2');
    const mapping = container.map(memory(4096), { iova: 0x10000 });
    group.unsetContainer();
    expect(container.iommuType).toBe('type1v2');
    expect(container.mappings()).toHaveLength(1);
    other[Symbol.dispose]();
    expect(container.iommuType).toBeNull();
    expect(container.mappings()).toEqual([]);
    mapping[Symbol.dispose](); // it is unmapped already: no effect
    group.setContainer(container);
    container.setIommu('type1');
    expect(container.iommuType).toBe('type1');
    expect(container.map(memory(4096), { iova: 0x10000 }).iova).toBe(0x10000n);
  });

  test('a device that is opened by its group can be neither bound nor attached', () => {
    group.setContainer(container);
    container.setIommu('type1v2');
    const device = group.openDevice(EDU);
    using iommufd = host.openIommufd();
    expect(() => device.bind(iommufd)).toThrow(code('EINVAL', /was opened through group/));
    expect(() => device.attach(iommufd.allocIoas())).toThrow(code('ENOTTY', /was opened through group/));
    expect(() => device.detach()).toThrow(code('ENOTTY'));
  });

  test('a superfluous or malformed token is refused', () => {
    group.setContainer(container);
    container.setIommu('type1v2');
    const vfToken = '00112233-4455-6677-8899-aabbccddeeff';
    expect(() => group.openDevice(EDU, { vfToken })).toThrow(
      code('EINVAL', /takes no token: it has no virtual functions and is none/),
    );
    expect(() => group.openDevice(EDU, { vfToken: 'x' })).toThrow(
      "Expected a UUID such as '00112233-4455-6677-8899-aabbccddeeff' for vfToken",
    );
  });
});

describe("type1's own rules", () => {
  let container: Container;
  const start = (type: 'type1' | 'type1v2') => {
    container = host.openContainer();
    host.openGroup(groupOf(EDU)).setContainer(container);
    container.setIommu(type);
  };

  test('type1v2: an unmap that cuts a mapping is EINVAL, and unmaps nothing; one where nothing is mapped gives 0n (107)', () => {
    start('type1v2');
    for (const iova of [0x10000, 0x20000]) container.map(memory(0x2000), { iova });
    expect(() => container.unmap(0x10000, 0x11000)).toThrow(
      code('EINVAL', /cuts the mapping \[0x20000, 0x21fff\]/),
    );
    expect(container.mappings()).toHaveLength(2);
    expect(container.unmap(0x30000, 0x1000)).toBe(0n);
    expect(container.unmap(0x8000, 0x30000)).toBe(0x4000n);
    expect(container.mappings()).toEqual([]);
  });

  test('type1: a mapping that begins in the range is unmapped whole, one that begins before it stays (107)', () => {
    start('type1');
    for (const iova of [0x10000, 0x20000]) container.map(memory(0x2000), { iova });
    expect(container.unmap(0x11000, 0x20000)).toBe(0n);
    expect(container.mappings()).toHaveLength(2);
    expect(container.unmap(0x10000, 0x1000)).toBe(0x2000n);
    expect(container.mappings().map(({ iova }) => iova)).toEqual([0x20000n]);
    expect(container.map(memory(0x1000), { iova: 0x11000 }).iova).toBe(0x11000n);
    expect(container.unmapAll()).toBe(0x3000n);
    expect(container.unmapAll()).toBe(0n);
  });

  test('no right to read or write, wraps, odd sizes: EINVAL; overlap: EEXIST', () => {
    start('type1v2');
    const buffer = memory(0x2000);
    expect(() => container.map(buffer, { iova: 0x1000, read: false, write: false })).toThrow(code('EINVAL'));
    expect(() => container.map(buffer, { iova: 2n ** 64n - 0x1000n })).toThrow(code('EINVAL'));
    expect(() => container.map(buffer, { iova: 0x1800 })).toThrow(
      code('EINVAL', /iova 0x1800 is not a multiple/),
    );
    expect(() => container.map(buffer.slice(0, 0x800), { iova: 0x1000 })).toThrow(
      code('EINVAL', /length 0x800/),
    );
    expect(() => container.map(buffer, { iova: 0xfee00000n })).toThrow(
      code('EINVAL', /touches the reserved range \[0xfee00000, 0xfeefffff\]/),
    );
    container.map(buffer, { iova: 0x10000 });
    expect(() => container.map(buffer, { iova: 0x11000 })).toThrow(
      code('EEXIST', /overlaps the mapping \[0x10000, 0x11fff\]/),
    );
    expect(() => container.unmap(0x10000, 0)).toThrow(code('EINVAL'));
    expect(container.mappings()).toHaveLength(1);
  });

  test('dirty pages: EINVAL while off, no effect if started twice, every pinned page of a mapping is dirty, unmap in the same step (109)', () => {
    start('type1v2');
    const o = { pageSize: 4096 };
    container.map(memory(0x5000), { iova: 0x10000 });
    expect(() => container.dirtyBitmap(0x10000, 0x5000, o)).toThrow(code('EINVAL'));
    container.startDirtyTracking();
    container.startDirtyTracking();
    expect([...container.dirtyBitmap(0x10000, 0x5000, o)]).toEqual([0b11111]);
    expect(() => container.dirtyBitmap(0x10000, 0x5000, { pageSize: 8192 })).toThrow(code('EINVAL'));
    container.map(memory(0x3000), { iova: 0x20000 });
    expect([...container.dirtyBitmap(0x20000, 0x3000, { ...o, unmap: true })]).toEqual([0b111]);
    expect(container.mappings().map(({ iova }) => iova)).toEqual([0x10000n]);
    expect(() => container.dirtyBitmap(0x11000, 0x1000, { ...o, unmap: true })).toThrow(
      code('EINVAL', /cuts the mapping/),
    );
    container.stopDirtyTracking();
    container.stopDirtyTracking();
    expect(() => container.dirtyBitmap(0x10000, 0x5000, o)).toThrow(code('EINVAL'));
  });

  test('dirty pages on type1: EACCES (109)', () => {
    start('type1');
    expect(() => container.startDirtyTracking()).toThrow(code('EACCES', /dirty pages need 'type1v2'/));
    expect(() => container.dirtyBitmap(0x1000, 0x1000, { pageSize: 4096 })).toThrow(code('EACCES'));
  });

  test('user addresses can change: the mapping keeps the new memory, and the old buffer may be disposed (108)', () => {
    start('type1v2');
    const path = `/dev/shm/vfio-groups-${process.pid}`;
    const fd = openSync(path, 'w+');
    unlinkSync(path);
    ftruncateSync(fd, 8192);
    const first = DmaBuffer.fromFd(fd, { length: 8192 });
    const second = DmaBuffer.fromFd(fd, { length: 8192 });
    closeSync(fd);
    buffers.push(first, second);
    const mapping = container.map(first, { iova: 0x10000 });
    expect(() => container.updateVaddr(mapping, second)).toThrow(code('EINVAL'));
    expect(container.invalidateVaddr(0x10000, 0x2000)).toBe(0x2000n);
    expect(() => container.invalidateAllVaddrs()).toThrow(code('EINVAL'));
    expect(() => container.updateVaddr(mapping, second.slice(0, 4096))).toThrow(code('EINVAL'));
    container.updateVaddr(mapping, second);
    first[Symbol.dispose]();
    expect(container.mappings()).toEqual([{ iova: 0x10000n, length: 0x2000n, writable: true }]);
    mapping[Symbol.dispose]();
    expect(() => container.updateVaddr(mapping, second)).toThrow(code('ENOENT'));
  });

  test('65535 mappings, and not one more: ENOSPC (106)', (ctx) => {
    needs(ctx, { backends: ['software'], because: 'the guest takes minutes for them' });
    start('type1v2');
    const page = memory(4096);
    for (let i = 0; i < 65535; i++) container.map(page);
    expect(container.info().dmaAvailable).toBe(0);
    expect(() => container.map(page)).toThrow(code('ENOSPC'));
    expect(container.unmapAll()).toBe(65535n * 4096n);
  });

  test('places are chosen beside existing mappings, and outside the ranges that a group reserves that joined later', async () => {
    start('type1v2');
    const [usable] = container.iovaRanges().ranges;
    const places = [1, 2, 1].map((pages) => container.map(memory(pages * 4096)));
    for (const { iova, length } of places) {
      expect(iova).toBeGreaterThan(0n);
      expect(iova + length - 1n).toBeLessThanOrEqual(usable?.last ?? 0n);
    }
    places[1]?.[Symbol.dispose]();
    // The range that was freed is the smallest one that fits.
    expect(container.map(memory(4096)).iova).toBe(places[1]?.iova);
    const big = container.map(memory(4 << 20));
    expect(big.iova % (2n << 20n)).toBe(0n);
    const [a, b] = await Promise.all([container.mapAsync(memory(8192)), container.mapAsync(memory(8192))]);
    expect(a.iova).not.toBe(b.iova);
    expect(container.mappings()).toHaveLength(6);
  });

  test('two groups in one container share its mappings (A2)', async (ctx) => {
    needs(ctx, {
      guest: ['intel'],
      because: "DMA from behind the bridge does not arrive with QEMU's others",
    });
    start('type1v2');
    const group = host.openGroup(groupOf(GROUP_OF_TWO[0]));
    group.setContainer(container);
    const buffer = memory(4096);
    const { iova } = container.map(buffer);
    const second = new Edu(group.openDevice(GROUP_OF_TWO[0]));
    expect(await echo(second, buffer, iova, 'second')).toBe('second');
    const third = new Edu(group.openDevice(GROUP_OF_TWO[1]));
    expect(await echo(third, buffer, iova, 'third')).toBe('third');
  });
});

describe('a group and an iommufd', () => {
  test('A2, D4: the iommufd makes an address space for the devices of the group, which keep it (68, 78)', async () => {
    const iommufd = host.openIommufd();
    const group = host.openGroup(groupOf(EDU));
    expect(iommufd.vfioCompatIoas).toBeNull();
    group.setContainer(iommufd);
    const ioas = iommufd.vfioCompatIoas;
    expect(ioas).not.toBeNull();
    const device = group.openDevice(EDU);
    const buffer = memory(4096);
    const mapping = ioas?.map(buffer);
    expect(await echo(new Edu(device), buffer, mapping?.iova ?? 0n, 'iommufd')).toBe('iommufd');
    // The requests of a container show the same.
    const container = iommufd.container();
    container.setIommu('type1v2');
    expect(container.mappings()).toHaveLength(1);
    // Unlike in a container, this works while a device is open.
    group.unsetContainer();
    expect(group.container).toBeNull();
    iommufd[Symbol.dispose]();
  });
});

describe('A3: one flow', () => {
  test.each(['cdev', 'group-iommufd', 'group-type1'] as const)('%s: the same program', async (via) => {
    const user = host.attach(EDU, { via });
    expect([user.via, user.device.bdf]).toEqual([via, EDU]);
    const buffer = memory(4096);
    using mapping = user.dma.map(buffer);
    expect(await echo(new Edu(user.device), buffer, mapping.iova, via)).toBe(via);
    user[Symbol.dispose]();
    user[Symbol.dispose]();
    using again = host.attach(EDU, { via });
    expect(again.dma.mappings()).toEqual([]);
  });

  // Each way, with each driver that the other device of the group may be bound to.
  test.for(
    (['cdev', 'group-iommufd', 'group-type1'] as const).flatMap((via) =>
      ([null, 'pci-stub', 'vfio-pci'] as const).map((neighbour) => [via, neighbour] as const),
    ),
  )('A3 E3: %s, while the other device of the group is bound to %s', async ([via, neighbour], ctx) => {
    needs(ctx, { guest: ['intel', 'amd'], because: NO_TWO });
    const [first, second] = GROUP_OF_TWO;
    if (neighbour === null) await host.device(second).unbind();
    else await host.device(second).bind(neighbour);
    expect(host.group(groupOf(first)).viability()).toEqual({ viable: true, blockers: [] });
    const user = host.attach(first, { via });
    const edu = new Edu(user.device);
    edu.registers.write32(Reg.liveness, 0x1234);
    expect(edu.registers.read32(Reg.liveness)).toBe(0xffffedcb);
    // QEMU's AMD IOMMU blocks DMA from behind a conventional bridge.
    if (guestIommu !== 'amd') {
      const buffer = memory(4096);
      expect(await echo(edu, buffer, user.dma.map(buffer).iova, 'in a group')).toBe('in a group');
    }
    // If the other device is not bound to a VFIO driver it can't be opened; if it is, the same user can open it.
    const other = () => host.attach(second, { via: 'cdev' });
    if (neighbour !== 'vfio-pci') expect(other).toThrow(code('ENODEV'));
    else expect(other).toThrow(via === 'cdev' ? code('EPERM') : code('EBUSY'));
    user[Symbol.dispose]();
  });

  test('the first way that works is taken, and the errors of the others are kept', () => {
    using first = host.attach(EDU);
    expect(first.via).toBe('cdev');
    const caught = (() => {
      try {
        host.attach(EDU);
        throw new Error('attached twice');
      } catch (error) {
        return error;
      }
    })();
    expect(caught).toBeInstanceOf(VfioError);
    expect((caught as VfioError).reason).toMatch(
      /bound already.*; and by group-iommufd: EBUSY, .*character device/,
    );
    const { cause } = caught as { cause?: AggregateError };
    expect(cause?.errors.map((each: VfioError) => each.code)).toEqual(['EINVAL', 'EBUSY', 'EBUSY']);
  });

  test('a device without an IOMMU is attached only if the caller asks for it', () => {
    expect(() => host.attach(EDU, { via: 'noiommu' })).toThrow(code('EPERM', /nothing confines/));
    expect(() => host.attach(EDU, { via: 'noiommu', unsafeNoIommu: true })).toThrow(
      code('ENODEV', /has an IOMMU/),
    );
  });
});

describe('hot reset', () => {
  test('by groups: it says which functions are reset, and needs all of their groups (100)', async (ctx) => {
    needs(ctx, { guest: ['intel', 'amd'], because: NO_TWO });
    const [one, two] = GROUP_OF_TWO;
    using user = host.attach(one, { via: 'group-type1' });
    const group = groupOf(one);
    expect(user.device.hotResetInfo()).toEqual(
      [one, two].map((bdf) => ({ bdf, group, deviceId: null, owned: true })),
    );
    await user.device.hotReset();
    await expect(user.device.hotReset({ groups: [] })).rejects.toThrow(
      code(
        'EINVAL',
        new RegExp(`${one} of group ${group}, ${two} of group ${group}, whose group was not given`),
      ),
    );
    const stranger = host.openGroup(groupOf(EDU));
    await expect(user.device.hotReset({ groups: [stranger] })).rejects.toThrow(code('EINVAL'));
    expect(user.device.config.vendor).toBe(0x1234);
  });

  test('by device ids: functions of the same iommufd, or of a group that it owns (100, 101)', async (ctx) => {
    needs(ctx, { guest: ['intel', 'amd'], because: NO_TWO });
    const [one, two] = GROUP_OF_TWO;
    const group = groupOf(one);
    using user = host.attach(one, { via: 'cdev' });
    const about = (bdf: string, deviceId: number | null) => ({ bdf, group, deviceId, owned: true });
    expect(user.device.hotResetInfo()).toEqual([about(one, user.device.id), about(two, null)]);
    await user.device.hotReset();
    await expect(user.device.hotReset({ groups: [] })).resolves.toBeUndefined();
  });

  test('a device whose slot and bus can not be reset: ENODEV', () => {
    using user = host.attach(EDU, { via: 'cdev' });
    expect(() => user.device.hotResetInfo()).toThrow(code('ENODEV', /neither its slot nor its bus/));
  });
});
