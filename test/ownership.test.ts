/** The owner of a group's DMA, the calls that it forbids, and devices that are added and removed meanwhile. */
import { expect, test } from 'vitest';
import { Host, type Topology } from '../lib/index.ts';
import { backend, GROUP_OF_TWO, HOST_DRIVER, NO_TWO, needs, openHost } from './support/backends.ts';

const [FIRST, SECOND] = GROUP_OF_TWO;
const HOT_PLUG = { backends: ['software'], because: 'plugs devices in, as no system call can' } as const;
const EXACT = { backends: ['software'], because: 'a kernel does not tell count and file' } as const;
const TWO = { guest: ['intel', 'amd'], because: NO_TWO } as const;

/** One group: a conventional bridge with two edu, and an edu alone. */
const machine = (second: string | null = 'vfio-pci', alone = 'vfio-pci'): Topology => ({
  devices: [
    { model: 'bridge', bdf: '0000:00:01.0' },
    { model: 'edu', bdf: '0000:01:01.0', behind: '0000:00:01.0', driver: 'vfio-pci' },
    { model: 'edu', bdf: '0000:01:02.0', behind: '0000:00:01.0', driver: second },
    { model: 'edu', bdf: '0000:00:02.0', driver: alone },
  ],
});
const openMachine = (second?: string | null, alone?: string) =>
  Host.open({ backend: 'software', software: { topology: machine(second, alone) } });

const busMaster = (host: Host, bdf: string): boolean => {
  using device = host.openDevice(bdf);
  using iommufd = host.openIommufd();
  device.bind(iommufd);
  return (device.config.read16(4) & 4) !== 0;
};

test('B1 B2: a user owns the group, and kernel drivers can not be bound in it', async (ctx) => {
  needs(ctx, TWO);
  using host = openHost();
  for (const bdf of GROUP_OF_TWO) await host.device(bdf).bind();
  const group = host.group(host.device(FIRST).group ?? -1);
  expect(group.dmaOwnership).toEqual({ owner: 'none', count: 0, fd: null, inferred: backend === 'kernel' });
  {
    using user = host.attach(FIRST);
    expect(group.dmaOwner).toBe('user');
    await expect(host.device(SECOND).bind(HOST_DRIVER)).rejects.toThrow(
      expect.objectContaining({ code: 'EBUSY', reason: expect.stringContaining('in use by user space') }),
    );
    expect(host.device(SECOND).driver).toBe('vfio-pci');
    expect(user.dma.unmapAll()).toBe(0n);
  }
  expect(group.dmaOwner).toBe('none');
});

test('B1: the software host knows owner, count and file', (ctx) => {
  needs(ctx, EXACT);
  using host = openMachine();
  const group = host.group(host.device('0000:01:01.0').group ?? -1);
  using iommufd = host.openIommufd();
  using first = host.openDevice('0000:01:01.0');
  using second = host.openDevice('0000:01:02.0');
  first.bind(iommufd);
  expect(group.dmaOwnership).toEqual({ owner: 'user', count: 1, fd: iommufd.fd, inferred: false });
  second.bind(iommufd);
  expect(group.dmaOwnership).toMatchObject({ owner: 'user', count: 2, fd: iommufd.fd });
  first[Symbol.dispose]();
  expect(group.dmaOwnership).toMatchObject({ owner: 'user', count: 1 });
  second[Symbol.dispose]();
  expect(group.dmaOwnership).toEqual({ owner: 'none', count: 0, fd: null, inferred: false });
});

test('B2: the same user may claim again, another may not', async (ctx) => {
  needs(ctx, TWO);
  using host = openHost();
  for (const bdf of GROUP_OF_TWO) await host.device(bdf).bind();
  using user = host.openIommufd();
  using first = host.openDevice(FIRST);
  first.bind(user);
  {
    using other = host.openIommufd();
    using second = host.openDevice(SECOND);
    expect(() => second.bind(other)).toThrow(expect.objectContaining({ code: 'EPERM' }));
  }
  using second = host.openDevice(SECOND);
  second.bind(user);
  expect(second.id).not.toBe(first.id);
});

test('B3: page tables come from the owner alone', async (ctx) => {
  needs(ctx, TWO);
  using host = openHost();
  for (const bdf of GROUP_OF_TWO) await host.device(bdf).bind();
  using owner = host.openIommufd();
  using other = host.openIommufd();
  using first = host.openDevice(FIRST);
  first.bind(owner);
  const mine = owner.allocIoas();
  first.attach(mine);
  // An id is valid in its own iommufd only.
  expect(() => first.attach(other.allocIoas())).toThrow(
    'Expected an Ioas or a Hwpt of the iommufd that the device is bound to for to',
  );
  // The other device of the group must be bound to the owner's iommufd first.
  using second = host.openDevice(SECOND);
  expect(() => second.attach(mine)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  // A container can't claim the group either.
  expect(() => host.openGroup(host.device(SECOND).group ?? -1)).toThrow(
    expect.objectContaining({ code: 'EBUSY' }),
  );
  second.bind(owner);
  second.attach(mine);
});

test('B2: while a kernel driver is bound to a member, no user gets the group', async (ctx) => {
  needs(ctx, TWO);
  using host = openHost();
  await host.device(FIRST).bind();
  await host.device(SECOND).bind(HOST_DRIVER);
  const group = host.group(host.device(FIRST).group ?? -1);
  expect(group.dmaOwner).toBe('kernel');
  expect(() => host.attach(FIRST)).toThrow(expect.objectContaining({ code: 'EPERM' }));
  await host.device(SECOND).unbind();
  {
    using _user = host.attach(FIRST);
    await expect(host.device(SECOND).bind(HOST_DRIVER)).rejects.toThrow(
      expect.objectContaining({ code: 'EBUSY' }),
    );
    expect(host.device(SECOND).driver).toBeNull();
  }
  await host.device(SECOND).bind(HOST_DRIVER);
  expect(host.device(SECOND).driver).toBe(HOST_DRIVER);
});

test('A3 B2: a driver made from vfio-pci lets programs use its device, and own the group', async (ctx) => {
  needs(ctx, TWO);
  // The guest's driver takes any device; a simulated host has the drivers that it starts with.
  const variant = 'virtio_vfio_pci';
  using host = backend === 'kernel' ? openHost() : openMachine('pci-stub', variant);
  const [first, second] = backend === 'kernel' ? GROUP_OF_TWO : ['0000:01:01.0', '0000:01:02.0'];
  await host.device(first).bind();
  await host.device(second).bind(variant);
  const device = host.device(second);
  expect([device.driver, device.driverOverride]).toEqual([variant, variant]);
  expect(device.vfioNode).toMatch(/^\/dev\/vfio\/devices\/vfio\d+$/);
  const group = host.group(device.group ?? -1);
  expect(group.viability()).toEqual({ viable: true, blockers: [] });
  expect(group.dmaOwner).toBe('none');
  expect(host.diagnose(second)).toMatchObject({ usable: true });
  for (const via of ['cdev', 'group-iommufd', 'group-type1'] as const) {
    using user = host.attach(second, { via });
    expect(user.device.config.vendor).toBe(0x1234);
    expect(group.dmaOwner).toBe('user');
    await expect(host.device(first).bind(HOST_DRIVER)).rejects.toThrow(
      expect.objectContaining({ code: 'EBUSY' }),
    );
  }
  {
    using iommufd = host.openIommufd();
    const both = [first, second].map((bdf) => host.openDevice(bdf));
    for (const each of both) each.bind(iommufd);
    expect(both.map((each) => each.id)).not.toContain(null);
    // The reason says that a program has it open, not a driver of the host.
    await expect(device.unbind()).rejects.toThrow(
      expect.objectContaining({
        code: 'EBUSY',
        reason: expect.stringContaining('has the device or its group open'),
      }),
    );
    for (const each of both) each[Symbol.dispose]();
  }
  await device.bind();
  expect(device.driver).toBe('vfio-pci');
});

test.for([
  'hisi_acc_vfio_pci',
  'ism_vfio_pci',
  'mlx5_vfio_pci',
  'nvgrace_gpu_vfio_pci',
  'pds_vfio_pci',
  'qat_vfio_pci',
  'virtio_vfio_pci',
  'xe-vfio-pci',
])('A3: a machine can start with %s', (driver, ctx) => {
  needs(ctx, { backends: ['software'], because: 'all but one of them take devices of one maker only' });
  using host = openMachine('vfio-pci', driver);
  expect(host.device('0000:00:02.0').driver).toBe(driver);
  using user = host.attach('0000:00:02.0');
  expect(user.via).toBe('cdev');
  // They do no DMA for the kernel, so they can't have a page table of their own there.
  expect(() => host.software?.bindKernelDriver('0000:00:02.0', driver, { exclusive: true })).toThrow(
    expect.objectContaining({ code: 'EINVAL' }),
  );
});

test('B2: a driver that matches a device is refused in the same way, and the count is exact', async (ctx) => {
  needs(ctx, EXACT);
  using host = openMachine();
  const { software } = host;
  const group = host.group(host.device('0000:01:01.0').group ?? -1);
  software?.bindKernelDriver('0000:01:02.0', 'e1000e');
  expect(group.dmaOwnership).toEqual({ owner: 'kernel', count: 1, fd: null, inferred: false });
  await host.device('0000:01:02.0').unbind();
  {
    using _user = host.attach('0000:01:01.0');
    expect(() => software?.bindKernelDriver('0000:01:02.0', 'e1000e')).toThrow(
      expect.objectContaining({ code: 'EBUSY', reason: expect.stringContaining('a user owns') }),
    );
    expect(host.device('0000:01:02.0').driver).toBeNull();
  }
  software?.bindKernelDriver('0000:01:02.0', 'e1000e');
  expect(host.device('0000:01:02.0').driver).toBe('e1000e');
});

test('B4: a kernel driver that attaches a page table of its own shares the group with nobody', async (ctx) => {
  needs(ctx, {
    backends: ['software'],
    because: 'no driver of the guest attaches a page table of its own (iommu_attach_device)',
  });
  using host = openMachine();
  const { software } = host;
  const exclusive = { exclusive: true };
  const code = (expected: string) => expect.objectContaining({ code: expected });
  // The device must be alone in its group, since the page table would translate the others too.
  expect(() => software?.bindKernelDriver('0000:01:02.0', 'tegra-vde', exclusive)).toThrow(code('EINVAL'));
  expect(host.device('0000:01:02.0').driver).toBe('vfio-pci');
  // A driver that does no DMA for the kernel can't have one.
  expect(() => software?.bindKernelDriver('0000:00:02.0', 'pci-stub', exclusive)).toThrow(code('EINVAL'));
  // A device of a group that a user owns can't be bound.
  {
    using _user = host.attach('0000:00:02.0');
    expect(() => software?.bindKernelDriver('0000:00:02.0', 'tegra-vde', exclusive)).toThrow(code('EBUSY'));
  }
  software?.bindKernelDriver('0000:00:02.0', 'tegra-vde', exclusive);
  const group = host.group(host.device('0000:00:02.0').group ?? -1);
  // The ownership has no file, and counts once.
  expect(group.dmaOwnership).toEqual({ owner: 'kernel', count: 1, fd: null, inferred: false });
  await host.device('0000:00:02.0').unbind();
  expect(group.dmaOwner).toBe('none');
  await host.device('0000:00:02.0').bind();
  using user = host.attach('0000:00:02.0');
  expect(user.via).toBe('cdev');
});

test('B4, B5: a device that joins the group of a driver with its own page table gets no driver, and no user', async (ctx) => {
  needs(ctx, HOT_PLUG);
  using host = Host.open({
    backend: 'software',
    // A port without ACS, with no device behind it yet.
    software: {
      topology: { devices: [{ model: 'root-port', bdf: '0000:00:01.0', acs: false, driver: null }] },
    },
  });
  const { software } = host;
  software?.bindKernelDriver('0000:00:01.0', 'tegra-vde', { exclusive: true });
  software?.addDevice('0000:01:00.0', { model: 'edu' }, { behind: '0000:00:01.0', driver: 'e1000e' });
  const newcomer = host.device('0000:01:00.0');
  expect([newcomer.group, newcomer.driver]).toEqual([host.device('0000:00:01.0').group, null]);
  await expect(newcomer.bind('e1000e')).rejects.toThrow(expect.objectContaining({ code: 'EBUSY' }));
  await newcomer.bind();
  expect(() => host.attach('0000:01:00.0')).toThrow(expect.objectContaining({ code: 'EPERM' }));
  await host.device('0000:00:01.0').unbind();
  await newcomer.bind('e1000e');
  expect(newcomer.driver).toBe('e1000e');
  // Now the group has two devices, and neither can have a page table of its own.
  expect(() => software?.bindKernelDriver('0000:00:01.0', 'tegra-vde', { exclusive: true })).toThrow(
    expect.objectContaining({ code: 'EINVAL' }),
  );
});

test('E3: a device that is unbound from its kernel driver is inactive: no bus mastering, no node', async (ctx) => {
  needs(ctx, TWO);
  using host = openHost();
  await host.device(FIRST).bind();
  const device = host.device(SECOND);
  await device.bind(HOST_DRIVER);
  await device.unbind();
  expect(device.vfioNode).toBeNull();
  expect(() => host.openDevice(SECOND)).toThrow(expect.objectContaining({ code: 'ENODEV' }));
  using _user = host.attach(FIRST);
  expect(host.group(device.group ?? -1).viability()).toEqual({ viable: true, blockers: [] });
  await device.bind();
  _user[Symbol.dispose]();
  expect(busMaster(host, SECOND)).toBe(false);
});

test('B5: a device that joins an owned group is translated with it, and gets no kernel driver', (ctx) => {
  needs(ctx, HOT_PLUG);
  using host = openMachine();
  const { software } = host;
  const group = host.device('0000:01:01.0').group ?? -1;
  using user = host.attach('0000:01:01.0');
  software?.addDevice('0000:01:05.0', { model: 'edu' }, { driver: 'e1000e' });
  expect(host.device('0000:01:05.0').group).toBe(group);
  expect(host.device('0000:01:05.0').driver).toBeNull();
  software?.addDevice('0000:01:06.0', { model: 'edu' });
  expect(host.device('0000:01:06.0').driver).toBe('vfio-pci');
  using stranger = host.openIommufd();
  using joined = host.openDevice('0000:01:06.0');
  expect(() => joined.bind(stranger)).toThrow(expect.objectContaining({ code: 'EPERM' }));
  expect(host.group(group).dmaOwnership).toMatchObject({ owner: 'user', count: 1 });
  expect(user.device.bdf).toBe('0000:01:01.0');
});

test('a device is plugged in where its address says, with a group of its own', async (ctx) => {
  needs(ctx, HOT_PLUG);
  using host = openMachine();
  const { software } = host;
  software?.addDevice('0000:00:03.0', { model: 'edu' });
  const device = host.device('0000:00:03.0');
  expect(device.driver).toBe('vfio-pci');
  expect(host.group(device.group ?? -1).devices.map(({ bdf }) => bdf)).toEqual(['0000:00:03.0']);
  {
    using user = host.attach('0000:00:03.0');
    const registers = user.device.region('bar0');
    expect(registers.read32(0)).toBe(0x010000ed);
  }
  const { group } = device;
  await software?.removeDevice('0000:00:03.0');
  expect(() => host.device('0000:00:03.0')).toThrow(expect.objectContaining({ code: 'ENODEV' }));
  expect(() => host.group(group ?? -1)).toThrow(expect.objectContaining({ code: 'ENODEV' }));
  // The number is free again.
  software?.addDevice('0000:00:04.0', { model: 'ivshmem' }, { driver: null });
  expect(host.device('0000:00:04.0')).toMatchObject({ group, driver: null });
});

test('unplugging a device in use asks its program, waits, and then the device is removed', async (ctx) => {
  needs(ctx, HOT_PLUG);
  using host = openMachine();
  const user = host.attach('0000:00:02.0');
  const [request] = user.device.irq('req').enable(1);
  let gone = false;
  const removal = host.software?.removeDevice('0000:00:02.0').then(() => {
    gone = true;
  });
  expect(await request?.wait({ timeout: 5000 })).toBe(1n);
  expect(() => host.openDevice('0000:00:02.0')).toThrow(expect.objectContaining({ code: 'ENODEV' }));
  // Its driver is being unbound, and sysfs no longer shows it.
  expect(host.device('0000:00:02.0').driver).toBeNull();
  // The program that has it open can go on until it closes it.
  expect(user.device.region('bar0').read32(0)).toBe(0x010000ed);
  expect(gone).toBe(false);
  user[Symbol.dispose]();
  await removal;
  expect(gone).toBe(true);
  expect(host.devices().map(({ bdf }) => bdf)).not.toContain('0000:00:02.0');
});

test('unplugging a bridge removes the devices behind it', async (ctx) => {
  needs(ctx, HOT_PLUG);
  using host = openMachine();
  await host.software?.removeDevice('0000:00:01.0');
  expect(host.devices().map(({ bdf }) => bdf)).toEqual(['0000:00:02.0']);
  expect(host.groups()).toHaveLength(1);
});

test('a device that can’t be plugged in is refused, with the reason', async (ctx) => {
  needs(ctx, HOT_PLUG);
  using host = openMachine();
  const { software } = host;
  expect(() => software?.addDevice('0000:00:02.0', { model: 'edu' })).toThrow(
    'Expected an address that no other device has for device.bdf but received "0000:00:02.0"',
  );
  expect(() => software?.addDevice('0000:77:00.0', { model: 'edu' })).toThrow(
    'Expected an address on a bus that is there for device.bdf but received "0000:77:00.0"',
  );
  expect(() => software?.addDevice('0000:00:05.0', { model: 'root-port' })).toThrow(
    'Expected a device that is',
  );
  await expect(software?.removeDevice('0000:00:05.0')).rejects.toThrow(
    expect.objectContaining({ code: 'ENODEV' }),
  );
  expect(() => software?.bindKernelDriver('0000:00:02.0', '../x')).toThrow(
    "Expected the name of a driver such as 'nvme' for driver but received '../x'",
  );
});
