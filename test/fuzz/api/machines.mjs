/**
 * The machines on which sequences of calls begin: machines of all kinds, with devices that are bound, attached and in use,
 * so that more calls succeed. Each has the options of its host, and a function `prepare` that is called first.
 */
const EDU = '0000:00:10.0';
const MDEV = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
export const TOKEN = '00112233-4455-6677-8899-aabbccddeeff';
const edu = { model: 'edu', bdf: EDU, driver: 'vfio-pci', pasidBits: 16, pageRequests: true };
const nvme = {
  model: 'passive',
  bdf: '0000:01:00.0',
  behind: '0000:00:15.0',
  vendor: 0x1b36,
  device: 0x10,
  classCode: 0x010802,
  driver: 'vfio-pci',
  functionReset: true,
  pin: true,
  bars: [{ kind: 'memory64', size: 16384 }, null, { kind: 'memory64', size: 16384, memory: true }],
  msix: 8,
  sriov: { totalVfs: 4, bars: [{ kind: 'memory64', size: 16384 }], msix: 1 },
};
const bridged = [
  { model: 'root-port', bdf: '0000:00:12.0' },
  { model: 'bridge', behind: '0000:00:12.0', slot: 0 },
  { model: 'edu', behind: '0000:01:00.0', slot: 1, driver: 'edu', mdevs: [MDEV] },
  { model: 'edu', behind: '0000:01:00.0', slot: 2 },
];

/** The addresses of the devices of these machines. */
export const ADDRESSES = [
  EDU,
  '0000:00:14.0',
  '0000:01:00.0',
  '0000:02:01.0',
  '0000:02:02.0',
  '0000:03:01.0',
  MDEV,
];

export const TOPOLOGIES = [
  { devices: [edu, { model: 'root-port', bdf: '0000:00:15.0' }, nvme] },
  { iommus: [{ kind: 'vtd', pageRequests: 'pri', nesting: ['vtd-s1'], pasidBits: 16 }], devices: [edu] },
  {
    iommus: [{ kind: 'smmuv3', commandQueues: true, pageRequests: 'stall' }],
    devices: [edu, { model: 'ivshmem', bdf: '0000:00:14.0', driver: 'vfio-pci' }],
  },
  { devices: [...bridged, edu] },
  { iommus: [], system: { commandLine: 'vfio.enable_unsafe_noiommu_mode=1' }, devices: [edu] },
  { iommus: [{ kind: 'amd' }], devices: [edu], system: { user: 0 } },
  { system: { without: ['iommufd'] }, devices: [edu] },
  { devices: [edu, { model: 'nvme', bdf: '0000:00:14.0', driver: 'vfio-pci', size: 2 ** 20 }] },
  { devices: [edu, { model: 'virtio-net', bdf: '0000:00:14.0', driver: 'vfio-pci' }] },
  { iommus: [{ kind: 'virtio' }], devices: [edu] },
];

/** Prepares an open host. `keep` adds an object to those that calls use. */
const preparations = {
  byCharacterDevice(vfio, host, keep) {
    const iommufd = keep(host.openIommufd());
    const device = keep(host.openDevice(EDU));
    device.bind(iommufd);
    const ioas = keep(iommufd.allocIoas());
    device.attach(ioas);
    const memory = keep(vfio.DmaBuffer.alloc(0x8000));
    keep(ioas.map(memory, { iova: 0x100000 }));
    device.config.busMaster = true;
    const registers = keep(device.region('bar0').mmap());
    keep(device.region('bar0'));
    keep(device.config);
    const irq = keep(device.irq('msi'));
    const [interrupt] = irq.enable(1);
    keep(interrupt);
    // Starts a valid transfer, so that the device has work.
    registers.write64(0x80, 0x100000n);
    registers.write64(0x88, 0x40000n);
    registers.write64(0x90, 64n);
    registers.write64(0x98, 5n);
  },
  pageFaults(vfio, host, keep) {
    const iommufd = keep(host.openIommufd());
    const device = keep(host.openDevice(EDU));
    device.bind(iommufd);
    const ioas = keep(iommufd.allocIoas());
    const queue = keep(iommufd.allocFaultQueue());
    device.attach(keep(iommufd.allocHwpt({ device, parent: ioas, faultQueue: queue })));
    device.config.busMaster = true;
    const registers = keep(device.region('bar0').mmap());
    registers.write64(0x80, 0x200000n);
    registers.write64(0x88, 0x40000n);
    registers.write64(0x90, 64n);
    registers.write64(0x98, 1n);
    keep(vfio.DmaBuffer.alloc(0x2000));
  },
  nested(vfio, host, keep) {
    const iommufd = keep(host.openIommufd());
    const device = keep(host.openDevice(EDU));
    device.bind(iommufd);
    const ioas = keep(iommufd.allocIoas());
    const memory = keep(vfio.DmaBuffer.alloc(0x8000));
    keep(ioas.map(memory, { iova: 0x100000 }));
    const parent = keep(iommufd.allocHwpt({ device, parent: ioas, nestParent: true }));
    if (iommufd.hwInfo(device).type !== 'arm-smmuv3') {
      const data = { type: 'vtd-s1', pgtblAddr: 0x100000n, addrWidth: 48 };
      keep(iommufd.allocHwpt({ device, parent, data }));
      return;
    }
    for (const kind of ['arm-smmuv3', 'tegra241-cmdqv']) {
      const viommu = keep(iommufd.allocViommu({ device, parent, type: kind }));
      keep(viommu.allocEventQueue({ depth: 4 }));
      if (kind === 'tegra241-cmdqv') keep(viommu.allocHwQueue({ index: 0, iova: 0x100000n, length: 4096 }));
      else keep(viommu.allocVdevice({ device, virtId: 0x12n }));
      keep(iommufd.allocHwpt({ device, parent: viommu, data: { type: 'arm-smmuv3', ste: [9n, 0n] } }));
    }
  },
  byGroup(vfio, host, keep, options = { type: 'type1v2' }) {
    const sysfs = host.device(EDU);
    const container = keep(host.openContainer());
    const unsafeNoIommu = options.type === 'noiommu';
    const group = keep(host.openGroup(sysfs.group, { unsafeNoIommu }));
    group.setContainer(container);
    container.setIommu(options.type);
    keep(group.openDevice(EDU));
    const memory = keep(vfio.DmaBuffer.alloc(0x8000));
    if (!unsafeNoIommu) keep(container.map(memory, { iova: 0x100000 }));
  },
  byGroupType1: (vfio, host, keep) => preparations.byGroup(vfio, host, keep, { type: 'type1' }),
  withoutIommu: (vfio, host, keep) => preparations.byGroup(vfio, host, keep, { type: 'noiommu' }),
  compatibility(vfio, host, keep) {
    const iommufd = keep(host.openIommufd());
    const group = keep(host.openGroup(host.device(EDU).group));
    group.setContainer(iommufd);
    keep(group.openDevice(EDU));
    const container = keep(iommufd.container());
    const memory = keep(vfio.DmaBuffer.alloc(0x8000));
    keep(container.map(memory, { iova: 0x100000 }));
    keep(iommufd.vfioCompatIoas);
  },
  mediated(vfio, host, keep) {
    const user = keep(host.attach(MDEV));
    keep(user.dma.map(keep(vfio.DmaBuffer.alloc(0x4000))));
  },
  nothing() {},
};

/** A topology, what is prepared on it, and the kernel that it answers as. */
export const MACHINES = [
  { topology: 0, prepare: 'byCharacterDevice' },
  { topology: 0, prepare: 'byGroup' },
  { topology: 0, prepare: 'byGroupType1' },
  { topology: 0, prepare: 'compatibility' },
  { topology: 1, prepare: 'pageFaults' },
  { topology: 1, prepare: 'nested' },
  { topology: 2, prepare: 'nested' },
  { topology: 2, prepare: 'byCharacterDevice' },
  { topology: 3, prepare: 'mediated' },
  { topology: 4, prepare: 'withoutIommu', kernel: '7.3' },
  { topology: 5, prepare: 'byCharacterDevice' },
  { topology: 6, prepare: 'byGroup' },
  { topology: 7, prepare: 'nothing' },
  { topology: 0, prepare: 'byCharacterDevice', kernel: '6.6' },
  { topology: 0, prepare: 'compatibility', kernel: '6.12' },
].map(({ topology, prepare, kernel }) => ({
  name: `${prepare} on machine ${topology}${kernel === undefined ? '' : `, Linux ${kernel}`}`,
  options: {
    backend: 'software',
    software: { topology: TOPOLOGIES[topology], ...(kernel === undefined ? {} : { kernel }) },
  },
  prepare: preparations[prepare],
}));
