/**
 * Each kind of open file accepts its own calls only: tsc refuses the others (test/file-kinds.types.ts), and so does the
 * engine, where a call is borrowed from a file of another kind.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type {
  NativeContainer,
  NativeDevice,
  NativeEventQueue,
  NativeFaultQueue,
  NativeFile,
  NativeGroup,
  NativeIommufd,
} from '../lib/addon/files.ts';
import { native } from '../lib/addon/native.ts';
import { fileOf } from '../lib/handles/handle.ts';
import { DmaBuffer, Host } from '../lib/index.ts';
import { EDU, needs } from './support/backends.ts';

needs({ backends: ['software'], because: 'Linux 6.12, which the guest runs, has no event queues' });

/** A device of another group: a group that has an open device can't be opened. */
const OTHER = '0000:00:11.0';

interface Kinds {
  iommufd: NativeIommufd;
  container: NativeContainer;
  group: NativeGroup;
  device: NativeDevice;
  faultQueue: NativeFaultQueue;
  eventQueue: NativeEventQueue;
}
const kinds = ['iommufd', 'container', 'group', 'device', 'faultQueue', 'eventQueue'] as const;

/** The calls that a kind of file has besides those of every file, each with arguments. tsc checks that none is missing. */
type Calls<File> = {
  [Call in Exclude<keyof File, keyof NativeFile>]: File[Call] extends (...given: infer Given) => unknown
    ? Given
    : never;
};

let host: Host;
let memory: DmaBuffer;
let files: Kinds;
let calls: { [Kind in keyof Kinds]: Calls<Kinds[Kind]> };
/** What a call could have changed. */
let state: () => unknown;

beforeAll(async () => {
  host = Host.open({
    backend: 'software',
    software: {
      topology: {
        iommus: [{ kind: 'smmuv3' }],
        devices: [EDU, OTHER].map((bdf) => ({ model: 'edu', bdf, driver: 'vfio-pci' })),
      },
    },
  });
  memory = DmaBuffer.alloc(0x2000);
  for (const bdf of [EDU, OTHER]) await host.device(bdf).bind();
  const handle = host.openIommufd();
  const opened = host.openDevice(EDU);
  opened.bind(handle);
  const iommufd = fileOf(handle);
  const device = fileOf(opened);
  const id = opened.id ?? 0;
  const space = handle.allocIoas();
  space.map(memory, { iova: 0x10000 });
  const ioas = space.id;
  const parent = handle.allocHwpt({ device: opened, parent: space, nestParent: true });
  const viommu = handle.allocViommu({ device: opened, parent, type: 'arm-smmuv3' });
  const group = fileOf(host.openGroup(host.device(OTHER).group ?? -1));
  const container = fileOf(host.openContainer());
  const faults = iommufd.faultQueueAlloc();
  const events = iommufd.veventqAlloc(viommu.id, 'arm-smmuv3', 4);
  files = { iommufd, container, group, device, faultQueue: faults.file, eventQueue: events.file };

  const number = native.mappingNumbers(1);
  const none = new BigUint64Array();
  const containerCalls: Calls<NativeContainer> = {
    containerCalls: [true],
    containerSpace: [],
    containerLost: [],
    containerApiVersion: [],
    containerCheckExtension: ['type1'],
    containerSetIommu: ['type1v2'],
    containerInfo: [],
    containerMapAsync: [true, 1, 3, number, 0x40000n],
    containerDirtyTracking: [true],
    containerDirtyBitmap: [0n, 0x1000n, 0x1000n],
    containerUnmapDirty: [true, 0n, 0x1000n, 0x1000n],
    containerInvalidateVaddr: [0n, 0x1000n],
    containerUpdateVaddr: [true, 1, 0, 0x1000, 0n, number, 0x1000n],
  };
  calls = {
    container: containerCalls,
    iommufd: {
      ...containerCalls,
      destroy: [ioas],
      ioasAlloc: [],
      ioasOf: [ioas],
      ioasIovaRanges: [ioas],
      ioasAllowIovas: [ioas, BigUint64Array.of(0n, 0xfffn)],
      ioasPhysicalAddress: [ioas, 0x10000n, 0x1000n],
      changeProcess: [],
      getVfioIoas: [],
      setVfioIoas: [ioas],
      clearVfioIoas: [],
      supports: ['hwpt'],
      getOption: ['HUGE_PAGES', ioas],
      setOption: ['HUGE_PAGES', ioas, 0n],
      hwptAlloc: [id, ioas, false, false, false],
      hwptSetDirtyTracking: [parent.id, true],
      hwptDirtyBitmap: [parent.id, 0n, 0x1000n, 0x1000n, true],
      hwptInvalidate: [parent.id, 'arm-smmuv3', none],
      hwInfo: [id],
      faultQueueAlloc: [],
      viommuAlloc: [id, parent.id, 'arm-smmuv3'],
      vdeviceAlloc: [viommu.id, id, 1n],
      veventqAlloc: [viommu.id, 'arm-smmuv3', 4],
      hwQueueAlloc: [viommu.id, 'tegra241-cmdqv', 0, 0x10000n, 0x1000n],
    },
    group: {
      groupStatus: [],
      groupSetContainer: [container],
      groupUnsetContainer: [],
      groupDevice: [OTHER],
    },
    device: {
      bindIommufd: [iommufd],
      setVfToken: ['01234567-89ab-cdef-0123-456789abcdef'],
      attach: [ioas],
      detach: [],
      deviceInfo: [],
      irqInfo: [1],
      setIrqs: [1, 0, 1, 'trigger'],
      setIrqEventfds: [1, 0, 'trigger', Int32Array.of(-1)],
      reset: [],
      hotResetInfo: [],
      hotReset: [[group]],
      regionInfo: [0],
      regionRead: [0n, 8],
      regionWrite: [4n, 4, 1],
      readInto: [0n, new Uint8Array(4)],
      writeFrom: [0n, new Uint8Array(4)],
      mmap: [0n, 0x1000n, true, true],
      svaSupported: [],
      svaEnabled: [],
      svaEnable: [true],
      svaBind: [false],
    },
    faultQueue: { readFaults: [], respondFault: [1, 0] },
    eventQueue: { readEvents: ['arm-smmuv3'] },
  };
  state = () => ({
    mappings: space.mappings(),
    ranges: space.iovaRanges(),
    compat: iommufd.getVfioIoas(),
    hugePages: iommufd.getOption('HUGE_PAGES', ioas),
    objects: [space.id, parent.id, viommu.id, faults.object.id(), events.object.id()],
    lost: [faults.object.gone(), events.object.gone()],
    device: [opened.info, opened.id, opened.region('bar0').read32(4), opened.config.read16(4)],
    group: group.groupStatus(),
    container: container.containerLost(),
    pinned: iommufd.pinned(),
    kept: native.kept(),
    descriptors: readdirSync('/proc/self/fd').length,
  });
});

afterAll(() => {
  host?.[Symbol.dispose]();
  memory?.[Symbol.dispose]();
});

/** The methods of a file's class. */
const methodsOf = (file: NativeFile) =>
  new Map(
    Object.entries(Object.getOwnPropertyDescriptors(Object.getPrototypeOf(file) as object)).flatMap(
      ([name, { value }]): [string, (...given: unknown[]) => unknown][] =>
        typeof value === 'function' && name !== 'constructor' ? [[name, value]] : [],
    ),
  );

test('the class of each kind of file has the calls of its type, and no others', () => {
  for (const kind of kinds)
    expect([...methodsOf(files[kind]).keys()].sort(), kind).toEqual(
      [...Object.keys(calls[kind]), 'dispose', 'pinned', 'release', 'same'].sort(),
    );
});

test.each(kinds)(
  'a file of the kind %s refuses each call of every other kind, and nothing changes',
  (kind) => {
    const before = state();
    const others = kinds.filter((other) => other !== kind);
    for (const other of others) {
      const given: Readonly<Record<string, unknown[]>> = calls[other];
      for (const [name, call] of methodsOf(files[other]))
        expect(() => Reflect.apply(call, files[kind], given[name] ?? []), `${other}.${name}`).toThrow(
          new TypeError('Illegal invocation'),
        );
    }
    expect(state()).toEqual(before);
  },
);

test.each(kinds)('a file of the kind %s is refused as an argument where another kind is wanted', (kind) => {
  const before = state();
  const given = files[kind] as never; // tsc would refuse it
  const wants: [readonly (typeof kinds)[number][], () => unknown][] = [
    [['iommufd'], () => files.device.bindIommufd(given)],
    [['iommufd', 'container'], () => files.group.groupSetContainer(given)],
    [['group'], () => files.device.hotReset([given])],
  ];
  for (const [accepted, call] of wants) if (!accepted.includes(kind)) expect(call).toThrow(TypeError);
  expect(state()).toEqual(before);
});

test('tsc refuses, for each kind of file, a call of every other kind', { timeout: 60_000 }, () => {
  const root = join(import.meta.dirname, '..');
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  const { status, stdout } = spawnSync(process.execPath, [tsc, '--noEmit', '-p', root], { encoding: 'utf8' });
  expect({ status, stdout }).toEqual({ status: 0, stdout: '' });
});
