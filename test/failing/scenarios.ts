/**
 * Pieces of programs that use a software host. Each runs alone and changes nothing that stays: `keep` registers an object that
 * is disposed at the end, and `restore` a function that undoes the change if the piece fails half way. They are passed as text,
 * since they run in separate processes (support/program.ts contains the beginning of these programs).
 */
export const SCENARIOS = `
const SMMU = { iommus: [{ kind: 'smmuv3' }], devices: [
  { model: 'edu', bdf: EDU, driver: 'vfio-pci', pageRequests: true, pasidBits: 8 }] };
const IVSHMEM = '0000:00:14.0';
class Mover extends vfio.SimulatedDevice {
  identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
  bars = [{ size: 4096 }];
  iova = 0n;
  onWrite() {
    try {
      this.dmaWrite(this.iova, new Uint8Array(64));
    } catch (error) {
      if (!(error instanceof vfio.DmaError)) throw error;
    }
  }
}
const start = (registers, source, destination, count, command) => {
  registers.write64(0x80, source);
  registers.write64(0x88, destination);
  registers.write64(0x90, count);
  registers.write64(0x98, 1 | command);
};

// They use one host that stays, so that a change that was made only in part would be found the next time.
const scenarios = {
  'open a host': async (host, keep) => {
    keep(Host.open({ backend: 'software' })).devices();
  },
  'look at the machine': async (host) => {
    host.devices();
    host.groups();
    host.report();
    host.diagnose(EDU);
  },
  'bind and unbind a device': async (host, keep, restore) => {
    const device = host.device('0000:03:01.0');
    restore(async () => {
      if (device.driver !== null) await device.unbind();
    });
    await device.bind();
    await device.unbind();
  },
  'attach a device': async (host, keep) => {
    const { device } = keep(host.attach(EDU));
    device.config.busMaster = true;
    device.info.irqs;
  },
  'memory and its views': async (host, keep) => {
    const memory = keep(DmaBuffer.alloc(65536));
    memory.bytes.fill(1);
    memory.write(0, memory.bytes.subarray(1, 100));
    keep(DmaBuffer.alloc(4 << 20)).bytes.fill(2);
  },
  'map and unmap': async (host, keep) => {
    const { dma } = keep(host.attach(EDU));
    const memory = keep(DmaBuffer.alloc(1 << 20));
    const one = dma.map(memory);
    const other = dma.map(memory.slice(4096, 8192), { iova: 0x40000000n });
    one[Symbol.dispose]();
    const [third] = await Promise.all([dma.mapAsync(memory)]);
    third[Symbol.dispose]();
    other[Symbol.dispose]();
  },
  'interrupts': async (host, keep) => {
    const { device } = keep(host.attach(EDU));
    const [message] = device.irq('msi').enable(1);
    device.irq('msi').trigger(0);
    await message.wait({ timeout: 5000 });
    device.irq('msi').disable();
    const [line] = device.irq('intx').enable(1);
    device.irq('intx').trigger(0);
    await line.wait({ timeout: 5000 });
    device.irq('intx').unmask();
  },
  'registers and memory of a device': async (host, keep) => {
    const { device } = keep(host.attach(EDU));
    const registers = keep(device.region('bar0').mmap());
    registers.write32(4, 7);
    device.region('bar0').read32(4);
    const other = keep(host.attach(IVSHMEM));
    const memory = keep(other.device.region('bar2').mmap());
    new Uint8Array(memory.buffer)[5] = 1;
    memory.read8(5);
  },
  // With a host of its own, since each host starts the thread of its devices only once.
  'DMA': async (_, keep) => {
    const host = keep(Host.open({ backend: 'software' }));
    await host.device(EDU).bind();
    const { device, dma } = keep(host.attach(EDU));
    device.config.busMaster = true;
    const memory = keep(DmaBuffer.alloc(8192));
    const { iova } = dma.map(memory);
    const registers = keep(device.region('bar0').mmap());
    start(registers, iova, 0x40000n, 16, 0);
    await host.software.settle();
    start(registers, 0x40000n, iova + 4096n, 16, 2);
    await host.software.settle();
  },
  'address spaces and page tables': async (host, keep) => {
    const iommufd = keep(host.openIommufd());
    const device = keep(host.openDevice(EDU));
    device.bind(iommufd);
    const ioas = iommufd.allocIoas();
    const memory = keep(DmaBuffer.alloc(65536));
    const mapping = ioas.map(memory, { iova: 0x100000 });
    iommufd.allocIoas().copy(mapping);
    device.attach(ioas);
    ioas.iovaRanges();
    iommufd.hwInfo(device);
    const hwpt = iommufd.allocHwpt({ device, parent: ioas });
    device.attach(hwpt);
    device.detach();
    hwpt[Symbol.dispose]();
  },
  'a fault queue and a virtual IOMMU': async (host, keep) => {
    const own = keep(Host.open({ backend: 'software', software: { topology: SMMU } }));
    const iommufd = own.openIommufd();
    const device = own.openDevice(EDU);
    device.bind(iommufd);
    const ioas = iommufd.allocIoas();
    ioas.map(keep(DmaBuffer.alloc(0x4000)), { iova: 0x100000 });
    iommufd.allocFaultQueue();
    const parent = iommufd.allocHwpt({ device, parent: ioas, nestParent: true });
    const viommu = iommufd.allocViommu({ device, parent, type: 'arm-smmuv3' });
    viommu.allocVdevice({ device, virtId: 0x1234n });
    viommu.allocEventQueue({ depth: 4 });
    const table = iommufd.allocHwpt({ device, parent: viommu, data: { type: 'arm-smmuv3', ste: [1n | (4n << 1n), 0] } });
    device.attach(table);
  },
  'a group and a container': async (host, keep) => {
    const container = keep(host.openContainer());
    const group = keep(host.openGroup(host.device(EDU).group));
    group.setContainer(container);
    container.setIommu('type1v2');
    const device = keep(group.openDevice(EDU));
    const memory = keep(DmaBuffer.alloc(65536));
    container.map(memory);
    (await container.mapAsync(memory))[Symbol.dispose]();
    const [message] = device.irq('msi').enable(1);
    message[Symbol.dispose]();
  },
  'plug in and out': async (host, keep, restore) => {
    restore(async () => {
      if (host.devices().some((each) => each.bdf === '0000:00:1e.0')) await host.software.removeDevice('0000:00:1e.0');
    });
    host.software.addDevice('0000:00:1e.0', { model: 'ivshmem' }, { driver: 'vfio-pci' });
    await host.software.removeDevice('0000:00:1e.0');
  },
  // The sanitizer hears that a buffer was disposed which is mapped still, and then that its range was unmapped.
  'a model in JavaScript, and the sanitizer': async (host, keep, restore) => {
    const place = '0000:00:1e.0';
    restore(async () => {
      if (host.devices().some((each) => each.bdf === place)) await host.software.removeDevice(place);
    });
    const model = new Mover();
    host.software.addDevice(place, model);
    const user = keep(host.attach(place));
    const { device, dma } = user;
    device.config.busMaster = true;
    const memory = keep(DmaBuffer.alloc(4096));
    const { iova } = dma.map(memory);
    memory[Symbol.dispose]();
    model.iova = iova;
    device.region('bar0').write32(0, 1);
    dma.unmap(iova, 4096n);
    device.region('bar0').write32(0, 1);
    host.software.report.toString();
    await host.software.settle();
    user[Symbol.dispose]();
    await host.software.removeDevice(place);
  },
  'injected faults': async (host, keep) => {
    const call = keep(host.software.injectFault({ code: null, request: 'IOMMU_IOAS_MAP' }));
    keep(host.software.injectFault({ interrupt: 'lost', device: EDU }));
    const { device, dma } = keep(host.attach(EDU));
    dma.map(keep(DmaBuffer.alloc(4096)));
    device.irq('msi').enable(1);
    call.strikes;
  },
};
`;
