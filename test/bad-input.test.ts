/**
 * Bad arguments for every public call: wrong types, negative numbers, NaN, 2^64, unaligned, zero length, disposed and foreign
 * handles. Each is refused with the right error, in the form that all errors of this package have, and changes nothing. The
 * first test fails if a public call has no entry here.
 */
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { native } from '../lib/addon/native.ts';
import { OURS } from '../lib/base/private.ts';
import { fileOf } from '../lib/handles/handle.ts';
import {
  type Container,
  DmaBuffer,
  FaultQueue,
  Group,
  Host,
  Hwpt,
  type Interrupt,
  Ioas,
  Iommufd,
  type IommuGroup,
  type Irq,
  type MappedRegion,
  type Mapping,
  type PciConfig,
  type PciDevice,
  type Region,
  RegisterBank,
  registers,
  SimulatedDevice,
  Sva,
  SvaBond,
  type U64Like,
  VfioDevice,
  VfioError,
  Viommu,
} from '../lib/index.ts';
import { backend, EDU, openHost } from './support/backends.ts';
import { dropsOnPurpose } from './support/dropped.ts';
import { Edu, Reg } from './support/edu.ts';
import { classes, surface } from './support/surface.ts';

let host: Host;
let iommufd: Iommufd;
let ioas: Ioas;
let other: Ioas;
let sysfs: PciDevice;
let members: IommuGroup;
let device: VfioDevice;
let region: Region;
let config: PciConfig;
let mapped: MappedRegion;
let irq: Irq;
let interrupt: Interrupt;
let memory: DmaBuffer;
let mapping: Mapping;
let edu: Edu;
let folder: string;
let file: number;
let hwpt: Hwpt;
let bond: SvaBond;
let queue: FaultQueue;
let container: Container;
let group: Group;
let viommu: Viommu;
let stranger: Iommufd;
let strange: { ioas: Ioas; queue: FaultQueue; hwpt: Hwpt };
let disposedMemory: DmaBuffer;
let disposedIoas: Ioas;
let disposedIommufd: Iommufd;
let disposedQueue: FaultQueue;
let unmapped: Mapping;

/** A number that is not a descriptor of this process. */
const NO_FD = 1_000_000;

/** A kernel object in place of one that no IOMMU here can make. */
const anObject = (of: Iommufd) => {
  const { object, file } = fileOf(of).faultQueueAlloc();
  file.dispose();
  return object;
};

beforeAll(async () => {
  host = openHost();
  sysfs = host.device(EDU);
  await sysfs.bind();
  members = host.group(sysfs.group ?? -1);
  iommufd = host.openIommufd();
  device = host.openDevice(EDU);
  device.bind(iommufd);
  ioas = iommufd.allocIoas();
  other = iommufd.allocIoas();
  device.attach(ioas);
  region = device.region('bar0');
  config = device.config;
  edu = new Edu(device);
  mapped = edu.registers;
  irq = device.irq('msi');
  interrupt = irq.enable(1)[0]!;
  memory = DmaBuffer.alloc(0x2000);
  memory.write(0, Buffer.alloc(0x2000, 0x5a));
  mapping = ioas.map(memory, { iova: 0x10000 });
  // The checks come before the way that it was made by.
  const bonding = {
    way: 'native',
    pasid: () => 1,
    ended: () => false,
    reach: () => {},
    allocate: () => new ArrayBuffer(0),
    adopt: () => {},
    dispose: () => {},
  } as const;
  bond = new SvaBond(OURS, device, bonding, undefined, false, []);
  folder = mkdtempSync(join(tmpdir(), 'vfio-bad-input-'));
  writeFileSync(join(folder, 'memory'), Buffer.alloc(0x3000));
  file = openSync(join(folder, 'memory'), 'r+');
  disposedMemory = DmaBuffer.alloc(4096);
  disposedMemory[Symbol.dispose]();
  disposedIoas = iommufd.allocIoas();
  disposedIoas[Symbol.dispose]();
  disposedIommufd = host.openIommufd();
  disposedIommufd[Symbol.dispose]();
  unmapped = ioas.map(memory, { iova: 0x40000 });
  unmapped[Symbol.dispose]();
  hwpt = iommufd.allocHwpt({ device, parent: ioas });
  queue = iommufd.allocFaultQueue();
  disposedQueue = iommufd.allocFaultQueue();
  disposedQueue[Symbol.dispose]();
  iommufd.vfioCompatIoas = ioas;
  container = iommufd.container();
  // An iommufd in place of a group: a call that passes the checks fails with ENOTTY.
  group = new Group(OURS, host, new native.Host(backend).open('/dev/iommu', 'group', false), 4711, false, {
    sysfs: () => undefined,
    owned: () => () => {},
    device: () => ({ groupOf: () => null }),
  });
  // Bad arguments are refused before the kernel is called, so it need not have this object.
  viommu = new Viommu(
    OURS,
    iommufd,
    hwpt,
    fileOf(iommufd),
    { object: anObject(iommufd), mmap: null },
    'arm-smmuv3',
  );
  stranger = host.openIommufd();
  strange = {
    ioas: stranger.allocIoas(),
    queue: stranger.allocFaultQueue(),
    hwpt: new Hwpt(OURS, stranger, [stranger], fileOf(stranger), anObject(stranger)),
  };
});

afterAll(() => {
  memory[Symbol.dispose]();
  host[Symbol.dispose]();
  closeSync(file);
  rmSync(folder, { recursive: true });
});

/** Everything that a call could have changed. */
async function state() {
  // Eventfds are closed in the next turn of the event loop.
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
  // The address where the kernel would map next shows the effect of allowIovas, which no other call shows.
  using page = DmaBuffer.alloc(4096);
  const next = ioas.map(page);
  next[Symbol.dispose]();
  const bytes = Buffer.alloc(memory.size);
  memory.read(0, bytes);
  // The lowest free id shows that no object was left behind.
  using object = iommufd.allocIoas();
  return {
    object: object.id,
    compat: iommufd.vfioCompatIoas === ioas,
    faults: [queue.disposed, hwpt.disposed, queue.poll()],
    next: next.iova,
    mappings: [ioas.mappings(), other.mappings()],
    ranges: ioas.iovaRanges(),
    hugePages: ioas.hugePages,
    rlimitMode: iommufd.rlimitMode,
    config: Array.from({ length: 64 }, (_, at) => config.read8(at)),
    registers: Object.values(Reg).map((at) => mapped.read32(at)),
    wide: [Reg.source, Reg.destination, Reg.count, Reg.command].map((at) => mapped.read64(at)),
    fired: interrupt.poll(),
    memory: bytes.every((each) => each === 0x5a),
    alive: [host, iommufd, ioas, device, mapped, interrupt].map((each) => each.disposed),
    device: [device.id, device.iommufd === iommufd, sysfs.driver, sysfs.driverOverride],
    descriptors: readdirSync('/proc/self/fd').length,
  };
}

interface Refused {
  readonly bad: unknown;
  readonly call: () => unknown;
  /** The argument that the error names; or the code of an error that is not about the form of an argument. */
  readonly of?: string;
  readonly code?: string | RegExp;
}

/** Cases in which each of `bad` is refused as the argument `of`. */
function refuses(of: string, bad: readonly unknown[], call: (bad: never) => unknown): Refused[] {
  return bad.map((each) => ({ bad: each, of, call: () => call(each as never) }));
}

/** Cases in which each of `bad` has the right form, and is refused by the host or because of the object's state. */
function fails(code: string | RegExp, bad: readonly unknown[], call: (bad: never) => unknown): Refused[] {
  return bad.map((each) => ({ bad: each, code, call: () => call(each as never) }));
}

const NUMBERLIKE = { valueOf: () => 0, toString: () => '0', [Symbol.toPrimitive]: () => 0 };
const ODD = ['0', '0x1000', '', null, true, {}, [], [0], Symbol('odd'), () => 0, new Date(0), NUMBERLIKE];
const NO_NUMBER = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
const u64s = [...ODD, ...NO_NUMBER, -1, 0.5, 2 ** 53, 2 ** 64, -1n, 2n ** 64n, -(2n ** 63n), 2n ** 200n];
const integers = (max: number) => [...ODD, ...NO_NUMBER, -1, 0.5, max + 1, 2 ** 64, 1n, -1n, 2n ** 64n];
const booleans = ['true', '', null, {}, [], Symbol('odd'), () => true, 0, 1, Number.NaN, 1n];
const texts = [undefined, null, true, 0, 1n, {}, [], ['vfio-pci'], Symbol('odd'), () => ''];
const objects = [null, true, 'x', 5, 5n, Symbol('odd'), [], [1]];
const functions = [undefined, null, true, 'x', 5, {}, []];
const detached = new ArrayBuffer(8);
const ofDetached = new Uint8Array(detached);
structuredClone(detached, { transfer: [detached] });
const notBytes = [
  ...[undefined, null, 'bytes', 5, [1, 2], {}, Symbol('odd'), () => true],
  Object.create(Uint8Array.prototype),
  Object.create(ArrayBuffer.prototype),
  new Proxy(new Uint8Array(8), {}),
  new Proxy(new ArrayBuffer(8), {}),
  detached,
  ofDetached,
];
const bytes = [
  undefined,
  null,
  'bytes',
  5,
  [1, 2],
  {},
  new Uint16Array(2),
  new Uint8ClampedArray(2),
  new DataView(new ArrayBuffer(8)),
  new ArrayBuffer(8),
  new SharedArrayBuffer(8),
  Object.create(Uint8Array.prototype),
  new Proxy(new Uint8Array(8), {}),
];
const addresses = [
  ...texts,
  '',
  'zz',
  '0000:00:10',
  '0000:00:10.8',
  '0000:00:20.0',
  '10.0',
  '../../..',
  '0000:00:10.0/..',
  '0000:00:10.0\0',
  ' 0000:00:10.0',
  '0'.repeat(1_000_000),
];
const notMemory = () => [
  undefined,
  null,
  5,
  'memory',
  {},
  [],
  new Uint8Array(4096),
  Buffer.alloc(4096),
  new ArrayBuffer(4096),
  new SharedArrayBuffer(4096),
  memory.buffer,
  memory.bytes,
  { address: memory.address, size: memory.size },
  { ...memory.slice(0, 4096) },
  Object.create(memory),
  Object.create(memory.slice(0, 4096)),
  new Proxy(memory, {}),
  Object.create(DmaBuffer.prototype),
  mapped,
  mapped.length,
  mapping,
  ioas,
];
const notOf = (of: { prototype: object }, real: object) => [
  undefined,
  null,
  0,
  1,
  'x',
  {},
  Object.create(of.prototype),
  Object.create(real),
  new Proxy(real, {}),
  host,
  memory,
  of.prototype,
];

/** The cases of map and of mapAsync, which take the same arguments. */
function mapCases(map: (memory: never, options?: never) => unknown): Refused[] {
  const where = (iova: unknown) => map(memory as never, { iova } as never);
  return [
    ...refuses('memory', notMemory(), (bad) => map(bad)),
    ...refuses('options', objects, (bad) => map(memory as never, bad)),
    ...refuses('iova', u64s, where),
    ...refuses('read', booleans, (read) => map(memory as never, { read } as never)),
    ...refuses('write', booleans, (write) => map(memory as never, { write } as never)),
    ...fails('ERR_VFIO_DISPOSED', [disposedMemory], (bad) => map(bad)),
    // Unaligned, neither read nor write, in the reserved window of message interrupts, over the end.
    ...fails('EINVAL', [1, 0x1001, 0x20800n], where),
    ...fails('EINVAL', [{ read: false, write: false }], (bad) => map(memory as never, bad)),
    ...fails('EINVAL', [memory.slice(1, 4096), memory.slice(0, 100)], (bad) => map(bad)),
    ...fails(/EINVAL|EADDRINUSE/, backend === 'kernel' ? [] : [0xfee00000], where),
    ...fails(/EINVAL|EOVERFLOW/, [2n ** 64n - 0x1000n, 2n ** 64n - 1n], where),
    ...fails('EEXIST', [0x10000, 0xf000, 0x11000n], where),
  ];
}

/** The same cases for a container, which refuses unknown options and accepts a mapping without read and write. */
function containerMapCases(map: (memory: never, options?: never) => unknown): Refused[] {
  const where = (iova: unknown) => map(memory as never, { iova } as never);
  return [
    ...refuses('memory', notMemory(), (bad) => map(bad)),
    ...refuses('options', [...objects, { address: 1 }], (bad) => map(memory as never, bad)),
    ...refuses('iova', u64s, where),
    ...refuses('read', booleans, (read) => map(memory as never, { read } as never)),
    ...refuses('write', booleans, (write) => map(memory as never, { write } as never)),
    ...fails('ERR_VFIO_DISPOSED', [disposedMemory], (bad) => map(bad)),
    ...fails('EINVAL', [1, 0x1001, 0x20800n], where),
    ...fails('EINVAL', [memory.slice(1, 4096), memory.slice(0, 100)], (bad) => map(bad)),
    ...fails('EEXIST', [0x10000, 0xf000, 0x11000n], where),
  ];
}

/** Offsets and values of a register access of `width` bytes. */
function accessCases(
  width: number,
  end: number,
  offsets: readonly unknown[],
  read: ((offset: never) => unknown) | undefined,
  write?: (offset: never, value: never) => unknown,
): Refused[] {
  const past = [end, end - width + 1, end * 2, Number.MAX_SAFE_INTEGER];
  const values = width === 8 ? u64s : integers(2 ** (8 * width) - 1);
  if (read) return refuses('offset', [...offsets, ...past], read);
  return [
    ...refuses('offset', [...offsets, ...past], (bad) => write?.(bad, (width === 8 ? 0n : 0) as never)),
    ...refuses('value', [undefined, ...values], (bad) => write?.(Reg.liveness as never, bad)),
  ];
}

const END = 0x100000; // of the edu device's BAR0
const offset = () => [undefined, ...integers(Number.MAX_SAFE_INTEGER)];
const nothing = () => [];

/** A device of our own, whose side of the slot a test uses. */
class Model extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f0, classCode: 0xff0000 };
  override readonly msi = 2;
  read(iova: U64Like, into: Uint8Array, o?: { pasid?: number }) {
    this.dmaRead(iova, into, o);
  }
  write(iova: U64Like, from: Uint8Array, o?: { pasid?: number }) {
    this.dmaWrite(iova, from, o);
  }
  readLater(iova: U64Like, into: Uint8Array, o?: { pasid?: number }) {
    return this.dmaReadAsync(iova, into, o);
  }
  writeLater(iova: U64Like, from: Uint8Array, o?: { pasid?: number }) {
    return this.dmaWriteAsync(iova, from, o);
  }
  take(iova: U64Like, length: number, o?: { pasid?: number }) {
    this.own(iova, length, o);
  }
  give(iova: U64Like, length: number, o?: { pasid?: number }) {
    this.release(iova, length, o);
  }
  bell(bar: number, offset: number) {
    return this.doorbell(bar, offset);
  }
  bytes(bar: number) {
    return this.memory(bar);
  }
  later(job: () => void, delay?: number) {
    this.post(job, delay);
  }
  fire(vector: number) {
    return this.interrupt(vector);
  }
  assert(asserted: boolean) {
    this.setLine(asserted);
  }
}
const model = new Model();
const bank = new RegisterBank(registers({ only: { offset: 0, width: 4 } }));

/** The arguments that each public call refuses. `nothing`: it has no argument that could be wrong. */
const table: Record<string, () => Refused[]> = {
  'static Host.open': () => [
    ...refuses('options', objects, (bad) => Host.open(bad)),
    ...refuses('options', [{ backends: 'kernel' }, { Backend: 'kernel' }], (bad) => Host.open(bad)),
    ...refuses('backend', ['', 'x', 'Kernel', true, 5, {}, []], (bad) => Host.open({ backend: bad })),
    ...refuses('software', objects, (software) => Host.open({ backend: 'software', software })),
    ...refuses('software', [{ kernels: '6.12' }, { seeds: 1 }], (software) =>
      Host.open({ backend: 'software', software }),
    ),
    ...refuses('software\\.seed', [-1, 0.5, 2 ** 53, '1', 1n, null], (seed) =>
      Host.open({ backend: 'software', software: { seed } }),
    ),
    ...refuses('software\\.deterministic', [1, 'yes', null], (deterministic) =>
      Host.open({ backend: 'software', software: { deterministic } }),
    ),
    ...refuses('software', [{}, { kernel: '6.12' }], (software) =>
      Host.open({ backend: 'kernel', software }),
    ),
    ...refuses(
      'software\\.kernel',
      [null, 6.12, 6, '', '6', '6.', '.6', '6.12.1', ' 6.12', '6.12 ', 'v6.12', '6.5', '6.20', '7.4', '0.0'],
      (kernel) => Host.open({ backend: 'software', software: { kernel } }),
    ),
    ...refuses('software\\.topology', [null, true, '', '{}', 5, []], (topology) =>
      Host.open({ backend: 'software', software: { topology } }),
    ),
  ],
  'Host.report': nothing,
  'Host.diagnose': () => [
    ...refuses('bdf', addresses, (bad) => host.diagnose(bad)),
    ...fails('ENODEV', ['0000:7f:1f.7'], (bad) => host.diagnose(bad)),
    ...refuses('options', objects, (bad) => host.diagnose(EDU, bad)),
    ...refuses('attempt', booleans, (attempt) => host.diagnose(EDU, { attempt })),
  ],
  'Host.grant': () => [
    ...refuses('bdf', addresses, (bad) => host.grant(bad, 0)),
    ...fails('ENODEV', ['0000:7f:1f.7'], (bad) => host.grant(bad, 0)),
    ...refuses('uid', [undefined, ...integers(0xfffffffe)], (bad) => host.grant(EDU, bad)),
    ...refuses('options', objects, (bad) => host.grant(EDU, 0, bad)),
    ...refuses('force', booleans, (force) => host.grant(EDU, 0, { force })),
    ...refuses('name', [...texts.slice(1), '', 'a b', 'a"', 'a\n'], (name) => host.grant(EDU, 0, { name })),
  ],
  'Host.devices': nothing,
  'Host.device': () => [
    ...refuses('bdf', addresses, (bad) => host.device(bad)),
    ...fails('ENODEV', ['0000:7f:1f.7', 'ffff:ff:1f.7'], (bad) => host.device(bad)),
  ],
  'Host.groups': nothing,
  'Host.group': () => [
    ...refuses('id', [undefined, ...integers(0x7fffffff)], (bad) => host.group(bad)),
    ...fails('ENODEV', [0x7fffffff, 99999], (bad) => host.group(bad)),
  ],
  'Host.openIommufd': nothing,
  'Host.openHandles': nothing,
  'Host.openContainer': nothing,
  'Host.openGroup': () => [
    ...refuses('id', [undefined, ...integers(0x7fffffff)], (bad) => host.openGroup(bad)),
    ...refuses('options', [...objects, { noIommu: true }], (bad) => host.openGroup(0, bad)),
    ...refuses('unsafeNoIommu', booleans, (unsafeNoIommu) => host.openGroup(0, { unsafeNoIommu })),
    ...fails(/ENOENT|ENODEV/, [4711, 0x7fffffff], (bad) => host.openGroup(bad)),
  ],
  'Host.openDevice': () => [
    ...refuses(
      'where',
      [undefined, null, 5, true, {}, [], { path: 5 }, { path: null }, { bdf: EDU }],
      (bad) => host.openDevice(bad),
    ),
    ...refuses('bdf', ['', 'zz', '../..', '0000:00:10.8'], (bad) => host.openDevice(bad)),
    ...refuses('path', ['/dev/vfio/devices/vfio0\0'], (path) => host.openDevice({ path })),
    ...refuses('fd', [undefined, ...integers(0x7fffffff)], (fd) => host.openDevice({ fd })),
    ...fails('EBADF', [NO_FD, 0x7fffffff], (fd) => host.openDevice({ fd })),
    ...fails('ENOENT', ['', '/dev/vfio/devices/none'], (path) => host.openDevice({ path })),
    ...fails('ENODEV', ['0000:7f:1f.7'], (bad) => host.openDevice(bad)),
  ],
  'Host.attach': () => [
    ...refuses('bdf', addresses, (bad) => host.attach(bad)),
    ...fails('ENODEV', ['0000:7f:1f.7'], (bad) => host.attach(bad)),
    ...fails(/EINVAL|EPERM|EBUSY/, [EDU], (bad) => host.attach(bad)), // it is in use here
    ...refuses('options', [...objects, { by: 'cdev' }], (bad) => host.attach(EDU, bad)),
    ...refuses('via', [null, '', 'type1', 5, {}, []], (via) => host.attach(EDU, { via })),
    ...refuses('unsafeNoIommu', booleans, (unsafeNoIommu) => host.attach(EDU, { unsafeNoIommu })),
    ...refuses('vfToken', texts.slice(1, -1), (vfToken) => host.attach(EDU, { vfToken })),
    ...fails('EPERM', [{ via: 'noiommu' }], (bad) => host.attach(EDU, bad)),
  ],

  'Iommufd.allocHwpt': () => {
    const alloc = (o: object) => iommufd.allocHwpt({ device, parent: ioas, ...o });
    const vtd = (o: object) =>
      alloc({ parent: hwpt, data: { type: 'vtd-s1', pgtblAddr: 0, addrWidth: 48, ...o } });
    return [
      ...refuses('options', objects, (bad) => iommufd.allocHwpt(bad)),
      ...refuses('device', [...notOf(VfioDevice, device), iommufd, ioas], (bad) => alloc({ device: bad })),
      ...refuses('parent', [...notOf(Ioas, ioas), iommufd, device, queue, strange.ioas], (parent) =>
        alloc({ parent }),
      ),
      ...refuses('parent', [Object.create(Hwpt.prototype), strange.hwpt], (parent) => alloc({ parent })),
      ...refuses('nestParent', booleans, (nestParent) => alloc({ nestParent })),
      ...refuses('dirtyTracking', booleans, (dirtyTracking) => alloc({ dirtyTracking })),
      ...refuses('pasid', booleans, (pasid) => alloc({ pasid })),
      ...refuses(
        'faultQueue',
        [...notOf(FaultQueue, queue).filter((each) => each !== undefined), queue.id, strange.queue],
        (faultQueue) => alloc({ faultQueue }),
      ),
      ...refuses('data', objects, (data) => alloc({ data })),
      ...refuses('data\\.type', [undefined, null, 1, '', 'vtd', 'VTD-S1', {}], (type) =>
        alloc({ data: { type } }),
      ),
      ...refuses('data\\.pgtblAddr', [undefined, ...u64s], (pgtblAddr) => vtd({ pgtblAddr })),
      ...refuses('data\\.addrWidth', [undefined, ...integers(0xffffffff)], (addrWidth) => vtd({ addrWidth })),
      ...refuses('data\\.sre', booleans, (sre) => vtd({ sre })),
      ...refuses('data\\.eafe', booleans, (eafe) => vtd({ eafe })),
      ...refuses('data\\.wpe', booleans, (wpe) => vtd({ wpe })),
      ...refuses(
        'data\\.ste',
        [undefined, null, 5n, 'x', {}, [], [1n], [1n, 2n, 3n], new BigUint64Array(2)],
        (ste) => alloc({ data: { type: 'arm-smmuv3', ste } }),
      ),
      ...refuses('data\\.ste\\[1\\]', [undefined, ...u64s], (word) =>
        alloc({ data: { type: 'arm-smmuv3', ste: [0n, word] } }),
      ),
      ...refuses('data\\.dte', [undefined, null, 5n, [], [1, 2, 3], [1, 2, 3, 4, 5]], (dte) =>
        alloc({ data: { type: 'amd-guest', dte } }),
      ),
      ...refuses('data\\.dte\\[3\\]', [undefined, ...u64s], (word) =>
        alloc({ data: { type: 'amd-guest', dte: [0, 1, 2, word] } }),
      ),
      ...fails('ERR_VFIO_DISPOSED', [disposedIoas], (parent) => alloc({ parent })),
      ...fails('ERR_VFIO_DISPOSED', [disposedQueue], (faultQueue) => alloc({ faultQueue })),
      ...fails(/EINVAL|EOPNOTSUPP/, [viommu, hwpt], (parent) => alloc({ parent })),
    ];
  },
  'Iommufd.allocFaultQueue': nothing,
  'Iommufd.allocViommu': () => {
    const alloc = (o: object) => iommufd.allocViommu({ device, parent: hwpt, type: 'arm-smmuv3', ...o });
    return [
      ...refuses('options', objects, (bad) => iommufd.allocViommu(bad)),
      ...refuses('device', notOf(VfioDevice, device), (bad) => alloc({ device: bad })),
      ...refuses('parent', [...notOf(Hwpt, hwpt), ioas, strange.hwpt], (parent) => alloc({ parent })),
      ...refuses('type', [...texts, '', 'vtd-s1'], (type) => alloc({ type })),
    ];
  },
  'Iommufd.hwInfo': () => [
    ...refuses('device', [...notOf(VfioDevice, device), iommufd, ioas], (bad) => iommufd.hwInfo(bad)),
    ...refuses('options', objects, (bad) => iommufd.hwInfo(device, bad)),
    ...refuses('type', [...texts.slice(1), '', 'intel-vtd'], (type) => iommufd.hwInfo(device, { type })),
  ],
  'Iommufd.supports': () =>
    refuses('feature', [...texts, '', 'HWPT', 'everything'], (bad) => iommufd.supports(bad)),
  'Iommufd.vfioCompatIoas=': () => [
    ...refuses(
      'vfioCompatIoas',
      [...notOf(Ioas, ioas).filter((each) => each !== null), hwpt, strange.ioas],
      (bad) => {
        iommufd.vfioCompatIoas = bad;
      },
    ),
    ...fails('ERR_VFIO_DISPOSED', [disposedIoas], (bad) => {
      iommufd.vfioCompatIoas = bad;
    }),
  ],
  'Iommufd.container': nothing,
  'Iommufd.changeProcess': nothing,
  'static Iommufd.fromFd': () => [
    ...refuses('fd', [undefined, ...integers(0x7fffffff)], (bad) => Iommufd.fromFd(bad)),
    ...fails('EBADF', [NO_FD, 0x7fffffff], (bad) => Iommufd.fromFd(bad)),
  ],
  'Iommufd.allocIoas': nothing,
  'Iommufd.rlimitMode=': () =>
    refuses('rlimitMode', [...texts, '', 'User', 'system'], (bad) => {
      iommufd.rlimitMode = bad;
    }),
  'Iommufd.destroy': () => [
    ...refuses('id', [undefined, ...integers(0xffffffff)], (bad) => iommufd.destroy(bad)),
    ...fails('ENOENT', [0, 12345, 0xffffffff], (bad) => iommufd.destroy(bad)),
    ...fails('EBUSY', [ioas.id, device.id], (bad) => iommufd.destroy(bad)),
  ],

  'AddressSpace.mappings': nothing,
  'Ioas.iovaRanges': nothing,
  'Ioas.allowIovas': () => [
    ...refuses('ranges', [undefined, null, 5, 'x', {}, new Set(), { length: 1, 0: {} }], (bad) =>
      ioas.allowIovas(bad),
    ),
    ...refuses('ranges\\[1\\]', [undefined, null, 5, 'x', Symbol('x')], (bad) =>
      ioas.allowIovas([{ start: 0, last: 1 }, bad]),
    ),
    ...refuses('ranges\\[0\\]', [new Array(1 << 28)], (holes) => ioas.allowIovas(holes)),
    ...refuses('ranges\\[0\\]\\.start', [undefined, ...u64s], (start) =>
      ioas.allowIovas([{ start, last: 1 }]),
    ),
    ...refuses('ranges\\[0\\]\\.last', [undefined, ...u64s], (last) => ioas.allowIovas([{ start: 0, last }])),
    ...fails(
      'EINVAL',
      [
        [{ start: 1, last: 0 }],
        [{ start: 0x1000, last: 0x1000 }],
        [
          { start: 0x1000, last: 0x2fff },
          { start: 0x2000, last: 0x3fff },
        ],
      ],
      (bad) => ioas.allowIovas(bad),
    ),
  ],
  'AddressSpace.map': () => mapCases((...args: [never, never?]) => ioas.map(...args)),
  'AddressSpace.mapAsync': () => mapCases((...args: [never, never?]) => ioas.mapAsync(...args)),
  'Ioas.mapFile': () => {
    const map = (o: object) => ioas.mapFile(file, { offset: 0, length: 4096, ...o } as never);
    return [
      ...refuses('fd', [undefined, ...integers(0x7fffffff)], (bad) =>
        ioas.mapFile(bad, { offset: 0, length: 4096 }),
      ),
      ...refuses('options', objects, (bad) => ioas.mapFile(file, bad)),
      ...refuses('offset', [undefined, ...u64s], (bad) => map({ offset: bad })),
      ...refuses('length', [undefined, ...u64s], (length) => map({ length })),
      ...refuses('iova', u64s, (iova) => map({ iova })),
      ...refuses('read', booleans, (read) => map({ read })),
      ...refuses('write', booleans, (write) => map({ write })),
      ...fails(/EBADF|ENOTTY|EOPNOTSUPP/, [NO_FD], (bad) => ioas.mapFile(bad, { offset: 0, length: 4096 })),
      ...fails(/EINVAL|ENOTTY|EOPNOTSUPP/, [{ length: 0 }, { read: false, write: false }], (bad) => map(bad)),
    ];
  },
  'Ioas.physicalAddress': () => [
    ...refuses('iova', [undefined, ...u64s], (bad) => ioas.physicalAddress(bad, 1)),
    ...refuses('length', [undefined, ...u64s], (bad) => ioas.physicalAddress(0x10000, bad)),
  ],
  'Ioas.copy': () => [
    ...refuses(
      'from',
      [
        undefined,
        null,
        5,
        {},
        { ...mapping },
        Object.create(null),
        memory,
        ioas,
        new Ioas(OURS, iommufd, fileOf(iommufd), fileOf(iommufd).ioasOf(ioas.id)),
      ],
      (bad) => other.copy(bad),
    ),
    ...refuses('options', objects, (bad) => other.copy(mapping, bad)),
    ...refuses('iova', u64s, (iova) => other.copy(mapping, { iova })),
    ...refuses('read', booleans, (read) => other.copy(mapping, { read })),
    ...refuses('write', booleans, (write) => other.copy(mapping, { write })),
    ...fails('EEXIST', [0x10000], (iova) => ioas.copy(mapping, { iova })),
    ...fails('EINVAL', [0x10001], (iova) => ioas.copy(mapping, { iova })),
    ...fails('ENOENT', [unmapped], (bad) => other.copy(bad)),
  ],
  'AddressSpace.unmap': () => [
    ...refuses('iova', [undefined, ...u64s], (bad) => ioas.unmap(bad, 4096)),
    ...refuses('length', [undefined, ...u64s], (bad) => ioas.unmap(0x10000, bad)),
    ...fails('EINVAL', [0, 0n], (bad) => ioas.unmap(0x10000, bad)),
    ...fails('ENOENT', [0x8000, 1n], (bad) => ioas.unmap(bad, 4096)), // nothing there
    ...fails('ENOENT', [1, 0x1000, 0x1fff], (bad) => ioas.unmap(0x10000, bad)), // cuts a mapping
    ...fails('EOVERFLOW', [2n ** 64n - 1n], (bad) => ioas.unmap(0x10000, bad)),
  ],
  'AddressSpace.unmapAll': nothing,
  'Ioas.hugePages=': () =>
    refuses('hugePages', booleans, (bad) => {
      ioas.hugePages = bad;
    }),

  'IommufdObject.[Symbol.dispose]': nothing,
  'Hwpt.setDirtyTracking': () => [
    ...refuses('on', [undefined, ...booleans], (bad) => hwpt.setDirtyTracking(bad)),
    ...fails('EOPNOTSUPP', [true, false], (bad) => hwpt.setDirtyTracking(bad)),
  ],
  'Hwpt.dirtyBitmap': () => [
    ...refuses('iova', [undefined, ...u64s], (bad) => hwpt.dirtyBitmap(bad, 4096, { pageSize: 4096 })),
    ...refuses('length', [undefined, ...u64s], (bad) => hwpt.dirtyBitmap(0, bad, { pageSize: 4096 })),
    ...refuses('options', objects, (bad) => hwpt.dirtyBitmap(0, 4096, bad)),
    ...refuses('pageSize', [undefined, ...u64s, 0, 3, 0x1800, 2n ** 64n - 1n], (pageSize) =>
      hwpt.dirtyBitmap(0, 0x10000, { pageSize }),
    ),
    ...refuses('pageSize', [1, 2n ** 31n], (pageSize) => hwpt.dirtyBitmap(0, 2n ** 63n, { pageSize })),
    ...refuses('clear', booleans, (clear) => hwpt.dirtyBitmap(0, 4096, { pageSize: 4096, clear })),
    ...fails(/EINVAL/, [0], (bad) => hwpt.dirtyBitmap(0, bad, { pageSize: 4096 })),
    ...fails('EOPNOTSUPP', [4096], (bad) => hwpt.dirtyBitmap(0, bad, { pageSize: 4096 })),
  ],
  'Hwpt.invalidate': () => [
    ...refuses('type', [...texts, '', 'vtd', 'amd-guest'], (bad) => hwpt.invalidate(bad, [])),
    ...refuses('entries', [undefined, null, 5, 'x', {}, new Set()], (bad) => hwpt.invalidate('vtd-s1', bad)),
    ...refuses('entries', [2 ** 19 + 1], (length) => hwpt.invalidate('vtd-s1', new Array<never>(length))),
    ...refuses('entries\\[1\\]', [undefined, null, 5, 'x', Symbol('x')], (bad) =>
      hwpt.invalidate('vtd-s1', [{ addr: 0, npages: 1 }, bad]),
    ),
    ...refuses('entries\\[0\\]\\.addr', [undefined, ...u64s], (addr) =>
      hwpt.invalidate('vtd-s1', [{ addr, npages: 1 }]),
    ),
    ...refuses('entries\\[0\\]\\.npages', [undefined, ...u64s], (npages) =>
      hwpt.invalidate('vtd-s1', [{ addr: 0, npages }]),
    ),
    ...refuses('entries\\[0\\]\\.leaf', booleans, (leaf) =>
      hwpt.invalidate('vtd-s1', [{ addr: 0, npages: 1, leaf }]),
    ),
    ...fails(/EINVAL|ENOENT/, [[], [{ addr: 0, npages: 1 }]], (bad) => hwpt.invalidate('vtd-s1', bad)),
  ],

  'RecordQueue.poll': nothing,
  'RecordQueue.wait': () => [
    ...refuses('options', objects, (bad) => queue.wait(bad)),
    ...refuses('timeout', integers(2 ** 31 - 1), (timeout) => queue.wait({ timeout })),
    ...refuses('signal', [null, 5, 'x', {}, new EventTarget(), new AbortController()], (signal) =>
      queue.wait({ signal }),
    ),
  ],
  'RecordQueue.[Symbol.asyncIterator]': nothing,
  'FaultQueue.respond': () => [
    ...refuses('fault', [undefined, null, 'x', {}, { cookie: 1 }, [], queue], (bad) =>
      queue.respond(bad, 'success'),
    ),
    ...refuses('code', [...texts, '', 'ok'], (bad) => queue.respond({ cookie: 1 } as never, bad)),
  ],
  'FaultQueue.respondGroup': () => [
    ...refuses('fault', [undefined, null, 'x', {}, { cookie: 1 }, { cookie: null }, []], (bad) =>
      queue.respondGroup(bad, 'success'),
    ),
    ...refuses('code', [...texts, '', 'ok'], (bad) => queue.respondGroup({ cookie: 1 }, bad)),
  ],

  'Viommu.allocVdevice': () => [
    ...refuses('options', objects, (bad) => viommu.allocVdevice(bad)),
    ...refuses('device', [...notOf(VfioDevice, device), ioas], (bad) =>
      viommu.allocVdevice({ device: bad, virtId: 1 }),
    ),
    ...refuses('virtId', [undefined, ...u64s], (virtId) => viommu.allocVdevice({ device, virtId })),
  ],
  'Viommu.allocEventQueue': () => [
    ...refuses('options', objects, (bad) => viommu.allocEventQueue(bad)),
    ...refuses('depth', [undefined, ...integers(0xffffffff)], (depth) => viommu.allocEventQueue({ depth })),
    ...refuses('type', [...texts.slice(1), '', 'vtd-s1'], (type) =>
      viommu.allocEventQueue({ depth: 1, type }),
    ),
  ],
  'Viommu.allocHwQueue': () => {
    const alloc = (o: object) => viommu.allocHwQueue({ index: 0, iova: 0, length: 4096, ...o });
    return [
      ...refuses('options', objects, (bad) => viommu.allocHwQueue(bad)),
      ...refuses('index', [undefined, ...integers(0xffffffff)], (index) => alloc({ index })),
      ...refuses('iova', [undefined, ...u64s], (iova) => alloc({ iova })),
      ...refuses('length', [undefined, ...u64s], (length) => alloc({ length })),
      ...refuses('type', [...texts.slice(1), '', 'arm-smmuv3'], (type) => alloc({ type })),
    ];
  },
  'Viommu.invalidate': () => [
    ...refuses('type', [...texts, ''], (bad) => viommu.invalidate(bad, [])),
    ...refuses('entries', [undefined, null, 5, 'x', {}], (bad) => viommu.invalidate('arm-smmuv3', bad)),
    ...refuses('entries\\[0\\]\\.cmd', [undefined, null, 5, [], [1], [1, 2, 3]], (cmd) =>
      viommu.invalidate('arm-smmuv3', [{ cmd }]),
    ),
    ...refuses('entries\\[0\\]\\.cmd\\[0\\]', [undefined, ...u64s], (word) =>
      viommu.invalidate('arm-smmuv3', [{ cmd: [word, 0] }]),
    ),
  ],

  'Container.mappings': nothing,
  'Container.supports': () =>
    refuses('extension', [...texts, '', 'TYPE1', 'type2'], (bad) => container.supports(bad)),
  'Container.setIommu': () => [
    ...refuses('type', [...texts, '', 'spapr-tce'], (bad) => container.setIommu(bad)),
    ...fails('EINVAL', ['noiommu'], (bad) => container.setIommu(bad)),
  ],
  'Container.info': nothing,
  'Container.iovaRanges': nothing,
  'Container.map': () => containerMapCases((...args: [never, never?]) => container.map(...args)),
  'Container.mapAsync': () => containerMapCases((...args: [never, never?]) => container.mapAsync(...args)),
  'Container.unmap': () => [
    ...refuses('iova', [undefined, ...u64s], (bad) => container.unmap(bad, 4096)),
    ...refuses('length', [undefined, ...u64s], (bad) => container.unmap(0x10000, bad)),
    ...fails('EINVAL', [0, 0n], (bad) => container.unmap(0x10000, bad)),
    ...fails('ENOENT', [1, 0x1000, 0x1fff], (bad) => container.unmap(0x10000, bad)), // cuts a mapping
    ...fails('EOVERFLOW', [2n ** 64n - 1n], (bad) => container.unmap(0x10000, bad)),
  ],
  'Container.unmapAll': nothing,
  'Container.startDirtyTracking': nothing,
  'Container.stopDirtyTracking': nothing,
  'Container.dirtyBitmap': () => [
    ...refuses('iova', [undefined, ...u64s], (bad) => container.dirtyBitmap(bad, 4096, { pageSize: 4096 })),
    ...refuses('length', [undefined, ...u64s], (bad) => container.dirtyBitmap(0, bad, { pageSize: 4096 })),
    ...refuses('options', objects, (bad) => container.dirtyBitmap(0, 4096, bad)),
    ...refuses('pageSize', [undefined, ...u64s, 0, 3], (pageSize) =>
      container.dirtyBitmap(0, 0x10000, { pageSize }),
    ),
    ...refuses('unmap', booleans, (unmap) => container.dirtyBitmap(0, 4096, { pageSize: 4096, unmap })),
    ...fails('ENOTTY', [4096], (bad) => container.dirtyBitmap(0, bad, { pageSize: 4096 })),
    ...fails('EINVAL', [4096], (bad) => container.dirtyBitmap(0, bad, { pageSize: 4096, unmap: true })),
  ],
  'Container.invalidateVaddr': () => [
    ...refuses('iova', [undefined, ...u64s], (bad) => container.invalidateVaddr(bad, 4096)),
    ...refuses('length', [undefined, ...u64s], (bad) => container.invalidateVaddr(0x10000, bad)),
    ...fails('EINVAL', [0x2000], (bad) => container.invalidateVaddr(0x10000, bad)),
  ],
  'Container.invalidateAllVaddrs': nothing,
  'Container.updateVaddr': () => [
    ...refuses('mapping', [undefined, null, 5, {}, memory, Object.create(mapping)], (bad) =>
      container.updateVaddr(bad, memory),
    ),
    ...refuses('memory', notMemory(), (bad) => container.updateVaddr(mapping, bad)),
    ...fails('ENOENT', [unmapped], (bad) => container.updateVaddr(bad, memory)),
    ...fails('EINVAL', [memory, memory.slice(0, 4096)], (bad) => container.updateVaddr(mapping, bad)),
  ],

  'Group.setContainer': () => [
    ...refuses('to', [...notOf(Iommufd, iommufd), ioas, device, group], (bad) => group.setContainer(bad)),
    ...fails('ERR_VFIO_DISPOSED', [disposedIommufd], (bad) => group.setContainer(bad)),
    ...fails('ENOTTY', [iommufd], (bad) => group.setContainer(bad)),
  ],
  'Group.unsetContainer': nothing,
  'Group.openDevice': () => [
    ...refuses('bdf', addresses, (bad) => group.openDevice(bad)),
    ...refuses('options', [...objects, { token: '' }], (bad) => group.openDevice(EDU, bad)),
    ...refuses('vfToken', [...texts.slice(1), '', '0'.repeat(36)], (vfToken) =>
      group.openDevice(EDU, { vfToken }),
    ),
    ...fails('ENOTTY', [EDU], (bad) => group.openDevice(bad)),
  ],

  'static VfioDevice.fromFd': () => [
    ...refuses('fd', [undefined, ...integers(0x7fffffff)], (bad) => VfioDevice.fromFd(bad)),
    ...fails('EBADF', [NO_FD, 0x7fffffff], (bad) => VfioDevice.fromFd(bad)),
  ],
  'VfioDevice.bind': () => [
    ...refuses('iommufd', [...notOf(Iommufd, iommufd), ioas, device], (bad) => device.bind(bad)),
    ...fails('ERR_VFIO_DISPOSED', [disposedIommufd], (bad) => device.bind(bad)),
    ...fails('EINVAL', [iommufd], (bad) => device.bind(bad)), // it is bound already
    ...refuses('options', objects, (bad) => device.bind(iommufd, bad)),
    ...refuses(
      'token',
      [
        ...texts.slice(1),
        '',
        '00112233445566778899aabbccddeeff',
        '00112233-4455-6677-8899-aabbccddeefg',
        '00112233-4455-6677-8899-aabbccddeef',
        '0x112233-4455-6677-8899-aabbccddeeff',
        '00112233-4455-6677-8899-aabbccddeeff0',
      ],
      (token) => device.bind(iommufd, { token }),
    ),
  ],
  'VfioDevice.setVfToken': () => [
    ...refuses('token', [...texts, '', '00112233445566778899aabbccddeeff'], (bad) => device.setVfToken(bad)),
    ...fails('ENOTTY', ['00112233-4455-6677-8899-aabbccddeeff'], (bad) => device.setVfToken(bad)),
  ],
  'VfioDevice.attach': () => [
    ...refuses('to', [...notOf(Ioas, ioas), iommufd, device], (bad) => device.attach(bad)),
    ...refuses('options', objects, (bad) => device.attach(ioas, bad)),
    ...refuses('pasid', integers(0xfffff), (pasid) => device.attach(ioas, { pasid })),
    ...fails('ERR_VFIO_DISPOSED', [disposedIoas], (bad) => device.attach(bad)),
  ],
  'VfioDevice.detach': () => [
    ...refuses('options', objects, (bad) => device.detach(bad)),
    ...refuses('pasid', integers(0xfffff), (pasid) => device.detach({ pasid })),
  ],
  'VfioDevice.region': () => [
    ...refuses('region', [...ODD, undefined, 'bar6', 'BAR0', 1n], (bad) => device.region(bad)),
    ...refuses('region', [...NO_NUMBER, -1, 0.5, 2 ** 32, 2 ** 64], (bad) => device.region(bad)),
    ...fails('EINVAL', [9, 0xffffffff], (bad) => device.region(bad)),
  ],
  'VfioDevice.irq': () => [
    ...refuses('irq', [...ODD, undefined, 'legacy', 'MSI', 1n], (bad) => device.irq(bad)),
    ...refuses('irq', [...NO_NUMBER, -1, 0.5, 2 ** 32, 2 ** 64], (bad) => device.irq(bad)),
    ...fails('EINVAL', [5, 0xffffffff], (bad) => device.irq(bad)),
  ],
  'VfioDevice.reset': nothing,
  'VfioDevice.hotResetInfo': nothing,
  'VfioDevice.hotReset': () => [
    ...refuses('options', [...objects, { group }], (bad) => device.hotReset(bad)),
    ...refuses('groups', [null, 5, 'x', {}, group], (groups) => device.hotReset({ groups })),
    ...refuses('groups\\[0\\]', notOf(Group, group), (bad) => device.hotReset({ groups: [bad] })),
  ],

  'PciConfig.read8': () => accessCases(1, config.size, offset(), (o) => config.read8(o)),
  'PciConfig.read16': () => accessCases(2, config.size, [...offset(), 1, 3], (o) => config.read16(o)),
  'PciConfig.read32': () => accessCases(4, config.size, [...offset(), 1, 2], (o) => config.read32(o)),
  'PciConfig.write8': () => accessCases(1, config.size, offset(), undefined, (o, v) => config.write8(o, v)),
  'PciConfig.write16': () =>
    accessCases(2, config.size, [...offset(), 1, 3], undefined, (o, v) => config.write16(o, v)),
  'PciConfig.write32': () =>
    accessCases(4, config.size, [...offset(), 1, 2], undefined, (o, v) => config.write32(o, v)),
  'PciConfig.busMaster=': () =>
    refuses('value', [undefined, ...booleans], (bad) => {
      config.busMaster = bad;
    }),
  'PciConfig.memory=': () =>
    refuses('value', [undefined, ...booleans], (bad) => {
      config.memory = bad;
    }),
  'PciConfig.capabilities': nothing,
  'PciConfig.extendedCapabilities': nothing,

  'Region.read8': () => accessCases(1, END, offset(), (o) => region.read8(o)),
  'Region.read16': () => accessCases(2, END, offset(), (o) => region.read16(o)),
  'Region.read32': () => accessCases(4, END, offset(), (o) => region.read32(o)),
  'Region.read64': () => accessCases(8, END, offset(), (o) => region.read64(o)),
  'Region.write8': () => accessCases(1, END, offset(), undefined, (o, v) => region.write8(o, v)),
  'Region.write16': () => accessCases(2, END, offset(), undefined, (o, v) => region.write16(o, v)),
  'Region.write32': () => accessCases(4, END, offset(), undefined, (o, v) => region.write32(o, v)),
  'Region.write64': () => accessCases(8, END, offset(), undefined, (o, v) => region.write64(o, v)),
  'Region.readInto': () => [
    ...refuses('offset', [...offset(), END], (bad) => region.readInto(bad, new Uint8Array(4))),
    ...refuses('into', bytes, (bad) => region.readInto(0, bad)),
  ],
  'Region.writeFrom': () => [
    ...refuses('offset', [...offset(), END], (bad) => region.writeFrom(bad, new Uint8Array(4))),
    ...refuses('from', bytes, (bad) => region.writeFrom(0, bad)),
  ],
  'RegisterBank.read': () => [
    ...refuses('offset', [...offset(), 1, 2 ** 32], (bad) => bank.read(bad, 4)),
    ...refuses('width', [...integers(8), undefined, 3, 16], (bad) => bank.read(0, bad)),
  ],
  'RegisterBank.write': () => [
    ...refuses('offset', [...offset(), 1, 2 ** 32], (bad) => bank.write(bad, 4, 0)),
    ...refuses('width', [...integers(8), undefined, 3, 16], (bad) => bank.write(0, bad, 0)),
    ...refuses('value', [...integers(2 ** 32 - 1), undefined], (bad) => bank.write(0, 4, bad)),
    ...refuses('value', [...u64s, undefined], (bad) => bank.write(0, 8, bad)),
  ],
  'SimulatedDevice.dmaRead': () => [
    ...refuses('iova', u64s, (bad) => model.read(bad, new Uint8Array(1))),
    ...refuses('into', bytes, (bad) => model.read(0, bad)),
    ...refuses('options', objects, (bad) => model.read(0, new Uint8Array(1), bad)),
    ...refuses('pasid', integers(0xfffff), (pasid) => model.read(0, new Uint8Array(1), { pasid })),
  ],
  'SimulatedDevice.own': () => [
    ...refuses('iova', u64s, (bad) => model.take(bad, 1)),
    ...refuses('length', integers(2 ** 24), (bad) => model.take(0, bad)),
    ...refuses('length', [0], (bad) => model.take(0, bad as number)),
    ...refuses('options', objects, (bad) => model.take(0, 1, bad)),
    ...refuses('pasid', integers(0xfffff), (pasid) => model.take(0, 1, { pasid })),
  ],
  'SimulatedDevice.release': () => [
    ...refuses('iova', u64s, (bad) => model.give(bad, 1)),
    ...refuses('length', integers(2 ** 24), (bad) => model.give(0, bad)),
    ...refuses('length', [0], (bad) => model.give(0, bad as number)),
    ...refuses('options', objects, (bad) => model.give(0, 1, bad)),
    ...refuses('pasid', integers(0xfffff), (pasid) => model.give(0, 1, { pasid })),
  ],
  'SimulatedDevice.dmaWrite': () => [
    ...refuses('iova', u64s, (bad) => model.write(bad, new Uint8Array(1))),
    ...refuses('from', bytes, (bad) => model.write(0, bad)),
    ...refuses('options', objects, (bad) => model.write(0, new Uint8Array(1), bad)),
    ...refuses('pasid', integers(0xfffff), (pasid) => model.write(0, new Uint8Array(1), { pasid })),
  ],
  'SimulatedDevice.dmaReadAsync': () => [
    ...refuses('iova', u64s, (bad) => model.readLater(bad, new Uint8Array(1))),
    ...refuses('into', bytes, (bad) => model.readLater(0, bad)),
    ...refuses('options', objects, (bad) => model.readLater(0, new Uint8Array(1), bad)),
    ...refuses('pasid', integers(0xfffff), (pasid) => model.readLater(0, new Uint8Array(1), { pasid })),
  ],
  'SimulatedDevice.dmaWriteAsync': () => [
    ...refuses('iova', u64s, (bad) => model.writeLater(bad, new Uint8Array(1))),
    ...refuses('from', bytes, (bad) => model.writeLater(0, bad)),
    ...refuses('options', objects, (bad) => model.writeLater(0, new Uint8Array(1), bad)),
    ...refuses('pasid', integers(0xfffff), (pasid) => model.writeLater(0, new Uint8Array(1), { pasid })),
  ],
  'SimulatedDevice.doorbell': () => [
    ...refuses('bar', [undefined, ...integers(5)], (bad) => model.bell(bad, 0)),
    ...refuses('offset', [undefined, ...integers(2 ** 40 - 1)], (bad) => model.bell(0, bad)),
  ],
  'SimulatedDevice.memory': () => refuses('bar', [undefined, ...integers(5)], (bad) => model.bytes(bad)),
  'SimulatedDevice.post': () => [
    ...refuses('job', [undefined, null, 0, 'job', {}], (bad) => model.later(bad)),
    ...refuses('delayMs', [null, '0', {}, -1, Number.NaN, Number.POSITIVE_INFINITY, 1n], (bad) =>
      model.later(() => {}, bad),
    ),
  ],
  'SimulatedDevice.remove': nothing,
  'SimulatedDevice.interrupt': () => refuses('vector', [undefined, ...integers(1)], (bad) => model.fire(bad)),
  'SimulatedDevice.setLine': () => refuses('asserted', [undefined, ...booleans], (bad) => model.assert(bad)),
  'RegisterBank.reset': nothing,
  'RegisterMap.describe': nothing,
  'Region.mmap': () => [
    ...refuses('options', objects, (bad) => region.mmap(bad)),
    ...refuses('offset', [...u64s.filter((each) => each !== null), END + 4096], (bad) =>
      region.mmap({ offset: bad }),
    ),
    ...refuses('length', [...u64s.filter((each) => each !== null), END + 4096, 2n ** 64n - 1n], (bad) =>
      region.mmap({ length: bad }),
    ),
    ...refuses('length', [END, END - 4095], (length) => region.mmap({ offset: 4096, length })),
    ...fails('EINVAL', [{ length: 0 }, { offset: 1 }, { offset: END }], (bad) => region.mmap(bad)),
    ...fails('EINVAL', [{}, { length: 0 }], (bad) => device.region('bar5').mmap(bad)), // it has none
    ...fails('EINVAL', [{}, { length: 4 }], (bad) => device.region('config').mmap(bad)),
  ],

  'MappedRegion.read8': () => accessCases(1, END, [undefined, ...u64s], (o) => mapped.read8(o)),
  'MappedRegion.read16': () => accessCases(2, END, [undefined, ...u64s, 1, 3n], (o) => mapped.read16(o)),
  'MappedRegion.read32': () => accessCases(4, END, [undefined, ...u64s, 1, 2n], (o) => mapped.read32(o)),
  'MappedRegion.read64': () => accessCases(8, END, [undefined, ...u64s, 1, 4n], (o) => mapped.read64(o)),
  'MappedRegion.write8': () =>
    accessCases(1, END, [undefined, ...u64s], undefined, (o, v) => mapped.write8(o, v)),
  'MappedRegion.write16': () =>
    accessCases(2, END, [undefined, ...u64s, 1, 3n], undefined, (o, v) => mapped.write16(o, v)),
  'MappedRegion.write32': () =>
    accessCases(4, END, [undefined, ...u64s, 1, 2n], undefined, (o, v) => mapped.write32(o, v)),
  'MappedRegion.write64': () => [
    ...refuses('offset', [undefined, ...u64s, 1, 4n, END], (bad) => mapped.write64(bad, 0n)),
    ...refuses('value', [undefined, ...u64s], (bad) => mapped.write64(Reg.source, bad)),
  ],

  'Irq.enable': () => [
    ...refuses('vectors', [...integers(1).filter((each) => each !== null), 0], (bad) => irq.enable(bad)),
    ...refuses('options', objects, (bad) => irq.enable(1, bad)),
    ...refuses('start', [...integers(0).filter((each) => each !== null), 1], (start) =>
      irq.enable(1, { start }),
    ),
    ...fails('EINVAL', [1], (bad) => device.irq('intx').enable(bad)), // MSI is enabled
    ...fails('EINVAL', [undefined, 1], (bad) => device.irq('msix').enable(bad)), // it has none
  ],
  'Irq.disable': nothing,
  'Irq.mask': () => [
    ...refuses('vector', integers(0), (bad) => irq.mask(bad)),
    ...fails('ENOTTY', [0], (bad) => irq.mask(bad)),
  ],
  'Irq.unmask': () => [
    ...refuses('vector', integers(0), (bad) => irq.unmask(bad)),
    ...fails('ENOTTY', [0], (bad) => irq.unmask(bad)),
  ],
  'Irq.trigger': () => [
    ...refuses('vector', integers(0), (bad) => irq.trigger(bad)),
    ...fails('EINVAL', [0], (bad) => device.irq('intx').trigger(bad)), // it is not enabled
    ...fails('EINVAL', [0], (bad) => device.irq('msix').trigger(bad)), // it has none
  ],

  'Interrupt.wait': () => [
    ...refuses('options', objects, (bad) => interrupt.wait(bad)),
    ...refuses('timeout', integers(2 ** 31 - 1), (timeout) => interrupt.wait({ timeout })),
    ...refuses('signal', [null, 5, 'x', {}, new EventTarget(), new AbortController()], (signal) =>
      interrupt.wait({ signal }),
    ),
  ],
  'Interrupt.poll': nothing,
  'Interrupt.on': () => [
    ...refuses('event', [...texts, '', 'close'], (bad) => interrupt.on(bad, () => {})),
    ...refuses('listener', functions, (bad) => interrupt.on('interrupt', bad)),
  ],
  'Interrupt.off': () => [
    ...refuses('event', [...texts, '', 'close'], (bad) => interrupt.off(bad, () => {})),
    ...refuses('listener', functions, (bad) => interrupt.off('interrupt', bad)),
  ],
  'Interrupt.[Symbol.asyncIterator]': nothing,

  'static DmaBuffer.alloc': () => [
    ...refuses('size', [undefined, ...u64s, 0, 0n, 2n ** 64n - 1n, 2n ** 64n - 4095n], (bad) =>
      DmaBuffer.alloc(bad),
    ),
    ...refuses('options', objects, (bad) => DmaBuffer.alloc(4096, bad)),
    ...refuses('hugePages', [null, true, 2, 21, '', '4K', '2m', {}], (hugePages) =>
      DmaBuffer.alloc(4096, { hugePages }),
    ),
    ...refuses('numaNode', integers(1023), (numaNode) => DmaBuffer.alloc(4096, { numaNode })),
    ...fails(/EINVAL|EPERM|ENOSYS/, [1023], (numaNode) => DmaBuffer.alloc(4096, { numaNode })),
    ...fails('ENOMEM', [2 ** 53 - 1, 2n ** 63n, 2n ** 64n - 4096n], (bad) => DmaBuffer.alloc(bad)),
  ],
  'static DmaBuffer.fromFd': () => [
    ...refuses('fd', [undefined, ...integers(0x7fffffff)], (bad) => DmaBuffer.fromFd(bad, { length: 4096 })),
    ...refuses('options', objects, (bad) => DmaBuffer.fromFd(file, bad)),
    ...refuses('length', [undefined, ...u64s, 0, 0n, 2n ** 64n - 1n, 0x3001, 2 ** 52], (length) =>
      DmaBuffer.fromFd(file, { length }),
    ),
    ...refuses('length', [undefined], () => DmaBuffer.fromFd(file, undefined as never)),
    ...refuses('offset', [...u64s, 1, 0x800n], (bad) =>
      DmaBuffer.fromFd(file, { offset: bad, length: 4096 }),
    ),
    ...fails('ERR_OUT_OF_RANGE', [0x3000, 2n ** 63n, 2n ** 64n - 4096n], (bad) =>
      DmaBuffer.fromFd(file, { offset: bad, length: 4096 }),
    ),
    ...fails('EBADF', [NO_FD], (bad) => DmaBuffer.fromFd(bad, { length: 4096 })),
    // A device is not memory.
    ...fails(/ESPIPE|ERR_OUT_OF_RANGE|ENODEV|EINVAL/, [device.fd, iommufd.fd, interrupt.eventfd], (bad) =>
      DmaBuffer.fromFd(bad, { length: 4096 }),
    ),
  ],
  'static DmaBuffer.unsafeFromAddress': () => [
    ...refuses('address', [undefined, ...u64s], (bad) => DmaBuffer.unsafeFromAddress(bad, 4096)),
    ...refuses('length', [undefined, ...u64s, 0, 0n], (bad) => DmaBuffer.unsafeFromAddress(0x1000, bad)),
    ...refuses('length', [2n ** 64n - 0xfffn], (bad) => DmaBuffer.unsafeFromAddress(0x1000, bad)),
  ],
  'DmaBuffer.read': () => [
    ...refuses('offset', [undefined, ...u64s, 0x2000 - 3, 0x2000, 2 ** 52, 2n ** 64n - 1n], (bad) =>
      memory.read(bad, new Uint8Array(4)),
    ),
    ...refuses('into', bytes, (bad) => memory.read(0, bad)),
    ...refuses('offset', [0], (bad) => memory.read(bad, new Uint8Array(0x2001))),
  ],
  'DmaBuffer.write': () => [
    ...refuses('offset', [undefined, ...u64s, 0x2000 - 3, 0x2000, 2 ** 52, 2n ** 64n - 1n], (bad) =>
      memory.write(bad, new Uint8Array(4)),
    ),
    ...refuses('from', bytes, (bad) => memory.write(0, bad)),
    ...refuses('offset', [0], (bad) => memory.write(bad, new Uint8Array(0x2001))),
  ],
  'DmaBuffer.slice': () => [
    ...refuses('offset', [undefined, ...integers(0x2000)], (bad) => memory.slice(bad, 1)),
    ...refuses('length', [undefined, ...integers(0x2000), 0], (bad) => memory.slice(0, bad)),
    ...refuses('length', [0x1001], (bad) => memory.slice(0x1000, bad)),
    ...refuses('length', [1], (bad) => memory.slice(0x2000, bad)),
  ],

  'static Sva.features': () => [
    ...refuses('device', notOf(VfioDevice, device), (bad) => Sva.features(bad)),
    ...['has', 'enable', 'disable', 'enabled'].flatMap((name) =>
      refuses('feature', [...texts, '', 'SVA'], (bad) => Sva.features(device)[name as 'has'](bad)),
    ),
  ],
  'Host.svaNodes': nothing,
  'static Sva.bind': () => [
    ...refuses('device', notOf(VfioDevice, device), (bad) => Sva.bind(bad)),
    ...refuses('options', objects, (bad) => Sva.bind(device, bad)),
    ...refuses('mm', [null, true, 5, 'other', '', [], Symbol('odd')], (mm) => Sva.bind(device, { mm })),
    ...refuses('mm.pid', [...integers(2 ** 31 - 1), 0, undefined], (pid) =>
      Sva.bind(device, { mm: { pid } }),
    ),
    ...refuses('exclusive', booleans, (exclusive) => Sva.bind(device, { exclusive })),
    ...refuses('ways', [null, 'native', 5, {}], (bad) => Sva.bind(device, { ways: bad })),
    ...refuses('ways', texts, (bad) => Sva.bind(device, { ways: [bad] })),
    ...refuses('ways', ['character-device'], (bad) => Sva.bind(device, { ways: [bad] })),

    ...fails('EINVAL', [{}, { mm: { pid: 1 } }, { exclusive: true }], (bad) => Sva.bind(device, bad)),
  ],
  'SvaBond.setOps': () => [
    ...refuses('ops', objects, (bad) => bond.setOps(bad)),
    ...refuses('mmExit', functions.slice(1), (mmExit) => bond.setOps({ mmExit })),
    ...refuses('fault', functions.slice(1), (fault) => bond.setOps({ fault })),
  ],
  'SvaBond.pointer': () => refuses('memory', notBytes, (bad) => bond.pointer(bad)),
  'SvaBond.adopt': () => refuses('memory', notBytes, (bad) => bond.adopt(bad)),
  'SvaBond.allocate': () =>
    refuses('size', [undefined, ...integers(2 ** 53 - 1), 0], (bad) => bond.allocate(bad)),
  'SvaBond.run': () => refuses('work', functions, (bad) => bond.run(bad)),

  'PciDevice.bind': () => [
    ...refuses(
      'driver',
      [...texts.slice(1), '', '.', '..', 'vfio-pci/../nvme', '/', 'a b', 'a\n', 'a\0'],
      (bad) => sysfs.bind(bad),
    ),
    ...fails('ENODEV', ['no-such-driver', 'x'.repeat(200)], (bad) => sysfs.bind(bad)),
    ...refuses('options', objects, (bad) => sysfs.bind('pci-stub', bad)),
    ...refuses('force', booleans, (force) => sysfs.bind('pci-stub', { force })),
  ],
  'PciDevice.unbind': () => [
    ...refuses('options', objects, (bad) => sysfs.unbind(bad)),
    ...refuses('force', booleans, (force) => sysfs.unbind({ force })),
  ],
  'PciDevice.restore': () => [
    ...refuses('options', objects, (bad) => sysfs.restore(bad)),
    ...refuses('force', booleans, (force) => sysfs.restore({ force })),
  ],
  'PciDevice.setNumVfs': () => [
    ...refuses('count', [undefined, ...integers(0xffff)], (bad) => sysfs.setNumVfs(bad)),
    ...refuses('options', [...objects, { forced: true }], (bad) => sysfs.setNumVfs(0, bad)),
    ...refuses('force', booleans, (force) => sysfs.setNumVfs(0, { force })),
    ...refuses('enableSriov', booleans, (enableSriov) => sysfs.setNumVfs(0, { enableSriov })),
    ...fails('ENOENT', [0, 1], (bad) => sysfs.setNumVfs(bad)), // it can't have any
  ],
  'GroupFacts.viability': nothing,
  'GroupFacts.explain': nothing,
  'IommuGroup.bind': () => [
    ...refuses('driver', ['', '.', 'a b', 'a\0'], (bad) => members.bind(bad)),
    ...fails('ENODEV', ['no-such-driver'], (bad) => members.bind(bad)),
    ...refuses('options', objects, (bad) => members.bind('pci-stub', bad)),
    ...refuses('force', booleans, (force) => members.bind('pci-stub', { force })),
  ],
  'IommuGroup.unbind': () => [
    ...refuses('options', objects, (bad) => members.unbind(bad)),
    ...refuses('force', booleans, (force) => members.unbind({ force })),
  ],
  'IommuGroup.restore': () => [
    ...refuses('options', objects, (bad) => members.restore(bad)),
    ...refuses('force', booleans, (force) => members.restore({ force })),
  ],
  'Handle.[Symbol.dispose]': nothing,
  'DmaBuffer.[Symbol.dispose]': nothing,
};

test('the table knows every public call, and no other', () => {
  const found = [...surface().values()].filter(({ kind }) => kind !== 'getter').map(({ name }) => name);
  expect(Object.keys(table).sort()).toEqual(found.sort());
});

function show(value: unknown): string {
  if (typeof value === 'object' && value !== null) return Object.prototype.toString.call(value);
  return `${typeof value} ${String(value).slice(0, 40)}`;
}

describe('a bad argument is refused with the right error, and nothing has changed:', () => {
  for (const [name, cases] of Object.entries(table)) {
    if (cases === nothing) continue;
    test(name, async () => {
      if (name === 'Ioas.copy') dropsOnPurpose(); // an Ioas that no iommufd made
      const all = cases(); // some ask for `fd`, which opens a descriptor the first time
      const before = await state();
      for (const { bad, call, of, code } of all) {
        const error = await Promise.resolve()
          .then(call)
          .then(
            () => expect.fail(`${name} took ${show(bad)}${of === undefined ? '' : ` for ${of}`}`),
            (thrown: unknown) => thrown,
          );
        const what = `${name}, given ${show(bad)}: ${error}`;
        if (of !== undefined) {
          const number = typeof bad === 'number' || typeof bad === 'bigint';
          expect(error, what).toBeInstanceOf(number ? RangeError : TypeError);
          expect(error, what).toHaveProperty('code', number ? 'ERR_OUT_OF_RANGE' : 'ERR_INVALID_ARG_TYPE');
          expect((error as Error).message, what).toMatch(
            new RegExp(`^Expected .+ for ${of} but received .+`),
          );
        } else {
          expect(error, what).toHaveProperty('code', expect.stringMatching(code as RegExp | string));
          if (/^E[A-Z]+$/.test((error as { code: string }).code)) {
            expect(error, what).toBeInstanceOf(VfioError);
            expect((error as VfioError).errno, what).toBeLessThan(0);
            expect((error as VfioError).message, what).toMatch(/^E[A-Z0-9]+: /);
          }
        }
        expect((error as Error).message.length, what).toBeLessThan(2000);
      }
      expect(await state()).toEqual(before);
    });
  }
});

describe('a caller that works against the checks', () => {
  const sly = (key: string, act: () => void, value: unknown) =>
    Object.defineProperty({}, key, {
      enumerable: true,
      get() {
        act();
        return value;
      },
    }) as never;

  test('disposing the handle or the memory from a getter of the options is harmless', async () => {
    using own = host.openIommufd();
    const space = own.allocIoas();
    const page = DmaBuffer.alloc(4096);
    const end = (each: Disposable) => () => each[Symbol.dispose]();
    expect(() => space.map(page, sly('iova', end(page), 0x1000))).toThrow(/disposed/);
    const second = DmaBuffer.alloc(4096);
    expect(() => space.map(second, sly('write', end(space), true))).toThrow();
    const third = own.allocIoas();
    await expect(third.mapAsync(second, sly('iova', end(third), 0x1000))).rejects.toThrow();
    using copied = own.allocIoas();
    using held = copied.map(second);
    expect(() => copied.copy(held, sly('iova', end(own), 0x8000))).toThrow();
  });

  test('disposing a mapped region, an interrupt or the device from within a call is harmless', async () => {
    using own = openHost();
    if (backend === 'kernel') device[Symbol.dispose]();
    await own.device(EDU).bind();
    const user = own.attach(EDU);
    const bar = user.device.region('bar0');
    expect(() => bar.mmap(sly('length', () => user[Symbol.dispose](), 4096))).toThrow(/disposed/);
    const again = own.attach(EDU);
    const [fires] = again.device.irq('msi').enable(1);
    const waits = async () => fires?.wait(sly('timeout', () => fires[Symbol.dispose](), 10));
    await expect(waits()).rejects.toThrow(/disposed/);
  });

  test('an iterable, a huge or a proxied list of ranges is harmless', () => {
    using own = openHost();
    using fd = own.openIommufd();
    const space = fd.allocIoas();
    const endless = new Proxy([], { get: (_, key) => (key === 'length' ? 2 ** 40 : undefined) });
    expect(() => space.allowIovas(endless)).toThrow();
    expect(space.iovaRanges().ranges).toHaveLength(1);
  });
});

/** Arguments of every kind, for calls that only must not crash. */
const junk = () => [undefined, null, 0, -1, Number.NaN, 2n ** 64n, 'x', Symbol('x'), {}, [], () => {}, host];

test('a constructor that a program calls throws, and makes no object', () => {
  const others: string[] = [];
  // Not an `expect` for each of them: there are some 50,000.
  const refuses = (name: string, call: () => unknown) => {
    try {
      others.push(`${name} made ${String(call())}`);
    } catch (error) {
      const { message } = error as Error;
      if (!/^Expected this package to make an? .+ but received a call of its constructor$/.test(message))
        others.push(`${name}: ${message}`);
    }
  };
  let tried = 0;
  for (const [name, made] of Object.entries(classes)) {
    if (['VfioError', 'DmaError', 'RegisterBank', 'SimulatedDevice', 'registers', 'view'].includes(name))
      continue; // test/surface.test.ts knows them
    tried++;
    for (const first of junk())
      for (const second of [undefined, {}, first])
        for (const target of [made, Object, Date, ...Object.values(classes)])
          refuses(name, () => Reflect.construct(made, [first, second, first, second], target));
    // The constructors of its base classes are called too, with it as new.target.
    for (
      let each: unknown = Object.getPrototypeOf(made);
      each !== Function.prototype;
      each = Object.getPrototypeOf(each)
    )
      refuses(name, () => Reflect.construct(each as typeof made, [undefined, 'x', undefined, []], made));
  }
  expect(tried).toBeGreaterThan(15);
  expect(others).toEqual([]);
});

test('no method crashes on any argument, whether or not programs are meant to call it', async () => {
  for (const mistake of junk()) {
    using own = Host.open({ backend: 'software' });
    await own.device(EDU).bind();
    const user = own.attach(EDU);
    const space = user.device.iommufd!.allocIoas();
    const buffer = DmaBuffer.alloc(4096);
    const msi = user.device.irq('msi');
    const [fires] = msi.enable(1);
    const fd = user.device.iommufd!;
    const victims: object[] = [
      fd.container(),
      fd.allocFaultQueue(),
      fd.allocHwpt({ device: user.device, parent: space }),
      new Viommu(
        OURS,
        fd,
        new Hwpt(OURS, fd, [fd], fileOf(fd), anObject(fd)),
        fileOf(fd),
        { object: anObject(fd), mmap: null },
        'arm-smmuv3',
      ),
      buffer,
      space.map(buffer),
      user.device.config,
      user.device.region(0),
      user.device.region(0).mmap(),
      fires!,
      msi,
      space,
      user.device.iommufd!,
      user.device,
      own,
    ];
    const pending: Promise<unknown>[] = [];
    for (const victim of victims) {
      const prototype = Object.getPrototypeOf(victim) as object;
      for (let each = prototype; each !== Object.prototype; each = Object.getPrototypeOf(each) as object) {
        for (const key of Reflect.ownKeys(each)) {
          const { value, set } = Object.getOwnPropertyDescriptor(each, key) ?? {};
          const call: unknown = set ?? value;
          if (typeof call !== 'function' || key === 'constructor') continue;
          try {
            const result: unknown = call.call(victim, mistake, mistake, mistake);
            if (result instanceof Promise)
              pending.push(result.catch((error) => expect(error).toBeInstanceOf(Error)));
          } catch (error) {
            expect(error).toBeInstanceOf(Error);
          }
        }
      }
    }
    own[Symbol.dispose]();
    await Promise.all(pending);
  }
});
