/**
 * The kernel's rules for the address spaces of an iommufd. The numbers are behaviours of docs/behaviours.md. This file runs on
 * the real kernel too, which showed every claim here.
 */
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DmaBuffer, type Host, type Ioas, type Iommufd, type VfioDevice } from '../lib/index.ts';
import { EDU, GROUP_OF_TWO, openHost } from './support/backends.ts';

let host: Host;
let iommufd: Iommufd;
let ioas: Ioas;
const buffers: DmaBuffer[] = [];
const memory = (size: number) => {
  const buffer = DmaBuffer.alloc(size);
  buffers.push(buffer);
  return buffer;
};
const code = (expected: string) => expect.objectContaining({ code: expected });

beforeEach(() => {
  host = openHost();
  iommufd = host.openIommufd();
  ioas = iommufd.allocIoas();
});
afterEach(() => {
  host[Symbol.dispose]();
  for (const buffer of buffers.splice(0)) buffer[Symbol.dispose]();
});

describe('ids', () => {
  test('start at 1, are shared by all kinds, and the lowest free one is used again (4)', () => {
    expect(ioas.id).toBe(1);
    const second = iommufd.allocIoas();
    expect(second.id).toBe(2);
    expect(iommufd.allocIoas().id).toBe(3);
    second[Symbol.dispose]();
    expect(iommufd.allocIoas().id).toBe(2);
  });

  test('an unknown id is ENOENT, 0 always (4)', () => {
    expect(() => iommufd.destroy(0)).toThrow(code('ENOENT'));
    expect(() => iommufd.destroy(77)).toThrow(code('ENOENT'));
  });

  test('every open of /dev/iommu has its own ids (10)', () => {
    using other = host.openIommufd();
    expect(other.allocIoas().id).toBe(1);
  });
});

describe('without a device', () => {
  test('everything is usable and the alignment is 1 (12)', () => {
    expect(ioas.iovaRanges()).toEqual({ ranges: [{ start: 0n, last: 2n ** 64n - 1n }], alignment: 1n });
  });

  test('the kernel chooses the lowest free address, never 0, aligned to the size (23, 24)', () => {
    const at = (size: number) => ioas.map(memory(size)).iova;
    expect(at(0x1000)).toBe(0x1000n);
    expect(at(0x1000)).toBe(0x2000n);
    // Three pages round up to four; their address is page aligned at least.
    const three = ioas.map(memory(0x3000)).iova;
    expect([0x3000n, 0x4000n]).toContain(three);
    expect(at(2 << 20)).toBe(0x200000n);
  });

  test('bytes can be mapped: the offset in the page is kept (23, 26)', () => {
    const buffer = memory(0x1000);
    expect(ioas.map(buffer.slice(5, 3)).iova & 0xfffn).toBe(5n);
    expect(ioas.map(buffer.slice(100, 1), { iova: 0x777 }).iova).toBe(0x777n);
  });

  test('a freed range is used again', () => {
    const first = ioas.map(memory(0x1000));
    ioas.map(memory(0x1000));
    first[Symbol.dispose]();
    expect(ioas.map(memory(0x1000)).iova).toBe(0x1000n);
  });

  test('a fixed range that overlaps is EEXIST, and the error names the mapping (22)', () => {
    ioas.map(memory(0x2000), { iova: 0x10000 });
    expect(() => ioas.map(memory(0x1000), { iova: 0x11000 })).toThrow(
      expect.objectContaining({
        code: 'EEXIST',
        errno: -17,
        syscall: 'ioctl',
        request: 'IOMMU_IOAS_MAP',
        reason: '[0x11000, 0x11fff] overlaps the mapping [0x10000, 0x11fff]',
      }),
    );
  });

  test('neither read nor write is EINVAL (20); ranges that wrap are EOVERFLOW (21)', () => {
    expect(() => ioas.map(memory(0x1000), { read: false, write: false })).toThrow(code('EINVAL'));
    expect(() => ioas.map(memory(0x1000), { iova: 2n ** 64n - 1n })).toThrow(code('EOVERFLOW'));
    expect(() => ioas.map(memory(0x1000), { iova: 2n ** 64n - 0x1000n + 1n })).toThrow(code('EOVERFLOW'));
  });

  test('the last page below 2^64 can be mapped', () => {
    using mapping = ioas.map(memory(0x1000), { iova: 2n ** 64n - 0x1000n });
    expect(mapping.iova).toBe(2n ** 64n - 0x1000n);
  });
});

describe('unmap', () => {
  test('unmaps every mapping inside a larger range and returns how many bytes that were (41)', () => {
    ioas.map(memory(0x1000), { iova: 0x10000 });
    ioas.map(memory(0x2000), { iova: 0x20000 });
    expect(ioas.unmap(0x8000, 0x30000)).toBe(0x3000n);
    expect(ioas.mappings()).toEqual([]);
  });

  test('that cuts a mapping is ENOENT, but the mappings below it are unmapped (42)', () => {
    for (const iova of [0x10000, 0x20000, 0x30000]) ioas.map(memory(0x2000), { iova });
    expect(() => ioas.unmap(0x10000, 0x11000)).toThrow(
      expect.objectContaining({ code: 'ENOENT', reason: expect.stringContaining('[0x20000, 0x21fff]') }),
    );
    expect(ioas.mappings().map(({ iova }) => iova)).toEqual([0x20000n, 0x30000n]);
    expect(ioas.map(memory(0x2000), { iova: 0x10000 }).iova).toBe(0x10000n);
    expect(() => ioas.map(memory(0x2000), { iova: 0x20000 })).toThrow(code('EEXIST'));
  });

  test('of nothing is ENOENT; of everything succeeds with 0 (43)', () => {
    expect(() => ioas.unmap(0x1000, 0x1000)).toThrow(code('ENOENT'));
    expect(ioas.unmapAll()).toBe(0n);
    ioas.map(memory(0x5000));
    expect(ioas.unmapAll()).toBe(0x5000n);
  });

  test('of length 0 is EINVAL (44), of a range that wraps EOVERFLOW', () => {
    expect(() => ioas.unmap(0x1000, 0)).toThrow(code('EINVAL'));
    expect(() => ioas.unmap(0x1000, 2n ** 64n - 1n)).toThrow(code('EOVERFLOW'));
    expect(() => ioas.unmap(2n ** 64n - 0x1000n, 0x2000)).toThrow(code('EOVERFLOW'));
  });
});

describe('copy', () => {
  test('shares a mapping with another space, where it stays when the source is unmapped (37, 39)', () => {
    const other = iommufd.allocIoas();
    const source = ioas.map(memory(0x2000), { iova: 0x10000 });
    const copied = other.copy(source, { iova: 0x40000 });
    expect(copied).toMatchObject({ iova: 0x40000n, length: 0x2000n });
    source[Symbol.dispose]();
    expect(other.unmap(0x40000, 0x2000)).toBe(0x2000n);
  });

  test('chooses an address as map does, and may go into the same space', () => {
    const source = ioas.map(memory(0x1000), { iova: 0x1000 });
    expect(ioas.copy(source).iova).toBe(0x2000n);
  });

  test('that is writable, of a read-only mapping, is EPERM; the other way round works (38)', () => {
    const source = ioas.map(memory(0x1000), { write: false });
    expect(() => ioas.copy(source, { write: true })).toThrow(code('EPERM'));
    expect(ioas.copy(source, { write: false }).length).toBe(0x1000n);
  });

  test('of an unmapped mapping is ENOENT, also if another one is mapped there by now', () => {
    const source = ioas.map(memory(0x1000), { iova: 0x5000 });
    ioas.unmapAll();
    ioas.map(memory(0x1000), { iova: 0x5000 });
    expect(() => ioas.copy(source)).toThrow(
      expect.objectContaining({ code: 'ENOENT', reason: 'the source is not mapped any more' }),
    );
  });
});

describe('bookkeeping', () => {
  test('a getter of the options that disposes the space during a map does not map into the next space', () => {
    const options = {
      get iova() {
        ioas[Symbol.dispose]();
        iommufd.allocIoas();
        return 0x5000;
      },
    };
    expect(() => ioas.map(memory(0x1000), options)).toThrow(code('ERR_VFIO_DISPOSED'));
  });

  test('destroying a space by its id disposes its handle, which does not affect the next space with that id', () => {
    const { id } = ioas;
    iommufd.destroy(id);
    expect(ioas.disposed).toBe(true);
    const next = iommufd.allocIoas();
    expect(next.id).toBe(id);
    next.map(memory(0x1000), { iova: 0x5000 });
    ioas[Symbol.dispose]();
    expect(next.unmap(0x5000, 0x1000)).toBe(0x1000n);
  });

  test('a mapping can not be altered', () => {
    const mapping = ioas.map(memory(0x1000), { iova: 0x5000 });
    expect(() => Object.assign(mapping, { iova: 0n })).toThrow(TypeError);
    expect(() => Object.assign(mapping, { length: 1n })).toThrow(TypeError);
    mapping[Symbol.dispose]();
    expect(ioas.mappings()).toEqual([]);
  });
});

describe('allowed ranges', () => {
  test('limit the choice of the kernel, not that of the caller (17)', () => {
    ioas.allowIovas([{ start: 0x100000, last: 0x1fffff }]);
    expect(ioas.map(memory(0x1000)).iova).toBe(0x100000n);
    expect(ioas.map(memory(0x1000), { iova: 0x5000 }).iova).toBe(0x5000n);
  });

  test('that are full: ENOSPC, with the reason (25)', () => {
    ioas.allowIovas([{ start: 0x100000, last: 0x100fff }]);
    ioas.map(memory(0x1000));
    expect(() => ioas.map(memory(0x1000))).toThrow(
      expect.objectContaining({ code: 'ENOSPC', reason: expect.stringContaining('no free range') }),
    );
  });

  test('of one address, or overlapping, are EINVAL, and the earlier list stays (15, 16)', () => {
    ioas.allowIovas([{ start: 0x100000, last: 0x1fffff }]);
    expect(() => ioas.allowIovas([{ start: 5, last: 5 }])).toThrow(code('EINVAL'));
    expect(() =>
      ioas.allowIovas([
        { start: 0, last: 0x2000 },
        { start: 0x1000, last: 0x3000 },
      ]),
    ).toThrow(code('EINVAL'));
    expect(ioas.map(memory(0x1000)).iova).toBe(0x100000n);
    ioas.allowIovas([]);
    expect(ioas.map(memory(0x1000)).iova).toBe(0x1000n);
  });

  test('that touch each other are fine (15)', () => {
    ioas.allowIovas([
      { start: 0x1000, last: 0x1fff },
      { start: 0x2000, last: 0x2fff },
    ]);
    expect(ioas.iovaRanges().ranges).toHaveLength(1);
  });
});

describe('options', () => {
  test('huge pages can be switched off: then pages are the alignment (47)', () => {
    expect(ioas.hugePages).toBe(true);
    ioas.hugePages = false;
    expect(ioas.hugePages).toBe(false);
    expect(ioas.iovaRanges().alignment).toBe(4096n);
    expect(() => ioas.map(memory(0x1000).slice(1, 1))).toThrow(code('EINVAL'));
    ioas.hugePages = true;
    expect(ioas.iovaRanges().alignment).toBe(1n);
  });

  test('huge pages can not be switched off over a misaligned mapping (47)', () => {
    ioas.map(memory(0x1000).slice(1, 1));
    expect(() => {
      ioas.hugePages = false;
    }).toThrow(code('EADDRINUSE'));
    expect(ioas.hugePages).toBe(true);
  });

  test('the charging of pinned memory can be chosen before the first object only (35)', (ctx) => {
    expect(iommufd.rlimitMode).toBe('user');
    // Without CAP_SYS_RESOURCE (bit 24) the kernel refuses before it checks this.
    const capabilities = /^CapEff:\s+([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    const may = ((BigInt(`0x${capabilities}`) >> 24n) & 1n) === 1n;
    expect(() => {
      iommufd.rlimitMode = 'process';
    }).toThrow(code(may ? 'EBUSY' : 'EPERM'));
    if (!may) ctx.skip('choosing needs CAP_SYS_RESOURCE, which this process has not');
    using fresh = host.openIommufd();
    fresh.rlimitMode = 'process';
    expect(fresh.rlimitMode).toBe('process');
  });
});

describe('with a device attached', () => {
  let device: VfioDevice;
  beforeEach(async () => {
    await host.device(EDU).bind();
    device = host.openDevice(EDU);
    device.bind(iommufd);
    device.attach(ioas);
  });

  test('the MSI window and addresses that the IOMMU can not translate are not usable, the alignment is the page size (13)', () => {
    expect(ioas.iovaRanges()).toEqual({
      ranges: [
        { start: 0n, last: 0xfedfffffn },
        { start: 0xfef00000n, last: 2n ** 48n - 1n },
      ],
      alignment: 4096n,
    });
  });

  test('a reserved range is EINVAL, and the error names it (19, 22)', () => {
    expect(() => ioas.map(memory(0x2000), { iova: 0xfedff000n })).toThrow(
      expect.objectContaining({
        code: 'EINVAL',
        reason: '[0xfedff000, 0xfee00fff] touches the reserved range [0xfee00000, 0xfeefffff]',
      }),
    );
    expect(() => ioas.map(memory(0x1000), { iova: 2n ** 48n })).toThrow(code('EINVAL'));
  });

  test('what is not aligned to pages is EINVAL, and the error says what (26)', () => {
    const buffer = memory(0x2000);
    expect(() => ioas.map(buffer, { iova: 0x10010 })).toThrow(
      expect.objectContaining({ code: 'EINVAL', reason: expect.stringContaining('iova 0x10010') }),
    );
    expect(() => ioas.map(buffer.slice(0, 0x800))).toThrow(
      expect.objectContaining({ code: 'EINVAL', reason: expect.stringContaining('length 0x800') }),
    );
    expect(() => ioas.map(buffer.slice(0x10, 0x1000))).toThrow(code('EINVAL'));
  });

  test('an address space in use can not be destroyed (6), nor can a bound device (7)', () => {
    expect(() => iommufd.destroy(ioas.id)).toThrow(code('EBUSY'));
    expect(() => iommufd.destroy(device.id ?? 0)).toThrow(code('EBUSY'));
  });

  test('detaching makes the ranges usable again, and destroys the automatic page table (14, 49)', () => {
    const table = device.attach(ioas);
    device.detach();
    expect(ioas.iovaRanges()).toEqual({ ranges: [{ start: 0n, last: 2n ** 64n - 1n }], alignment: 1n });
    expect(() => iommufd.destroy(table)).toThrow(code('ENOENT'));
    device.detach();
  });

  test('a mapping in the way of the MSI window makes the attach fail: EADDRINUSE (19)', () => {
    const other = iommufd.allocIoas();
    other.map(memory(0x1000), { iova: 0xfee00000n });
    expect(() => device.attach(other)).toThrow(code('EADDRINUSE'));
    // The device is still attached to the old page table (52).
    expect(ioas.iovaRanges().alignment).toBe(4096n);
  });

  test('an allowed range in the way does too (18), and so does a mapping of bytes (27)', () => {
    const allowed = iommufd.allocIoas();
    allowed.allowIovas([{ start: 0xfe000000, last: 0xffffffff }]);
    expect(() => device.attach(allowed)).toThrow(code('EADDRINUSE'));
    const bytes = iommufd.allocIoas();
    bytes.map(memory(0x1000).slice(1, 1));
    expect(() => device.attach(bytes)).toThrow(code('EADDRINUSE'));
  });

  test('memory that does not exist is EFAULT now, but was accepted before a page table existed (28)', () => {
    const nowhere = DmaBuffer.unsafeFromAddress(0x10000, 0x1000);
    const lazy = iommufd.allocIoas();
    lazy.map(nowhere);
    expect(() => device.attach(lazy)).toThrow(code('EFAULT'));
    expect(() => ioas.map(nowhere)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(ioas.mappings()).toEqual([]);
    nowhere[Symbol.dispose]();
  });

  test('a second device in another group gets the same page table (48)', async () => {
    const [bdf] = GROUP_OF_TWO;
    for (const each of GROUP_OF_TWO) await host.device(each).bind();
    using second = host.openDevice(bdf);
    second.bind(iommufd);
    expect(second.attach(ioas)).toBe(device.attach(ioas));
  });

  test('huge pages can not be switched off with a mapping in a page table (47)', () => {
    ioas.map(memory(0x1000));
    expect(() => {
      ioas.hugePages = false;
    }).toThrow(code('EINVAL'));
  });

  test('an id of a wrong kind is EINVAL or ENOENT, never a crash (53)', () => {
    const gone = iommufd.allocIoas();
    const { id } = gone;
    gone[Symbol.dispose]();
    expect(iommufd.allocIoas().id).toBe(id);
  });

  test('mapAsync maps off the event loop as map does on it', async () => {
    using mapping = await ioas.mapAsync(memory(8 << 20));
    expect(mapping.length).toBe(8n << 20n);
    expect(mapping.iova % (2n << 20n)).toBe(0n);
    await expect(ioas.mapAsync(memory(0x1000), { iova: mapping.iova })).rejects.toThrow(code('EEXIST'));
  });
});
