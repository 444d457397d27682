/** SR-IOV on both backends: virtual functions are made and removed, and opening one needs a token. */
import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Container, type Group, Host, type Topology, VfioDevice } from '../lib/index.ts';
import { backend, needs, SRIOV_PF } from './support/backends.ts';

const PF = SRIOV_PF;
const VF = PF.replace(/0$/, '1');
const TOKEN = '00112233-4455-6677-8899-aabbccddeeff';
const OTHER = '00112233-4455-6677-8899-aabbccddeefe';

/** The guest's device: QEMU's NVMe controller with four virtual functions, behind a root port. */
const MACHINE: Topology = {
  devices: [
    { model: 'root-port', bdf: '0000:00:15.0' },
    {
      model: 'passive',
      bdf: PF,
      behind: '0000:00:15.0',
      vendor: 0x1b36,
      device: 0x10,
      classCode: 0x010802,
      subsystemVendor: 0x1af4,
      subsystemDevice: 0x1100,
      revision: 2,
      driver: null,
      functionReset: true,
      pin: true,
      bars: [{ kind: 'memory64', size: 16384 }],
      msix: 65,
      sriov: { totalVfs: 4, bars: [{ kind: 'memory64', size: 16384 }], msix: 1 },
    },
  ],
};
/** Why some tests do not run in the guest: its controller lacks the feature. */
const NO_RESET =
  "a reset of QEMU 7.2's physical function ends its virtual ones, with the bit that says that they are there left set";
const open = (kernel?: string) =>
  Host.open(
    backend === 'kernel'
      ? { backend }
      : { backend, software: { topology: MACHINE, ...(kernel === undefined ? {} : { kernel }) } },
  );
const code = (expected: string, reason = /(?:)/) =>
  expect.objectContaining({ code: expected, reason: expect.stringMatching(reason) });

needs({ guest: ['intel', 'amd', 'virtio'], because: 'the other has no IOMMU, so no group' });

let host: Host;
const containers: Container[] = [];
beforeEach(async () => {
  host = open();
  // Another test file may have bound the devices.
  await host.device(PF).unbind();
  // See NO_RESET: without a method the kernel does not reset it when it is opened.
  if (backend === 'kernel') writeFileSync(`/sys/bus/pci/devices/${PF}/reset_method`, '\n');
});
afterEach(async () => {
  for (const container of containers.splice(0)) container[Symbol.dispose]();
  const { driver, sriov } = host.device(PF);
  if (driver !== null && sriov?.numVfs !== 0) await host.device(PF).setNumVfs(0);
  if (driver !== null) await host.device(PF).unbind();
  host[Symbol.dispose]();
});

/** Binds the physical function to vfio-pci, and makes that number of virtual ones. */
async function withVfs(count: number, on = host): Promise<void> {
  await on.device(PF).bind();
  await on.device(PF).setNumVfs(count, { enableSriov: true });
}

/** A group of one device that has joined a container of its own, which the end of the test closes. */
function ready(bdf: string): Group & Disposable {
  const container = host.openContainer();
  containers.push(container);
  const group = host.openGroup(host.device(bdf).group ?? -1);
  group.setContainer(container);
  container.setIommu('type1v2');
  return group;
}

/** Opens a device by its group. */
const opening = (group: Group, bdf: string, vfToken?: string) => () =>
  group.openDevice(bdf, vfToken === undefined ? {} : { vfToken })[Symbol.dispose]();

describe('virtual functions', () => {
  test('a physical function says how many it can have; its driver makes them', async () => {
    const pf = host.device(PF);
    expect(pf.sriov).toEqual({ totalVfs: 4, numVfs: 0 });
    expect(pf.virtualFunctions).toEqual([]);
    expect(pf.physicalFunction).toBeNull();
    await pf.setNumVfs(0);
    await expect(pf.setNumVfs(1)).rejects.toThrow(code('ENOENT', /has no driver/));
    await expect(pf.setNumVfs(5)).rejects.toThrow(code('ERANGE', /can have 4 virtual functions at most/));
    await pf.bind('pci-stub');
    await expect(pf.setNumVfs(1)).rejects.toThrow(code('ENOENT', /driver pci-stub can't/));
    await expect(host.device('0000:00:15.0').setNumVfs(1)).rejects.toThrow(code('ENOENT', /no SR-IOV/));
  });

  test('they are bound to vfio-pci, each in a group of its own, and removed together', async () => {
    const pf = host.device(PF);
    await withVfs(2);
    const names = [VF, PF.replace(/0$/, '2')];
    expect(pf.sriov).toEqual({ totalVfs: 4, numVfs: 2 });
    expect(pf.virtualFunctions).toEqual(names);
    const groups = new Set([pf.group]);
    for (const bdf of names) {
      const vf = host.device(bdf);
      expect(vf).toMatchObject({
        physicalFunction: PF,
        vendor: 0x1b36,
        device: 0x10,
        classCode: 0x010802,
        subsystemVendor: 0x1af4,
        driver: 'vfio-pci',
        driverOverride: 'vfio-pci',
        sriov: null,
        resetMethods: ['flr'],
      });
      expect(vf.vfioNode).toMatch(/^\/dev\/vfio\/devices\/vfio\d+$/);
      expect(host.group(vf.group ?? -1).devices.map((each) => each.bdf)).toEqual([bdf]);
      groups.add(vf.group);
    }
    expect(groups.size).toBe(3);
    await pf.setNumVfs(2);
    await expect(pf.setNumVfs(3)).rejects.toThrow(code('EBUSY', /has 2 virtual functions/));
    await expect(pf.setNumVfs(5)).rejects.toThrow(code('ERANGE'));
    await pf.setNumVfs(0);
    expect(pf.virtualFunctions).toEqual([]);
    expect(host.devices().map((each) => each.bdf)).not.toContain(VF);
    await pf.setNumVfs(4);
    expect(pf.virtualFunctions).toHaveLength(4);
    await pf.unbind();
    expect(pf.sriov).toEqual({ totalVfs: 4, numVfs: 0 });
  });

  test('a program sees one, and the physical function, as VFIO virtualises them', async () => {
    await withVfs(2);
    using iommufd = host.openIommufd();
    using pf = host.openDevice(PF);
    pf.bind(iommufd);
    // The capability can be read but not written: only the kernel makes virtual functions.
    const at = pf.config.extendedCapabilities().find((each) => each.name === 'SR-IOV')?.offset ?? 0;
    const [control, total, count, offset, stride] = [0x08, 0x0e, 0x10, 0x14, 0x16].map(
      (each) => at + each,
    ) as [number, number, number, number, number];
    for (const register of [control, count]) pf.config.write16(register, 0);
    expect([control, total, count, offset, stride].map((each) => pf.config.read16(each))).toEqual([
      pf.config.read16(control) | 9,
      4,
      2,
      1,
      1,
    ]);
    expect(pf.irq('intx').count).toBe(1);
    pf.setVfToken(TOKEN);

    using group = ready(VF);
    using vf = group.openDevice(VF, { vfToken: TOKEN });
    const { config } = vf;
    expect(vf.info.resettable).toBe(true);
    expect([config.vendor, config.device]).toEqual([0x1b36, 0x10]);
    expect(config.read16(4) & 7).toBe(2);
    // VFIO virtualises the bit: it can be set, as if the function had it.
    config.write16(4, 0);
    expect(config.read16(4) & 7).toBe(0);
    config.write16(4, 6);
    expect(config.read16(4) & 7).toBe(6);
    expect(['intx', 'msi', 'msix', 'err', 'req'].map((name) => vf.irq(name as 'msi').count)).toEqual([
      0, 0, 1, 1, 1,
    ]);
    expect(config.read32(0x10)).toBe(4);
    config.write32(0x10, 0xffffffff);
    config.write32(0x14, 0xffffffff);
    expect([config.read32(0x10), config.read32(0x14)]).toEqual([0xffffc004, 0xffffffff]);
    expect(vf.region('bar0').size).toBe(16384n);
    vf.region('bar0').read32(0);
    await vf.reset();
    expect([config.vendor, config.device]).toEqual([0x1b36, 0x10]);
    expect(() => vf.setVfToken(TOKEN)).toThrow(code('ENOTTY', /no SR-IOV physical function/));
    // A reset of the bus resets all of them, and each is in a group of its own, which must be given too.
    expect(pf.hotResetInfo().map(({ bdf, owned }) => [bdf, owned])).toEqual([
      [PF, true],
      [VF, false],
      [PF.replace(/0$/, '2'), false],
    ]);
    await expect(pf.hotReset()).rejects.toThrow(code('EINVAL'));
  });

  test('a reset of the physical function does not remove them', async (ctx) => {
    needs(ctx, { backends: ['software'], because: NO_RESET });
    await withVfs(2);
    using iommufd = host.openIommufd();
    using pf = host.openDevice(PF);
    pf.bind(iommufd);
    pf.setVfToken(TOKEN);
    using group = ready(VF);
    using vf = group.openDevice(VF, { vfToken: TOKEN });
    vf.config.write16(4, 6);
    await pf.reset();
    expect(host.device(PF).virtualFunctions).toHaveLength(2);
    expect(vf.config.vendor).toBe(0x1b36);
    expect(vf.config.read16(4) & 7).toBe(2);
    expect(vf.region('bar0').read32(0)).toBe(0);
  });

  test('while one is open they are not removed; its program is asked to close it', async () => {
    await withVfs(2);
    using group = ready(VF);
    {
      using pf = host.openDevice(PF);
      using iommufd = host.openIommufd();
      pf.bind(iommufd);
      pf.setVfToken(TOKEN);
    }
    const vf = group.openDevice(VF, { vfToken: TOKEN });
    for (const change of [host.device(PF).unbind(), host.device(PF).restore()])
      await expect(change).rejects.toThrow(code('EBUSY', new RegExp(`${VF}, a virtual function of ${PF}$`)));
    const open = code('EBUSY', new RegExp(`virtual functions are open: ${VF}`));
    await expect(host.device(PF).setNumVfs(0)).rejects.toThrow(open);
    expect([vf.disposed, host.device(PF).sriov?.numVfs]).toEqual([false, 2]);
    // With force this program's handles are disposed first; for its other descriptor the program is asked.
    const rest = VfioDevice.fromFd(vf.fd);
    const [request] = rest.irq('req').enable(1);
    const asked = request?.wait({ timeout: 20_000 });
    const outcome = host
      .device(PF)
      .setNumVfs(0, { force: true })
      .then(
        () => null,
        (error: unknown) => error,
      );
    await asked;
    expect([vf.disposed, group.disposed]).toEqual([true, true]);
    rest[Symbol.dispose]();
    // In the kernel the writer waits; on the software host it gets an error.
    if (backend === 'software') {
      expect(await outcome).toMatchObject({ code: 'EBUSY' });
      expect(host.device(PF).sriov?.numVfs).toBe(2);
      await host.device(PF).setNumVfs(0);
    } else {
      expect(await outcome).toBeNull();
    }
    expect(host.device(PF).virtualFunctions).toEqual([]);
  });
});

test('changes of the physical function and of a virtual one at the same time run one after the other', async () => {
  await withVfs(2);
  const pf = host.device(PF);
  const vf = host.device(VF);
  const asked = [
    vf.unbind(),
    pf.setNumVfs(0),
    pf.setNumVfs(3),
    pf.setNumVfs(1),
    pf.setNumVfs(0),
    pf.setNumVfs(1),
  ];
  expect((await Promise.allSettled(asked)).map((each) => each.status)).toEqual(
    [true, true, true, false, true, true].map((done) => (done ? 'fulfilled' : 'rejected')),
  );
  expect([pf.sriov?.numVfs, vf.driver]).toEqual([1, 'vfio-pci']);
});

test('unplugging the port removes all of them, once no program has one open', async (ctx) => {
  needs(ctx, { backends: ['software'], because: 'unplugs a device, as no system call can' });
  using other = open();
  await withVfs(2, other);
  using physical = other.attach(PF);
  physical.device.setVfToken(TOKEN);
  const user = other.attach(VF, { vfToken: TOKEN, via: 'group-type1' });
  const [request] = user.device.irq('req').enable(1);
  const gone = other.software?.removeDevice('0000:00:15.0');
  await expect(request?.wait({ timeout: 5000 })).resolves.toBe(1n);
  expect(other.device(PF).driver).toBe('vfio-pci');
  user[Symbol.dispose]();
  physical[Symbol.dispose]();
  await gone;
  expect(other.devices()).toEqual([]);
});

describe('the token', () => {
  const setToken = (token: string) => {
    using pf = host.openDevice(PF);
    using iommufd = host.openIommufd();
    pf.bind(iommufd);
    pf.setVfToken(token);
  };

  test('opening a virtual function by its group needs the token of the physical one', async () => {
    await withVfs(1);
    using group = ready(VF);
    expect(opening(group, VF)).toThrow(code('EACCES', /token is missing or wrong/));
    // The first token is random.
    expect(opening(group, VF, TOKEN)).toThrow(code('EACCES'));
    setToken(TOKEN);
    expect(opening(group, VF)).toThrow(code('EACCES'));
    expect(opening(group, VF, OTHER)).toThrow(code('EACCES'));
    expect(opening(group, VF, TOKEN)).not.toThrow();
    expect(opening(group, VF, TOKEN.toUpperCase())).not.toThrow();
    setToken(OTHER);
    expect(opening(group, VF, TOKEN)).toThrow(code('EACCES'));
    expect(opening(group, VF, OTHER)).not.toThrow();
  });

  test('opening the physical function sets it, unless a virtual one is open: then it must be given', async () => {
    await withVfs(1);
    using physical = ready(PF);
    using group = ready(VF);
    expect(opening(physical, PF)).not.toThrow();
    expect(opening(physical, PF, TOKEN)).not.toThrow();
    const vf = group.openDevice(VF, { vfToken: TOKEN });
    expect(opening(physical, PF)).toThrow(code('EACCES', /physical one whose virtual functions are open/));
    expect(opening(physical, PF, OTHER)).toThrow(code('EACCES'));
    {
      using pf = physical.openDevice(PF, { vfToken: TOKEN });
      pf.setVfToken(OTHER);
    }
    expect(opening(physical, PF, TOKEN)).toThrow(code('EACCES'));
    expect(opening(group, VF, OTHER)).not.toThrow();
    vf[Symbol.dispose]();
    expect(opening(physical, PF)).not.toThrow();
    expect(opening(group, VF, OTHER)).not.toThrow();
  });

  test('attach of a virtual function needs the token of the physical one, and passes it by each way that takes one', async () => {
    await withVfs(1);
    setToken(TOKEN);
    for (const via of ['group-iommufd', 'group-type1'] as const) {
      expect(() => host.attach(VF, { via })).toThrow(code('EACCES'));
      using user = host.attach(VF, { via, vfToken: TOKEN });
      expect(user.device.config.device).toBe(0x10);
    }
    {
      using user = host.attach(VF, {
        vfToken: TOKEN,
        ...(backend === 'kernel' ? { via: 'group-iommufd' } : {}),
      });
      expect(user.device.bdf).toBe(VF);
    }
  });

  test('before 6.17 opening by character device needs none', async () => {
    using older = open('6.12');
    await withVfs(1, older);
    {
      using user = older.attach(VF);
      expect(user.via).toBe('cdev');
    }
    expect(() => older.attach(VF, { via: 'cdev', vfToken: TOKEN })).toThrow(
      code('EINVAL', /token needs Linux 6.17/),
    );
    await older.device(PF).setNumVfs(0);
    await older.device(PF).unbind();
  });

  test('by character device, from Linux 6.17 on', async (ctx) => {
    needs(ctx, { backends: ['software'], because: 'the kernel of the guest is 6.12' });
    using newer = open('6.19');
    await withVfs(1, newer);
    using iommufd = newer.openIommufd();
    const bind =
      (bdf: string, token?: string): (() => VfioDevice) =>
      () => {
        using device = newer.openDevice(bdf);
        device.bind(iommufd, token === undefined ? {} : { token });
        return device;
      };
    expect(bind(VF)).toThrow(code('EACCES', /token is missing or wrong/));
    expect(bind(PF, TOKEN)).not.toThrow();
    expect(bind(VF, OTHER)).toThrow(code('EACCES'));
    expect(bind(VF, TOKEN)).not.toThrow();
    using vf = newer.openDevice(VF);
    vf.bind(iommufd, { token: TOKEN });
    expect(bind(PF)).toThrow(code('EACCES', /virtual functions are open/));
    expect(bind(PF, TOKEN)).not.toThrow();
  });

  test('is refused as superfluous if the physical function is bound to a kernel driver', async (ctx) => {
    needs(ctx, {
      backends: ['software'],
      because: 'the guest has no driver that makes virtual functions but vfio-pci',
    });
    const pf = host.device(PF);
    await pf.bind('nvme');
    await pf.setNumVfs(2);
    // They match the driver too; vfio-pci can be bound to one, which is alone in its group.
    expect(host.device(VF).driver).toBe('nvme');
    await host.device(VF).bind();
    {
      using group = ready(VF);
      expect(opening(group, VF, TOKEN)).toThrow(
        code('EINVAL', /takes no token: its physical function .* is not bound to vfio-pci/),
      );
      expect(opening(group, VF)).not.toThrow();
    }
    await expect(pf.bind()).rejects.toThrow(code('EBUSY', /has virtual functions already/));
    expect(pf.driver).toBe('nvme');
  });
});
