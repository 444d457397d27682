/**
 * The kinds of descriptors are checked: the requests of different kinds of file have the same numbers, so a call that adopts a
 * descriptor first finds out which kind of file it refers to.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DmaBuffer, Host, Iommufd, VfioDevice } from '../lib/index.ts';
import { backend, EDU, IVSHMEM, openHost, unmet } from './support/backends.ts';
import { descriptors } from './support/collect.ts';
import { bound, machine } from './support/iommu.ts';

const hosts: Host[] = [];
const closers: (() => void)[] = [];
const kept: unknown[] = [];

/** A descriptor of each kind of file, and its name in errors. */
const files = new Map<string, { fd: number; words: RegExp }>();
const KINDS = [
  ...['iommufd', 'container', 'group', 'device', 'device of a group', 'fault queue', 'event queue'],
  ...['/dev/null', 'socket', 'pipe', 'eventfd', 'epoll', 'file', 'folder', 'attribute', 'standard error'],
] as const;
type Kind = (typeof KINDS)[number];

const SOFTWARE =
  'only the software host has one: Linux 6.12 has no event queues, and its attributes are files';
const missing = (kind: Kind) =>
  kind === 'event queue' ? unmet({ backends: ['software'], because: SOFTWARE }) : null;

/** The descriptors that refer to files of this kind, as /proc shows it. */
const leadingTo = (target: RegExp) =>
  readdirSync('/proc/self/fd')
    .filter((fd) => {
      try {
        return target.test(readlinkSync(`/proc/self/fd/${fd}`));
      } catch {
        return false; // it was the descriptor of the listing itself
      }
    })
    .map(Number);

beforeAll(async () => {
  const host = openHost();
  hosts.push(host);
  for (const bdf of [EDU, IVSHMEM]) await host.device(bdf).bind();
  const add = (kind: Kind, fd: number | undefined, words: RegExp) => {
    if (fd === undefined) throw new Error(`there is no ${kind} to test with`);
    files.set(kind, { fd, words });
  };
  /** The words for a file in an error. The kernel has a path for each file, a software host only if it was opened by one. */
  const named = (words: string, path: string, everywhere = true) =>
    new RegExp(`, which is ${words}${everywhere || backend === 'kernel' ? ` \\(${path}\\)` : ''}$`);

  const iommufd = host.openIommufd();
  const device = host.openDevice(IVSHMEM);
  add('iommufd', iommufd.fd, named('an iommufd', '/dev/iommu'));
  device.bind(iommufd);
  add('device', device.fd, named('a VFIO device', String.raw`/dev/vfio/devices/vfio\d+`));
  const container = host.openContainer();
  const group = host.openGroup(host.device(EDU).group ?? -1);
  group.setContainer(container);
  container.setIommu('type1v2');
  const member = group.openDevice(EDU);
  add('container', container.fd, named('a VFIO container', '/dev/vfio/vfio'));
  add('group', group.fd, named('a VFIO group', String.raw`/dev/vfio/\d+`));
  const anonymous = (name: string) => String.raw`anon_inode:\[${name}\]`;
  add('device of a group', member.fd, named('a VFIO device', anonymous('vfio-device'), false));
  const queue = iommufd.allocFaultQueue();
  add('fault queue', queue.fd, named('a fault queue of an iommufd', anonymous('iommufd-pgfault'), false));
  kept.push(iommufd, device, container, group, member, queue);
  if (missing('event queue') === null) {
    const arm = machine({ kind: 'smmuv3' });
    hosts.push(arm);
    const on = await bound(arm);
    const parent = on.iommufd.allocHwpt({
      device: on.device,
      parent: on.iommufd.allocIoas(),
      nestParent: true,
    });
    const viommu = on.iommufd.allocViommu({ device: on.device, parent, type: 'arm-smmuv3' });
    const events = viommu.allocEventQueue({ depth: 4 });
    add('event queue', events.fd, /, which is an event queue of an iommufd$/);
    kept.push(on, viommu, events);
  }

  const plain = (kind: Kind, path: string, flags: string) => {
    const fd = openSync(path, flags);
    closers.push(() => closeSync(fd));
    add(kind, fd, new RegExp(`, which is ${path}$`));
  };
  const folder = mkdtempSync(join(tmpdir(), 'vfio-descriptors-'));
  closers.push(() => rmSync(folder, { recursive: true }));
  plain('/dev/null', '/dev/null', 'r+');
  plain('file', join(folder, 'file'), 'w+');
  plain('folder', folder, 'r');
  plain('attribute', '/sys/devices/system/cpu/online', 'r');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(join(folder, 'socket'), resolve));
  closers.push(() => server.close());
  const socket = (server as unknown as { _handle: { fd: number } })._handle.fd;
  add('socket', socket, /, which is socket:\[\d+\]$/);
  add('pipe', leadingTo(/^pipe:/)[0], /, which is pipe:\[\d+\]$/);
  add('epoll', leadingTo(/eventpoll/)[0], /, which is anon_inode:\[eventpoll\]$/);
  const [interrupt] = member.irq('msi').enable(1);
  kept.push(interrupt);
  add('eventfd', interrupt?.eventfd, /, which is anon_inode:\[eventfd\]$/);
  add('standard error', 2, /, which is \S+$/);
});

afterAll(() => {
  for (const host of hosts) host[Symbol.dispose]();
  for (const close of closers) close();
  expect(kept).not.toHaveLength(0);
});

const pick = (kind: Kind) => {
  const found = files.get(kind);
  if (!found) throw new Error(`there is no ${kind} to test with`);
  return found;
};

/** The calls that adopt a descriptor, the kind of file that they expect in words, and the kinds that they accept. */
const ADOPTERS = [
  ['Iommufd.fromFd', 'an iommufd', ['iommufd'], (fd: number) => Iommufd.fromFd(fd)],
  [
    'VfioDevice.fromFd',
    'a VFIO device',
    ['device', 'device of a group'],
    (fd: number) => VfioDevice.fromFd(fd),
  ],
  [
    'Host.openDevice',
    'a VFIO device',
    ['device', 'device of a group'],
    (fd: number) => (hosts[0] as Host).openDevice({ fd }),
  ],
] as const;

describe.each(ADOPTERS)('%s', (_name, expected, right, adopt) => {
  test.for(KINDS.filter((kind) => (right as readonly Kind[]).includes(kind)))('takes a %s', (kind) => {
    const { fd } = pick(kind);
    const before = descriptors();
    const adopted = adopt(fd);
    if (adopted instanceof VfioDevice) expect(adopted.info.numRegions).toBeGreaterThan(0);
    else expect(adopted.allocIoas().id).toBeGreaterThan(0);
    adopted[Symbol.dispose]();
    expect(descriptors()).toBe(before);
  });

  test.for(KINDS.filter((kind) => !(right as readonly Kind[]).includes(kind)))(
    'refuses a %s, in words',
    (kind, ctx) => {
      const reason = missing(kind);
      if (reason !== null) ctx.skip(reason);
      const { fd, words } = pick(kind);
      const before = descriptors();
      const call = () => adopt(fd);
      expect(call).toThrow(TypeError);
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_INVALID_FD_TYPE' }));
      expect(call).toThrow(words);
      const start = `Expected the descriptor of ${expected} for fd but received ${fd}, which is `;
      expect(call).toThrow(expect.objectContaining({ message: expect.stringContaining(start) }));
      expect(descriptors()).toBe(before);
    },
  );

  test('says of a closed descriptor that there is none', () => {
    const fd = openSync('/dev/null', 'r');
    closeSync(fd);
    expect(() => adopt(fd)).toThrow(expect.objectContaining({ name: 'VfioError', code: 'EBADF' }));
  });

  test('checks the file that the number refers to now', () => {
    const host = hosts[0] as Host;
    const twin = expected === 'an iommufd' ? host.openIommufd() : VfioDevice.fromFd(pick('device').fd);
    const { fd } = twin;
    adopt(fd)[Symbol.dispose]();
    twin[Symbol.dispose]();
    const now = openSync('/dev/null', 'r');
    expect(now).toBe(fd);
    expect(() => adopt(fd)).toThrow(/, which is \/dev\/null$/);
    closeSync(now);
  });
});

describe('a descriptor that the program was told and has closed', () => {
  /** Closes it, and gives its number to another file. */
  const replaced = (fd: number): number => {
    closeSync(fd);
    const now = openSync('/dev/null', 'r+');
    expect(now).toBe(fd);
    return now;
  };
  const still = (fd: number) => expect(readlinkSync(`/proc/self/fd/${fd}`)).toBe('/dev/null');

  test('receives no calls, and the file that has its number now is not closed', () => {
    const host = hosts[0] as Host;
    const before = descriptors();
    const iommufd = host.openIommufd();
    expect(iommufd.fd).toBe(iommufd.fd);
    const now = replaced(iommufd.fd);
    const ioas = iommufd.allocIoas();
    using memory = DmaBuffer.alloc(4096);
    const mapping = ioas.map(memory);
    expect(ioas.unmap(mapping.iova, 4096)).toBe(4096n);
    iommufd[Symbol.dispose]();
    still(now);
    closeSync(now);
    expect(descriptors()).toBe(before);
  });

  test('is not mistaken for another iommufd that has its number now', () => {
    const host = hosts[0] as Host;
    using iommufd = host.openIommufd();
    using ioas = iommufd.allocIoas();
    using memory = DmaBuffer.alloc(4096);
    const mapping = ioas.map(memory, { iova: 0x100000 });
    const { fd } = iommufd;
    closeSync(fd);
    using other = host.openIommufd();
    expect(other.fd).toBe(fd);
    using theirs = other.allocIoas();
    expect(theirs.id).toBe(ioas.id);
    const kept = theirs.map(memory, { iova: 0x100000 });
    mapping[Symbol.dispose]();
    expect([ioas.mappings().length, theirs.mappings().length]).toEqual([0, 1]);
    expect(theirs.unmap(kept.iova, 4096)).toBe(4096n);
  });

  test('of a queue is neither read nor polled', () => {
    const host = hosts[0] as Host;
    using iommufd = host.openIommufd();
    const queue = iommufd.allocFaultQueue();
    const now = replaced(queue.fd);
    expect(queue.poll()).toBeNull();
    queue[Symbol.dispose]();
    still(now);
    closeSync(now);
  });

  test('of a device is still a device', () => {
    const device = VfioDevice.fromFd(pick('device').fd);
    const now = replaced(device.fd);
    expect(device.info.numRegions).toBeGreaterThan(0);
    device[Symbol.dispose]();
    still(now);
    closeSync(now);
  });
});

test('Host.openDevice refuses a path that leads to another kind of file, and closes it', () => {
  const host = hosts[0] as Host;
  const before = descriptors();
  const cases: [path: string, words: string][] = [
    ['/dev/vfio/vfio', 'a VFIO container'],
    ['/dev/iommu', 'an iommufd'],
    // The kernel names the file with the links of that path resolved.
    [`/sys/bus/pci/devices/${EDU}/driver_override`, '(another kind of file|/sys/devices/.*/driver_override)'],
  ];
  for (const [path, words] of cases)
    expect(() => host.openDevice({ path })).toThrow(
      new RegExp(`^Expected the path of a VFIO device for path but received '${path}', which is ${words}$`),
    );
  expect(descriptors()).toBe(before);
});

test('Host.openDevice refuses a device of another host, which VfioDevice.fromFd takes', async () => {
  using elsewhere = Host.open({ backend: 'software' });
  await elsewhere.device(EDU).bind();
  using theirs = elsewhere.openDevice(EDU);
  using iommufd = elsewhere.openIommufd();
  theirs.bind(iommufd);
  expect(() => (hosts[0] as Host).openDevice({ fd: theirs.fd })).toThrow(
    `Expected the descriptor of a VFIO device of this host for fd but received ${theirs.fd}, which is another host's`,
  );
  using adopted = VfioDevice.fromFd(theirs.fd);
  expect(adopted.info.numRegions).toBe(theirs.info.numRegions);
});

test('whether two descriptors lead to one open file is known by each of the ways that kernels have', {
  timeout: 300_000,
}, () => {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const made = spawnSync('make', ['-s', '-C', join(root, 'test/native'), 'same'], { encoding: 'utf8' });
  expect(made.stderr).toBe('');
  const run = spawnSync(join(root, 'build/test-native/same'), [backend], { encoding: 'utf8' });
  console.log(run.stdout);
  expect(run.stdout.split('\n').filter((line) => line.startsWith('FAIL'))).toEqual([]);
  expect(run.status, run.stderr).toBe(0);
  expect(run.stdout).toContain('answers wrong');
});

test('every kind of file was tried', () => {
  const reasons = KINDS.map(missing).filter((reason) => reason !== null);
  if (reasons.length > 0) console.log(reasons.join('\n'));
  expect(KINDS.filter((kind) => !files.has(kind) && missing(kind) === null)).toEqual([]);
});
