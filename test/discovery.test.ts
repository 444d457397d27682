/** Discovery of a host's devices, drivers and groups, and binding of drivers. */
import { release } from 'node:os';
import { expect, test } from 'vitest';
import { Host } from '../lib/index.ts';
import { backend, EDU, GROUP_OF_TWO, guestIommu, NO_TWO, needs, openHost } from './support/backends.ts';

test('devices are listed by address with their identity', () => {
  using host = openHost();
  const edu = host.devices().find((each) => each.bdf === EDU);
  // The driver of virtio-iommu probes a device only when the device gets a driver.
  const iommu = {
    intel: 'dmar0',
    amd: 'ivhd0',
    virtio: edu?.driver === null ? null : '0000:00:02.0',
    none: null,
  };
  expect([edu?.vendor, edu?.device, edu?.classCode, edu?.revision]).toEqual([0x1234, 0x11e8, 0x00ff00, 0x10]);
  expect([edu?.numaNode, edu?.iommu, edu?.sriov]).toEqual([null, iommu[guestIommu ?? 'intel'], null]);
  expect(edu?.subsystemVendor).toBe(0x1af4);
  expect(edu?.subsystemDevice).toBe(0x1100);
  expect(host.device('00:10.0').bdf).toBe(EDU);
  expect(() => host.device('0000:00:1f.7')).toThrow(expect.objectContaining({ code: 'ENODEV' }));
});

test('A5: a group shows its members, their drivers, its type and its reserved regions', () => {
  using host = openHost();
  const group = host.groups().find((each) => each.devices.some(({ bdf }) => bdf === EDU));
  expect(group?.devices.map(({ bdf }) => bdf)).toEqual([EDU]);
  expect(group?.reservedRegions).toContainEqual({ start: 0xfee00000n, last: 0xfeefffffn, type: 'msi' });
  expect(['DMA', 'DMA-FQ', 'identity']).toContain(group?.type);
  expect(group?.explain()).toContain(`Group ${group?.id} can be used`);
  expect(() => host.group(4711)).toThrow(expect.objectContaining({ code: 'ENODEV' }));
});

test('A5: two devices behind a conventional bridge are in one group', (ctx) => {
  needs(ctx, { guest: ['intel', 'amd'], because: NO_TWO });
  using host = openHost();
  const [first, second] = GROUP_OF_TWO.map((bdf) => host.device(bdf));
  expect(first?.group).toBe(second?.group);
  expect(first?.group).not.toBe(host.device(EDU).group);
  expect(host.group(first?.group ?? -1).devices.map(({ bdf }) => bdf)).toEqual(
    expect.arrayContaining([...GROUP_OF_TWO]),
  );
});

test('A5: dmaOwner says who uses the group', async () => {
  using host = openHost();
  await host.device(EDU).bind();
  const group = host.group(host.device(EDU).group ?? -1);
  expect(group.dmaOwner).toBe('none');
  {
    using _user = host.attach(EDU);
    expect(group.dmaOwner).toBe('user');
  }
  expect(group.dmaOwner).toBe('none');
});

test('a driver is bound by driver_override and restored', async () => {
  using host = openHost();
  const device = host.device(EDU);
  await device.unbind();
  expect(device.driver).toBeNull();
  expect(device.vfioNode).toBeNull();
  using fresh = openHost();
  const again = fresh === host || backend === 'software' ? device : fresh.device(EDU);
  // The driver before this process first changed it. On the kernel, earlier tests have changed it, each with its own Host.
  const found = backend === 'software' ? [null, null] : [again.driver, again.driverOverride];
  await again.bind();
  expect(again.driver).toBe('vfio-pci');
  expect(again.driverOverride).toBe('vfio-pci');
  expect(again.vfioNode).toMatch(/vfio\d+$/);
  await again.bind('pci-stub');
  expect(again.driver).toBe('pci-stub');
  expect(again.driverOverride).toBe('pci-stub');
  await again.restore();
  expect([again.driver, again.driverOverride]).toEqual(found);
  await again.bind();
});

test('a driver that does not exist is refused before anything is touched', async () => {
  using host = openHost();
  const device = host.device(EDU);
  await device.bind();
  await expect(device.bind('no-such-driver')).rejects.toThrow(
    expect.objectContaining({ code: 'ENODEV', hint: expect.stringContaining('modprobe no-such-driver') }),
  );
  expect(device.driver).toBe('vfio-pci');
});

test('vfio-pci refuses a bridge, which gets its driver back', async () => {
  using host = openHost();
  const bridge = host.devices().find((each) => each.driver === 'pcieport');
  if (!bridge) throw new Error('there is no bridge');
  await expect(bridge.bind()).rejects.toThrow(expect.objectContaining({ syscall: 'write' }));
  expect(bridge.driver).toBe('pcieport');
  expect(bridge.driverOverride).toBeNull();
});

test('unbinding a device that is open fails with a reason, and does not hang', async () => {
  using host = openHost();
  const device = host.device(EDU);
  await device.bind();
  {
    using _user = host.attach(EDU);
    await expect(device.unbind()).rejects.toThrow(
      expect.objectContaining({ code: 'EBUSY', reason: expect.stringContaining('this process') }),
    );
    expect(device.driver).toBe('vfio-pci');
    // With force its handles are disposed first (test/ends.test.ts).
    await device.unbind({ force: true });
    expect([_user.device.disposed, device.driver]).toEqual([true, null]);
  }
  await device.bind();
  expect(device.driver).toBe('vfio-pci');
});

test('the report says what the host has', () => {
  using host = openHost();
  const report = host.report();
  expect(report.backend).toBe(backend);
  expect(report.kernel).toBe(backend === 'kernel' ? release() : '7.3');
  expect(report.checks.every((each) => each.ok)).toBe(true);
});

test('the backend is chosen by option, by VFIO_BACKEND, or by the nodes that exist', () => {
  const before = process.env['VFIO_BACKEND'];
  try {
    process.env['VFIO_BACKEND'] = 'software';
    using host = Host.open();
    expect(host.backend).toBe('software');
    process.env['VFIO_BACKEND'] = 'nonsense';
    expect(() => Host.open()).toThrow(
      "Expected 'auto' or 'kernel' or 'software' for backend but received 'nonsense'",
    );
    delete process.env['VFIO_BACKEND'];
    using automatic = Host.open({ backend: 'auto' });
    expect(['kernel', 'software']).toContain(automatic.backend);
  } finally {
    if (before === undefined) delete process.env['VFIO_BACKEND'];
    else process.env['VFIO_BACKEND'] = before;
  }
});
