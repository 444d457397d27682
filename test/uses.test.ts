/** What the kernel does with a device, from files as kernels have them: hosts that no run can be brought into. */
import { describe, expect, test } from 'vitest';
import type { NativeHost } from '../lib/native.ts';
import { usesOf } from '../lib/uses.ts';
import { needs } from './support/backends.ts';

const BDF = '0000:03:00.0';
const BELOW = `../../devices/pci0000:00/0000:00:1c.0/${BDF}`;

/** A host of these files and links; directories have what is below them. */
function hostOf(files: Record<string, string>, links: Record<string, string>): NativeHost {
  const paths = [...Object.keys(files), ...Object.keys(links)];
  const below = (path: string) =>
    paths.flatMap((each) => (each.startsWith(`${path}/`) ? each.slice(path.length + 1).split('/')[0] : []));
  const host: Partial<NativeHost> = {
    readText: (path) => files[path] ?? null,
    readlink: (path) => links[path] ?? null,
    list: (path) => {
      const names = [...new Set(below(path))].filter((name) => name !== undefined);
      return names.length === 0 ? null : names;
    },
  };
  return host as NativeHost;
}

needs({ backends: ['software'], because: 'its hosts are made up of files, wherever it runs' });

const reasons = (host: NativeHost) => usesOf(host, BDF).map((each) => each.reason);

describe('A5: a network interface', () => {
  const network = (state: string, links: Record<string, string> = {}, routes = '') =>
    hostOf(
      { '/sys/class/net/eth0/operstate': `${state}\n`, '/proc/net/route': `Iface\tDestination\n${routes}` },
      { '/sys/class/net/eth0': `${BELOW}/net/eth0`, ...links },
    );

  test.each([
    ['down', {}, '', []],
    ['down', { '/sys/class/net/eth0/master': '../../virtual/net/br0' }, '', []],
    ['up', {}, '', ['network interface eth0 is up']],
    ['unknown', {}, '', ['network interface eth0 is up']],
    ['up', {}, 'eth0\t00000000\n', ['network interface eth0 is up and has a route']],
    [
      'up',
      {
        '/sys/class/net/eth0/master': '../../../virtual/net/br0',
        '/sys/class/net/eth0/upper_br0': '../../../virtual/net/br0',
      },
      'br0\t00000000\n',
      ['network interface eth0 is up and a port of br0'],
    ],
    [
      'up',
      { '/sys/class/net/eth0/upper_eth0.10': '../../../virtual/net/eth0.10' },
      'eth0.10\t00000000\n',
      ['network interface eth0 is up and carries eth0.10'],
    ],
  ] as const)('that is %s, with %j and the route "%s": %j', (state, links, routes, expected) => {
    const uses = usesOf(network(state, links, routes), BDF);
    expect(uses.map((each) => each.reason)).toEqual(expected);
    for (const { command } of uses) expect(command).toBe('ip link set dev eth0 down');
  });
});

describe('A5: a disk', () => {
  const disk = (name: string, mount: string, more: Record<string, string> = {}) =>
    hostOf(
      { [`/sys/class/block/${name}/dev`]: '8:0\n', '/proc/self/mountinfo': `${mount}\n`, ...more },
      { [`/sys/class/block/${name}`]: `${BELOW}/block/${name}` },
    );

  test('with a space, a line feed, an escape in the name of where it is mounted', () => {
    expect(usesOf(disk('sda', String.raw`22 1 8:0 / /my\040disk rw - ext4 /dev/sda rw`), BDF)).toEqual([
      { reason: 'disk sda is mounted on /my disk', command: "umount '/my disk'" },
    ]);
    expect(usesOf(disk('sda', '22 1 8:0 / /a\\012\r\u001b[2Kb rw - ext4 /dev/sda rw'), BDF)).toEqual([
      { reason: 'disk sda is mounted on /a\\u{a}\\u{d}\\u{1b}[2Kb', command: 'umount /dev/sda' },
    ]);
  });

  test('whose node is in a folder, as swap space', () => {
    const host = disk('cciss!c0d0', '', { '/proc/swaps': 'Filename Type\n/dev/cciss/c0d0\tpartition\t1\n' });
    expect(usesOf(host, BDF)).toEqual([
      { reason: 'disk cciss!c0d0 is swap space', command: 'swapoff /dev/cciss/c0d0' },
    ]);
  });

  test('that is a part of another', () => {
    expect(reasons(disk('sda', '', { '/sys/class/block/sda/holders/dm-0': '' }))).toEqual([
      'disk sda is a part of dm-0',
    ]);
  });

  test('of an NVMe namespace with several paths: the partition that is mounted is below none of them', () => {
    const head = '../../devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1';
    const host = (hidden: string) =>
      hostOf(
        {
          '/sys/class/block/nvme0n1/dev': '259:0\n',
          '/sys/class/block/nvme0n1p1/dev': '259:1\n',
          '/sys/class/block/nvme0n11/dev': '259:2\n',
          '/proc/self/mountinfo':
            '22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n23 1 259:2 / /b rw - ext4 /dev/nvme0n11 rw\n',
        },
        {
          '/sys/class/block/nvme0n1': head,
          '/sys/class/block/nvme0n1p1': `${head}/nvme0n1p1`,
          '/sys/class/block/nvme0n11': `${head}1`,
          [`/sys/class/block/${hidden}`]: `${BELOW}/nvme/nvme1/${hidden}`,
        },
      );
    expect(reasons(host('nvme0c1n1'))).toEqual(['disk nvme0n1p1 is mounted on /']);
    expect(reasons(host('nvme0c1n2'))).toEqual([]);
  });
});
