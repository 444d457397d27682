/** Devices that the kernel uses, tested on files with the kernel's formats: for states that no real or simulated host here has. */
import { describe, expect, test } from 'vitest';
import type { NativeHost } from '../lib/addon/native.ts';
import { VfioError } from '../lib/base/errors.ts';
import { usesOf } from '../lib/system/facts/uses.ts';
import { needs } from './support/backends.ts';

const BDF = '0000:03:00.0';
const BELOW = `../../devices/pci0000:00/0000:00:1c.0/${BDF}`;

/** A host with these files and links, and the directories that they need. `claimed`: disks that can't be opened exclusively. */
function hostOf(
  files: Record<string, string>,
  links: Record<string, string>,
  claimed: Record<string, number[]> = {},
): NativeHost {
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
    claimed: (path) => path in claimed,
    openers: (path) => claimed[path] ?? [],
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

  test('with a space, a line feed, an escape in the path on which it is mounted', () => {
    expect(usesOf(disk('sda', String.raw`22 1 8:0 / /my\040disk rw - ext4 /dev/sda rw`), BDF)).toEqual([
      { reason: 'disk sda is mounted on /my disk', command: "umount '/my disk'" },
    ]);
    expect(usesOf(disk('sda', '22 1 8:0 / /a\\012\r\u001b[2Kb rw - ext4 /dev/sda rw'), BDF)).toEqual([
      { reason: 'disk sda is mounted on /a\\u{a}\\u{d}\\u{1b}[2Kb', command: 'umount /dev/sda' },
    ]);
  });

  test('whose node is in a subfolder of /dev, used as swap space', () => {
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

  test('of an NVMe namespace with several paths: sysfs shows its mounted partition under none of them', () => {
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

  describe("that none of this process's tables shows", () => {
    /** sda with two partitions. */
    const claimed = (
      nodes: Record<string, number[]>,
      files: Record<string, string> = {},
      links: Record<string, string> = {},
    ) =>
      hostOf(
        {
          '/sys/class/block/sda/dev': '8:0\n',
          '/sys/class/block/sda1/dev': '8:1\n',
          '/sys/class/block/sda1/partition': '1\n',
          '/sys/class/block/sda2/dev': '8:2\n',
          '/sys/class/block/sda2/partition': '2\n',
          ...files,
        },
        {
          '/sys/class/block/sda': `${BELOW}/block/sda`,
          '/sys/class/block/sda1': `${BELOW}/block/sda/sda1`,
          '/sys/class/block/sda2': `${BELOW}/block/sda/sda2`,
          ...links,
        },
        nodes,
      );
    const unknown = (name: string, more = '') =>
      `disk ${name} is claimed: by a file system or volume whose mount this process can't see, or by a program that has opened it exclusively${more}`;

    test('but the kernel does, by refusing to open it exclusively', () => {
      expect(usesOf(claimed({ '/dev/sda': [] }), BDF)).toEqual([
        { reason: unknown('sda'), command: 'lsblk --fs /dev/sda # shows what is on it' },
      ]);
      const opened = claimed({ '/dev/sda2': [process.pid] });
      expect(reasons(opened)).toEqual([unknown('sda2', ` (it is open in this process (${process.pid}))`)]);
      expect(reasons(claimed({}))).toEqual([]);
    });

    test('is reported once: not for a disk and for its partition', () => {
      const both = { '/dev/sda': [], '/dev/sda1': [], '/dev/sda2': [] };
      expect(reasons(claimed({ '/dev/sda': [], '/dev/sda1': [] }))).toEqual([unknown('sda1')]);
      const mounted = (number: string) => ({
        '/proc/self/mountinfo': `22 1 ${number} / /srv rw - ext4 /dev/it rw\n`,
      });
      expect(reasons(claimed(both, mounted('8:0')))).toEqual(['disk sda is mounted on /srv']);
      expect(reasons(claimed({ '/dev/sda': [], '/dev/sda1': [] }, mounted('8:1')))).toEqual([
        'disk sda1 is mounted on /srv',
      ]);
      expect(reasons(claimed(both, mounted('8:1')))).toEqual([
        'disk sda1 is mounted on /srv',
        unknown('sda2'),
      ]);
    });

    test('but those of another mount namespace do: one process of each is named', () => {
      const mount = '22 1 8:1 / /my\\040disk rw - ext4 /dev/sda1 rw\n';
      const files = Object.fromEntries([1, 10, 9, 11].map((pid) => [`/proc/${pid}/mountinfo`, mount]));
      files['/proc/1/mountinfo'] = '';
      const links = {
        '/proc/1/ns/mnt': 'mnt:[1]',
        '/proc/9/ns/mnt': 'mnt:[2]',
        '/proc/10/ns/mnt': 'mnt:[2]',
      };
      const host = claimed({ '/dev/sda': [], '/dev/sda1': [] }, files, links);
      // Other users can see neither the namespaces of a process nor its mounts.
      const { readlink, readText } = host;
      host.readlink = (path) => {
        if (path === '/proc/11/ns/mnt') throw new VfioError(13, { syscall: 'readlink', path });
        return readlink(path);
      };
      expect(usesOf(host, BDF)).toEqual([
        {
          reason: expect.stringMatching(
            /^disk sda1 is mounted on \/my disk in the mount namespace of process 9\b/,
          ),
          command: "nsenter --target 9 --mount --root umount '/my disk'",
        },
      ]);
      // The process ends while it is examined.
      host.readText = (path) => {
        if (path === '/proc/9/mountinfo') throw new VfioError(22, { syscall: 'read', path });
        return readText(path);
      };
      expect(reasons(host)).toEqual([unknown('sda1')]);
    });
  });
});
