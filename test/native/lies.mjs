// Makes every call of the binding on files that return wrong answers (liar.cc), directly and through the classes of lib/. A
// call may return, or throw an error with a code. It must not crash, read past a buffer, allocate much memory, never
// return, or throw an error without a code.
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const rounds = Number(process.argv[2] ?? 200);
const root = fileURLToPath(new URL('../..', import.meta.url));
const load = (name) => import(pathToFileURL(join(root, 'dist/lib', name)).href);
const { native } = await load('addon/native.js');
const { Host, DmaBuffer } = await load('index.js');

const outcomes = { returned: 0, thrown: 0, refused: 0 };
const wrong = [];
const slow = [];

function judge(name, error) {
  if (error?.name === 'VfioError') {
    outcomes.thrown++;
    if (error.code === 'EPROTO') outcomes.refused++;
  } else if (/^(ERR_OUT_OF_RANGE|ERR_INVALID_ARG_TYPE|ERR_VFIO_DISPOSED|EOPNOTSUPP)$/.test(error?.code)) {
    outcomes.thrown++;
  } else {
    wrong.push(`${name}: ${error?.stack ?? error}`);
  }
}

async function call(name, run) {
  const start = performance.now();
  try {
    const result = await run();
    outcomes.returned++;
    return result;
  } catch (error) {
    judge(name, error);
    return undefined;
  } finally {
    const took = performance.now() - start;
    if (took > 5000) slow.push(`${name}: ${Math.round(took)} ms`);
  }
}

const memory = DmaBuffer.alloc(65536);
const kept = native.allocateMemory(65536, 0);
const pages = kept.number();
const token = '00112233-4455-6677-8899-aabbccddeeff';

/** An address space of the file with wrong answers. */
const space = () => files.iommufd.ioasAlloc();
/** In turn: a container's own address space, and one of an iommufd. */
let own = false;
const flip = () => {
  own = !own;
  return own;
};

/** Each call of native/binding/file.h that makes a request on a file. */
const calls = ({ iommufd, container, group, device, faultQueue, eventQueue, bond }) => ({
  destroy: () => iommufd.destroy(7),
  same: () => iommufd.same(container),
  ioasAlloc: () => iommufd.ioasAlloc().dispose(),
  ioasOf: () => iommufd.ioasOf(1).dispose(),
  ioasIovaRanges: () => iommufd.ioasIovaRanges(1),
  ioasAllowIovas: () => iommufd.ioasAllowIovas(1, BigUint64Array.of(0n, 0xfffn)),
  'Space.map': () => space().calls().map(pages, 3, 1, undefined, 0, 4096),
  'Space.unmap': () => space().calls().unmap(4096, 4096),
  'Space.mapAsync': () => space().mapAsync(pages, 3, 2, undefined, 0, 4096),
  'Space.copy': () => {
    const from = space();
    const iova = from.calls().map(pages, 3, 3, undefined, 0, 4096);
    return space().copy(from, 3, iova, 4096, 3, undefined, 4);
  },
  'Space.mapFile': () => space().mapFile(0, 0, 4096, 3, undefined, 5),
  'Space.unmapMapping': () => {
    const from = space();
    return from.unmapMapping(6, from.calls().map(pages, 3, 6, undefined, 0, 4096), 4096);
  },
  'Space.mappings': () => space().mappings(),
  ioasPhysicalAddress: () => iommufd.ioasPhysicalAddress(1, 0, 4096),
  changeProcess: () => iommufd.changeProcess(),
  getVfioIoas: () => iommufd.getVfioIoas(),
  setVfioIoas: () => iommufd.setVfioIoas(1),
  clearVfioIoas: () => iommufd.clearVfioIoas(),
  supports: () => iommufd.supports('hwpt'),
  getOption: () => iommufd.getOption('RLIMIT_MODE', 0),
  setOption: () => iommufd.setOption('RLIMIT_MODE', 0, 1),
  hwptAlloc: () => iommufd.hwptAlloc(1, 2, false, false, false),
  hwptSetDirtyTracking: () => iommufd.hwptSetDirtyTracking(1, true),
  hwptDirtyBitmap: () => iommufd.hwptDirtyBitmap(1, 0n, 0x100000n, 4096n, true),
  hwptInvalidate: () => iommufd.hwptInvalidate(1, 'vtd-s1', BigUint64Array.of(0n, 1n, 0n)),
  hwInfo: () => iommufd.hwInfo(1),
  faultQueueAlloc: () => iommufd.faultQueueAlloc().file.dispose(),
  readFaults: () => faultQueue.readFaults(),
  respondFault: () => faultQueue.respondFault(1, 0),
  viommuAlloc: () => iommufd.viommuAlloc(1, 2, 'tegra241-cmdqv'),
  vdeviceAlloc: () => iommufd.vdeviceAlloc(1, 2, 3n),
  veventqAlloc: () => iommufd.veventqAlloc(1, 'arm-smmuv3', 4).file.dispose(),
  readEvents: () => eventQueue.readEvents('arm-smmuv3'),
  hwQueueAlloc: () => iommufd.hwQueueAlloc(1, 'tegra241-cmdqv', 0, 0n, 4096n),
  groupStatus: () => group.groupStatus(),
  groupSetContainer: () => group.groupSetContainer(container),
  groupUnsetContainer: () => group.groupUnsetContainer(),
  groupDevice: () => group.groupDevice('0000:00:10.0').dispose(),
  containerSpace: () => container.containerSpace().mappings(),
  containerLost: () => container.containerLost(),
  'containerCalls.map': () => container.containerCalls(flip()).map(pages, 3, 7, 4096, 0, 4096),
  'containerCalls.unmap': () => container.containerCalls(flip()).unmap(4096, 4096),
  containerApiVersion: () => container.containerApiVersion(),
  containerCheckExtension: () => container.containerCheckExtension('type1'),
  containerSetIommu: () => container.containerSetIommu('type1'),
  containerInfo: () => container.containerInfo(),
  containerMapAsync: () => container.containerMapAsync(flip(), pages, 3, 8, 0, 0, 4096),
  containerDirtyTracking: () => container.containerDirtyTracking(true),
  containerDirtyBitmap: () => container.containerDirtyBitmap(0n, 0x100000n, 4096n),
  containerUnmapDirty: () => container.containerUnmapDirty(flip(), 0n, 0x100000n, 4096n),
  containerInvalidateVaddr: () => container.containerInvalidateVaddr(0n, 4096n),
  containerUpdateVaddr: () => container.containerUpdateVaddr(flip(), pages, 0, 4096, 0n, 9, 4096),
  bindIommufd: () => device.bindIommufd(iommufd, token),
  setVfToken: () => device.setVfToken(token),
  attach: () => device.attach(1),
  detach: () => device.detach(),
  deviceInfo: () => device.deviceInfo(),
  irqInfo: () => device.irqInfo(1),
  setIrqs: () => device.setIrqs(1, 0, 1, 'trigger'),
  setIrqEventfds: () => device.setIrqEventfds(1, 0, 'trigger', Int32Array.of(-1)),
  reset: () => device.reset(),
  hotResetInfo: () => device.hotResetInfo(),
  hotReset: () => device.hotReset([group]),
  svaSupported: () => device.svaSupported(),
  svaEnabled: () => device.svaEnabled(),
  svaEnable: () => device.svaEnable(true),
  svaBind: () => device.svaBind(false).dispose(),
  bondInfo: () => bond.bondInfo(),
  readBondEvents: () => bond.readBondEvents(),
  regionInfo: () => device.regionInfo(0),
  regionRead: () => device.regionRead(0n, 4),
  regionWrite: () => device.regionWrite(0n, 4, 1),
  readInto: () => device.readInto(0n, new Uint8Array(64)),
  writeFrom: () => device.writeFrom(0n, new Uint8Array(64)),
  mmap: () => device.mmap(0n, 4096n, true, true).dispose(),
});

const host = new native.Host('kernel');
/** The file of a queue. These answers may be wrong too, so the call is repeated until it returns a file. */
function queue(make) {
  for (;;)
    try {
      return make().file;
    } catch (error) {
      judge('a queue', error);
    }
}
const iommufd = host.open('/dev/iommu', 'iommufd', false);
const device = host.open('/dev/vfio/devices/vfio0', 'device', false);
const files = {
  iommufd,
  container: host.open('/dev/vfio/vfio', 'container', false),
  group: host.open('/dev/vfio/7', 'group', false),
  device,
  faultQueue: queue(() => iommufd.faultQueueAlloc()),
  eventQueue: queue(() => iommufd.veventqAlloc(1, 'arm-smmuv3', 4)),
  bond: queue(() => ({ file: device.svaBind(false) })),
};

// Checks that the list above is complete: only calls without a request to the kernel may be missing in it.
const asked = new Set(Object.keys(calls(files)).map((name) => name.split('.')[0]));
const without = new Set(['constructor', 'fd', 'dispose', 'release', 'pinned']);
for (const file of Object.values(files))
  for (const name of Object.getOwnPropertyNames(Object.getPrototypeOf(file)))
    if (!asked.has(name) && !without.has(name))
      wrong.push(`${name} is a call of the binding that was not tried`);

for (let round = 0; round < rounds; round++) {
  for (const [name, run] of Object.entries(calls(files))) await call(name, run);
  await call('readlink', () => host.readlink('/lies/link'));
  await call('readText', () => host.readText('/lies/text'));
  await call('writeText', () => host.writeText('/lies/text', 'text'));
}

/** Uses the classes of lib/ as a program does: they process these answers. */
for (let round = 0; round < rounds; round++) {
  const top = Host.open({ backend: 'kernel' });
  const iommufd = await call('openIommufd', () => top.openIommufd());
  const container = await call('openContainer', () => top.openContainer());
  const ioas = iommufd && (await call('allocIoas', () => iommufd.allocIoas()));
  for (const space of [ioas, container])
    if (space)
      for (const name of ['iovaRanges', 'mappings', 'info', 'map', 'unmapAll'])
        if (name in space) await call(`${space.constructor.name}.${name}`, () => space[name](memory));
  const group = await call('openGroup', () => top.openGroup(7));
  const device = group && (await call('openDevice', () => group.openDevice('0000:00:10.0')));
  if (device) {
    for (const name of ['info', 'config']) await call(`device.${name}`, () => device[name]);
    for (const name of ['hotResetInfo', 'reset']) await call(`device.${name}`, () => device[name]());
    for (const index of ['bar0', 'config', 'rom', 9])
      await call('device.region', async () => {
        const region = device.region(index);
        await call('region.read32', () => region.read32(0));
        await call('region.mmap', () => region.mmap()[Symbol.dispose]());
      });
    await call('capabilities', () => device.config.capabilities());
    await call('extendedCapabilities', () => device.config.extendedCapabilities());
    await call('irq.enable', () => device.irq('msix').enable(4));
  }
  for (const each of [device, group, container, iommufd, top]) each?.[Symbol.dispose]();
}

// Memory that is kept because of a wrong answer about a mapping is not checked here.
const most = process.resourceUsage().maxRSS / 1024;
console.log(
  JSON.stringify({
    ...outcomes,
    wrong: wrong.slice(0, 5),
    wrongs: wrong.length,
    slow,
    megabytes: Math.round(most),
  }),
);
