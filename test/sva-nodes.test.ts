/**
 * Character devices that bind the process which opens them, from what sysfs shows of them. No such hardware was seen: the trees
 * are written after the kernel's documentation (Documentation/ABI) and its source of 6.12.
 */
import { describe, expect, test } from 'vitest';
import { native } from '../lib/addon/native.ts';
import { Host, Sva, VfioError } from '../lib/index.ts';
import { bindNode, type NodeHost, nodesFor, nodesOf, type SvaNode } from '../lib/sva/nodes.ts';
import { needs } from './support/backends.ts';
import { descriptors, descriptorsSettle } from './support/collect.ts';

needs({ backends: ['software'], because: 'the trees are the same on every machine' });

/** A host whose files are these: text, a link ('-> '), or an error ('!'). */
function fake(tree: Record<string, string>, open?: (path: string) => never): NodeHost {
  const paths = Object.keys(tree);
  return {
    readText(path) {
      const text = tree[path];
      if (text?.startsWith('!')) throw new VfioError(Number(text.slice(1)), { syscall: 'read', path });
      return text ?? null;
    },
    readlink: (path) => (tree[path]?.startsWith('-> ') ? (tree[path] as string).slice(3) : null),
    list(path) {
      const below = paths.flatMap((each) =>
        each.startsWith(`${path}/`) ? [each.slice(path.length + 1).split('/')[0] as string] : [],
      );
      return below.length === 0 ? null : [...new Set(below)];
    },
    ownership: () => ({ mode: 0o600, uid: 0, gid: 0 }),
    user: () => 1000,
    open(path) {
      if (open === undefined) throw new Error(`nobody was to open ${path}`);
      return open(path);
    },
  };
}

const ZIP = '/sys/class/uacce/hisi_zip-0';
const SEC = '/sys/class/uacce/hisi_sec2-3';
const uacce = {
  [`${ZIP}/api`]: 'hisi_qm_v2\n',
  [`${ZIP}/flags`]: '1\n',
  [`${ZIP}/available_instances`]: '256\n',
  [`${ZIP}/algorithms`]: 'zlib\ngzip\ndeflate\n\n',
  [`${ZIP}/isolate`]: '0\n',
  [`${ZIP}/device`]: '-> ../../../0000:75:00.0',
  [`${ZIP}/device/driver`]: '-> ../../../../bus/pci/drivers/hisi_zip',
  [`${SEC}/api`]: 'hisi_qm\n',
  [`${SEC}/flags`]: '0\n',
  [`${SEC}/algorithms`]: 'cipher\ndigest\n\n',
  [`${SEC}/isolate`]: '1\n',
};

const DSA = '/sys/bus/dsa/devices';
const idxd = {
  [`${DSA}/dsa0`]: '-> ../../../devices/pci0000:6a/0000:6a:01.0/dsa0',
  [`${DSA}/dsa0/version`]: '0x100\n',
  [`${DSA}/dsa0/pasid_enabled`]: '1\n',
  [`${DSA}/engine0.0/group_id`]: '0\n',
  [`${DSA}/wq0.0/mode`]: 'shared\n',
  [`${DSA}/wq0.0/dsa!wq0.0/dev`]: '511:0\n',
  [`${DSA}/wq0.1/mode`]: 'dedicated\n',
  [`${DSA}/wq0.1/dsa!wq0.1/dev`]: '511:1\n',
  [`${DSA}/wq0.2/mode`]: 'shared\n', // not enabled: it has no node
  [`${DSA}/iax1`]: '-> ../../../devices/pci0000:6a/0000:6a:02.0/iax1',
  [`${DSA}/iax1/pasid_enabled`]: '0\n',
  [`${DSA}/wq1.0/mode`]: 'shared\n',
  [`${DSA}/wq1.0/iax!wq1.0/dev`]: '511:2\n',
  '/sys/bus/pci/devices/0000:6a:01.0/driver': '-> ../../../../bus/pci/drivers/idxd',
};

describe('nodes', () => {
  test('of uacce are described by their class: path, device, driver, algorithms, isolation and SVA', () => {
    expect(nodesOf(fake(uacce))).toEqual([
      {
        path: '/dev/hisi_sec2-3',
        kind: 'uacce',
        bdf: null,
        driver: null,
        algorithms: ['cipher', 'digest'],
        api: 'hisi_qm',
        dedicated: false,
        isolated: true,
        sva: false,
      },
      {
        path: '/dev/hisi_zip-0',
        kind: 'uacce',
        bdf: '0000:75:00.0',
        driver: 'hisi_zip',
        algorithms: ['zlib', 'gzip', 'deflate'],
        api: 'hisi_qm_v2',
        dedicated: false,
        isolated: false,
        sva: true,
      },
    ]);
  });

  test('of idxd are its enabled queues, with the settings of their device', () => {
    expect(nodesOf(fake(idxd))).toMatchObject([
      {
        path: '/dev/dsa/wq0.0',
        kind: 'idxd',
        bdf: '0000:6a:01.0',
        driver: 'idxd',
        dedicated: false,
        sva: true,
      },
      { path: '/dev/dsa/wq0.1', algorithms: ['dsa'], api: '0x100', dedicated: true, sva: true },
      { path: '/dev/iax/wq1.0', algorithms: ['iax'], bdf: '0000:6a:02.0', driver: null, sva: false },
    ]);
  });

  test('are none on a host without such devices, and an attribute without an answer leaves its field empty', () => {
    expect(nodesOf(fake({}))).toEqual([]);
    expect(
      nodesOf(fake({ [`${ZIP}/flags`]: '1\n', [`${ZIP}/isolate`]: '!19', [`${ZIP}/api`]: '!6' })),
    ).toMatchObject([{ path: '/dev/hisi_zip-0', api: null, isolated: null, algorithms: [], sva: true }]);
  });
});

describe('opening a node', () => {
  const node = (path: string): SvaNode => {
    const found = nodesOf(fake({ ...uacce, ...idxd })).find((each) => each.path === path);
    if (found === undefined) throw new Error(`there is no ${path}`);
    return found;
  };
  const failing = (errno: number) =>
    fake({}, (path) => {
      throw new VfioError(errno, { syscall: 'open', path });
    });

  test('is refused before it is tried if it would bind nothing', () => {
    expect(() => bindNode(fake({}), node('/dev/hisi_sec2-3'))).toThrow(
      expect.objectContaining({ code: 'EOPNOTSUPP', reason: expect.stringMatching(/would bind nothing/) }),
    );
  });

  test.each([
    [
      13,
      'EACCES',
      '/dev/hisi_zip-0',
      /hisi_zip-0 has mode 0600, owner 0, group 0; this process runs as 1000/,
    ],
    [16, 'EBUSY', '/dev/dsa/wq0.1', /one process at a time/],
    [16, 'EBUSY', '/dev/dsa/wq0.0', /possibly the process has another PASID/],
    [95, 'EOPNOTSUPP', '/dev/dsa/wq0.0', /switched off on x86/],
    [28, 'ENOSPC', '/dev/dsa/wq0.0', undefined],
  ] as const)('fails with errno %d as %s, with the reason', (errno, code, path, reason) => {
    let caught: unknown;
    try {
      bindNode(failing(errno), node(path));
    } catch (error) {
      caught = error;
    }
    expect(caught).toMatchObject({ code, path });
    if (reason === undefined) expect((caught as VfioError).reason).toBeUndefined();
    else expect((caught as VfioError).reason).toMatch(reason);
  });

  describe('of a real file', () => {
    const host = new native.Host('kernel');
    const one: SvaNode = { ...node('/dev/hisi_zip-0'), path: '/dev/null' };

    test('keeps it open for the program, until the end', async () => {
      const before = descriptors();
      const bonding = bindNode(host, one);
      expect(bonding.way).toBe('character-device');
      expect(bonding.fd).toBeGreaterThan(2);
      expect(bonding.pasid()).toBeNull();
      expect(bonding.ended()).toBe(false);
      bonding.reach(0x1000n, 8); // every byte of the process
      const memory = bonding.allocate(100);
      expect(new Uint8Array(memory)).toEqual(new Uint8Array(4096));
      bonding.dispose();
      bonding.dispose();
      expect(() => bonding.fd).toThrow(expect.objectContaining({ code: 'ERR_VFIO_DISPOSED' }));
      expect(await descriptorsSettle(before)).toBe(before);
      expect(() => bindNode(host, { ...one, path: '/dev/none-0' })).toThrow(
        expect.objectContaining({ code: 'ENOENT', path: '/dev/none-0' }),
      );
    });
  });
});

test('Sva.bind opens a node that a host has found, and the bond has its descriptor', () => {
  using host = Host.open({ backend: 'software' });
  expect(host.svaNodes()).toEqual([]);
  const real = new native.Host('kernel');
  const zip = nodesFor(host, {
    ...fake(uacce),
    open: (_path, kind, checked) => real.open('/dev/null', kind, checked),
  }).find(({ sva }) => sva);
  using bond = Sva.bind(zip as SvaNode, { data: 5 });
  expect([bond.way, bond.pasid, bond.data]).toEqual(['character-device', null, 5]);
  expect(bond.fd).toBeGreaterThan(2);
  expect(bond.pointer(new Uint8Array(8))).toBeGreaterThan(0n);
  expect(() => Sva.bind({ ...(zip as SvaNode) })).toThrow('Expected a VfioDevice for device');
});
