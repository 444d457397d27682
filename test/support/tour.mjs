/**
 * Makes calls of the whole API on software hosts: each call that takes options is made without options, with empty ones and
 * with valid ones. The result of each step is reported, so that two runs can be compared.
 *
 * @param vfio the package
 * @param tell called with the name of each step and its result as text, which is the same in each run
 */
import { closeSync, ftruncateSync, openSync, unlinkSync } from 'node:fs';
import { inspect } from 'node:util';
// Not later: Node itself can't load a module while a program has changed Object.prototype.
import { DmaEngine, EduDevice, Nic } from '../../dist/models.js';

const EDU = '0000:00:10.0';
const NIC = '0000:00:02.0';
const DISK = '0000:00:05.0';
const VT_D = { kind: 'vtd', nesting: ['vtd-s1'], dirtyTracking: true };
const MEMORY = { kind: 'memory64', size: 16384 };

/** Addresses and descriptors differ from run to run. */
const shown = (value) =>
  inspect(value, { depth: 3, breakLength: Number.POSITIVE_INFINITY }).replaceAll(
    /0x[0-9a-f]{6,}|\d{3,}n?/g,
    '#',
  );

const machine = (iommu) => ({
  iommus: [iommu],
  devices: [
    { model: 'edu', bdf: EDU },
    {
      ...{ model: 'passive', bdf: NIC, vendor: 0x8086, device: 0x10c9, classCode: 0x020000, pin: true },
      ...{ bars: [MEMORY], msix: 9, sriov: { totalVfs: 4, bars: [MEMORY], msix: 1 } },
    },
    {
      ...{ model: 'passive', bdf: DISK, vendor: 0x1b36, device: 0x0010, classCode: 0x010802 },
      ...{ driver: 'nvme', disk: { name: 'nvme0n1', mountedOn: '/srv' } },
    },
  ],
});

export async function tour(vfio, tell) {
  const { Host, DmaBuffer, VfioDevice, Iommufd, VfioError } = vfio;
  const step = async (name, call) => {
    let made;
    let came;
    try {
      made = await call();
      came = shown(made);
    } catch (error) {
      came = shown([
        error.name,
        error.code,
        error.message,
        error.reason,
        error.hint,
        error.handled,
        error.path,
      ]);
    }
    tell(name, came);
    return made;
  };
  /** Makes the call with each of these options; returns the result of the last one. */
  const each = async (name, all, call) => {
    let made;
    for (const [i, o] of all.entries()) {
      made?.[Symbol.dispose]?.();
      made = await step(`${name} ${i}`, () => call(o));
    }
    return made;
  };
  const none = [undefined, {}];
  const page = (size = 4096) => DmaBuffer.alloc(size);

  await step('VfioError', () => ({ ...new VfioError(22, { syscall: 'ioctl' }) }));
  (
    await each('Host.open', [{ backend: 'software' }, { backend: 'software', software: {} }], (o) =>
      Host.open(o),
    )
  )[Symbol.dispose]();
  const host = Host.open({ backend: 'software', software: { topology: machine(VT_D), kernel: '7.3' } });
  await step('Host.report', () => host.report().checks.map(({ name }) => name));
  await step('Host.devices', () => host.devices().map(({ bdf, driver, group }) => [bdf, driver, group]));
  await step('Host.groups', () =>
    host.groups().map((group) => [group.id, group.explain(), group.dmaOwnership]),
  );
  await step('Host.device', () => host.device('0000:00:1f.7'));
  await step('PciDevice', () => ({ uses: host.device(DISK).uses, sriov: host.device(NIC).sriov }));
  // The disk is in use: without `force` each of these calls is refused.
  for (const change of ['bind', 'unbind', 'restore'])
    for (const [i, o] of none.entries()) {
      const args = change === 'bind' ? ['vfio-pci', o] : [o];
      const group = host.group(host.device(DISK).group);
      await step(`PciDevice.${change} ${i}`, () => host.device(DISK)[change](...args));
      await step(`IommuGroup.${change} ${i}`, () => group[change](...args));
      await step('its driver', () => host.device(DISK).driver);
    }
  await step('PciDevice.setNumVfs', async () => {
    await host.device(NIC).bind();
    for (const [i, o] of none.entries())
      await step(`enableSriov ${i}`, () => host.device(NIC).setNumVfs(2, o));
    return host.device(NIC).virtualFunctions;
  });
  await step('PciDevice.bind', () => host.device(EDU).bind());
  await each('Host.diagnose', [...none, { attempt: true, memory: 1 }], (o) => host.diagnose(EDU, o));
  await each('Host.grant', [...none, { name: 'me' }], (o) => host.grant(EDU, 1000, o));
  await each('Host.attach', [...none, { via: 'group-type1' }], (o) => {
    const user = host.attach(EDU, o);
    tell('via', user.via);
    return user;
  }).then((user) => user[Symbol.dispose]());

  const iommufd = host.openIommufd();
  const device = host.openDevice(EDU);
  await step('Host.openDevice', () =>
    [{}, { bdf: EDU }, { path: '/dev/vfio/devices/none' }].map((o) => host.openDevice(o)),
  );
  await each('VfioDevice.bind', none, (o) => device.bind(iommufd, o));
  const ioas = iommufd.allocIoas();
  await each('VfioDevice.attach', none, (o) => typeof device.attach(ioas, o));
  await each('VfioDevice.hotReset', none, (o) => device.hotReset(o));
  await step('VfioDevice.hotResetInfo', () => device.hotResetInfo());
  await step('VfioDevice.setVfToken', () => device.setVfToken('00112233-4455-6677-8899-aabbccddeeff'));
  const twins = [Iommufd.fromFd(iommufd.fd), VfioDevice.fromFd(device.fd)];
  await step('fromFd', () => [twins[0].supports('hwpt'), twins[1].info]);
  for (const twin of twins) twin[Symbol.dispose]();

  await each('DmaBuffer.alloc', [...none, { hugePages: false }], (o) => DmaBuffer.alloc(4096, o).size);
  const fd = openSync(`/dev/shm/vfio-tour-${process.pid}`, 'w+');
  unlinkSync(`/dev/shm/vfio-tour-${process.pid}`);
  ftruncateSync(fd, 8192);
  await each(
    'DmaBuffer.fromFd',
    [{}, { length: 4096 }, { length: 4096, offset: 4096 }],
    (o) => DmaBuffer.fromFd(fd, o).size,
  );
  for (const [i, o] of [...none, { iova: 0x10000 }, { iova: 0x10000, read: true, write: false }].entries()) {
    const seen = ({ iova, length, writable }) => [o?.iova === undefined || iova, length, writable];
    await step(`Ioas.map ${i}`, () => {
      const mapping = ioas.map(page(), o);
      const told = seen(mapping);
      mapping[Symbol.dispose]();
      return told;
    });
    await step(`Ioas.mapAsync ${i}`, async () => {
      const mapping = await ioas.mapAsync(page(), o);
      const told = seen(mapping);
      mapping[Symbol.dispose]();
      return told;
    });
  }
  const source = ioas.map(page(), { iova: 0x20000 });
  const other = iommufd.allocIoas();
  await each('Ioas.copy', [...none, { iova: 0x30000 }], (o) => other.copy(source, o));
  await each('Ioas.mapFile', [{}, { offset: 0, length: 4096, iova: 0x40000 }], (o) => ioas.mapFile(fd, o));
  await each('Ioas.allowIovas', [[{}], [{ start: 0, last: 0xffffff }], []], (ranges) =>
    ioas.allowIovas(ranges),
  );
  closeSync(fd);

  const region = device.region('bar0');
  await each('Region.mmap', [...none, { length: 4096 }], (o) => {
    const mapped = region.mmap(o);
    mapped[Symbol.dispose]();
    return mapped.length;
  });
  await step('PciConfig', () => [device.config.capabilities(), device.config.vendor]);
  const irq = device.irq('msi');
  await each('Irq.enable', [...none, { start: 0 }], (o) => irq.enable(1, o).length);
  const [interrupt] = irq.enable(1);
  for (const o of [undefined, {}, { timeout: 5000 }]) {
    irq.trigger();
    await step('Interrupt.wait', () => interrupt.wait(o));
  }
  const aborted = (wait) => {
    const over = new AbortController();
    const waiting = wait({ signal: over.signal });
    over.abort('enough');
    return waiting.catch((reason) => reason);
  };
  await step('Interrupt.wait aborted', () => aborted((o) => interrupt.wait(o)));
  await step('Interrupt.wait in vain', () => interrupt.wait({ timeout: 0 }));
  irq.disable();

  const hwpt = { device, parent: ioas };
  for (const o of [hwpt, { ...hwpt, dirtyTracking: true }, { ...hwpt, nestParent: true }])
    await step('Iommufd.allocHwpt', () => iommufd.allocHwpt(o)[Symbol.dispose]());
  const tracked = iommufd.allocHwpt({ ...hwpt, dirtyTracking: true });
  await each(
    'Hwpt.dirtyBitmap',
    [{}, { pageSize: 4096 }],
    (o) => tracked.dirtyBitmap(0x20000, 4096, o).length,
  );
  tracked[Symbol.dispose]();
  const parent = iommufd.allocHwpt({ ...hwpt, nestParent: true });
  await each(
    'HwptData',
    [{}, { type: 'vtd-s1' }, { type: 'vtd-s1', pgtblAddr: 0x1000, addrWidth: 48 }],
    (data) => {
      const nested = iommufd.allocHwpt({ device, parent, data });
      tell('Hwpt.invalidate', nested.invalidate('vtd-s1', [{ addr: 0, npages: 1 }]));
      return nested;
    },
  ).then((nested) => nested[Symbol.dispose]());
  await step('Hwpt.invalidate none', () => parent.invalidate('vtd-s1', [{}]));
  await each('Iommufd.hwInfo', none, (o) => iommufd.hwInfo(device, o).type);
  const faults = iommufd.allocFaultQueue();
  await each('FaultQueue.wait', [{ timeout: 1 }], (o) => faults.wait(o));
  await step('FaultQueue.wait aborted', () => aborted((o) => faults.wait(o)));
  await step('FaultQueue.respond', () => faults.respond({}, 'success'));
  await step('FaultQueue.respondGroup', () => faults.respondGroup({}, 'success'));
  await each('VfioDevice.detach', none, (o) => device.detach(o));
  for (const handle of [parent, device, iommufd]) handle[Symbol.dispose]();

  const id = host.device(EDU).group;
  const group = await each('Host.openGroup', none, (o) => host.openGroup(id, o));
  const container = host.openContainer();
  group.setContainer(container);
  container.setIommu('type1v2');
  for (const o of [...none, { iova: 0x10000, write: false }]) {
    await step('Container.map', () => {
      const mapping = container.map(page(), o);
      const { length, writable } = mapping;
      mapping[Symbol.dispose]();
      return [length, writable];
    });
    await step('Container.mapAsync', async () => {
      const mapping = await container.mapAsync(page(), o);
      const { length, writable } = mapping;
      mapping[Symbol.dispose]();
      return [length, writable];
    });
  }
  container.map(page(), { iova: 0x10000 });
  container.startDirtyTracking();
  await each(
    'Container.dirtyBitmap',
    [{}, { pageSize: 4096 }],
    (o) => container.dirtyBitmap(0x10000, 4096, o).length,
  );
  await step('Container.mappings', () => container.mappings().length);
  const opened = await each('Group.openDevice', none, (o) => group.openDevice(EDU, o));
  await step('VfioDevice.hotReset of a group', () => opened.hotReset({ groups: [group] }));
  await step('VfioDevice.irq of a group', () => opened.irq('msi').count);
  for (const handle of [opened, group, container]) handle[Symbol.dispose]();

  const plug = { model: 'edu' };
  for (const [i, o] of [...none, { driver: null }].entries()) {
    await step(`addDevice ${i}`, () => host.software.addDevice('0000:00:1a.0', plug, o));
    await step('its driver', () => host.device('0000:00:1a.0').driver);
    await step('removeDevice', () => host.software.removeDevice('0000:00:1a.0'));
  }
  await each(
    'EduDevice.constructor',
    [...none, { dmaMask: 2n ** 40n - 1n }],
    (o) => new EduDevice(o).identity,
  );
  await each('Nic.constructor', [...none, { pairs: 2 }], (o) => new Nic(o).identity);
  await each('DmaEngine.constructor', [...none, { channels: 2 }], (o) => new DmaEngine(o).identity);
  class Own extends vfio.SimulatedDevice {
    identity = { vendor: 0x1af4, device: 0x10f0, classCode: 0xff0000 };
    bars = [{ size: 4096 }];
    msi = 1;
    pin = true;
    onRead = () => 7;
    onWrite = () => {
      throw new Error('broken');
    };
    dma = (o) => {
      const at = 0x10000;
      this.dmaWrite(at, new Uint8Array([1, 2]), o);
      const back = new Uint8Array(2);
      this.dmaRead(at, back, o);
      return [...back];
    };
    raise = () => [this.messagesEnabled, this.interrupt(0), this.setLine(true), this.setLine(false)];
  }
  const model = new Own();
  await step('addDevice of a model', () => host.software.addDevice('0000:00:1b.0', model));
  const driven = host.attach('0000:00:1b.0');
  driven.device.config.busMaster = true;
  driven.dma.map(page(), { iova: 0x10000 });
  await each('SimulatedDevice.dmaRead', [...none, { pasid: 1 }], (o) => model.dma(o));
  await step('SimulatedDevice.dmaWrite', () => model.dma());
  await step('SimulatedDevice.interrupt', () => model.raise());
  await step('Region of a model', () => {
    const region = driven.device.region('bar0');
    region.write32(0, 1);
    return [region.read32(0), model.errors.length, model.plugged];
  });
  driven[Symbol.dispose]();
  const open = host.attach(EDU);
  const going = host.software.removeDevice(EDU);
  const alive = setInterval(() => {}, 1000); // a waiting removeDevice does not keep the process alive
  open[Symbol.dispose]();
  await step('removeDevice in use', () => going);
  clearInterval(alive);
  await each('bindKernelDriver', none, (o) => host.software.bindKernelDriver(NIC, 'igb', o));
  await step('settle', () => host.software.settle());
  host[Symbol.dispose]();

  const arm = Host.open({ backend: 'software', software: { topology: machine({ kind: 'smmuv3' }) } });
  await arm.device(EDU).bind();
  const user = arm.attach(EDU);
  const nest = user.device.iommufd.allocHwpt({ device: user.device, parent: user.dma, nestParent: true });
  const viommu = await each(
    'Iommufd.allocViommu',
    [{}, { device: user.device, parent: nest, type: 'arm-smmuv3' }],
    (o) => user.device.iommufd.allocViommu(o),
  );
  const vdevice = await each(
    'Viommu.allocVdevice',
    [{}, { device: user.device }, { device: user.device, virtId: 5 }],
    (o) => viommu.allocVdevice(o),
  );
  const events = await each('Viommu.allocEventQueue', [{}, { depth: 4 }], (o) => viommu.allocEventQueue(o));
  await each('RecordQueue.wait', [{ timeout: 1 }], (o) => events.wait(o));
  await each('Viommu.allocHwQueue', [{}, { index: 0, iova: 0, length: 4096 }], (o) => viommu.allocHwQueue(o));
  await step('Viommu.invalidate', () => viommu.invalidate('arm-smmuv3', [{}]));
  vdevice[Symbol.dispose](); // a handle that is only collected causes a warning on stderr
  arm[Symbol.dispose]();
}
