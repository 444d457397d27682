/**
 * The address space as a driver uses it, by each way to one: an Ioas, a container of type1 (both versions), and a container's
 * requests on an iommufd. Where the kernel's answers differ, `mode` and docs/groups.md say so. The other rules of an Ioas are in
 * ioas.test.ts, those of a container in groups.test.ts and container.test.ts. Numbers are behaviours of docs/behaviours.md.
 */
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { native } from '../lib/addon/native.ts';
import { DmaBuffer, type DmaSpace, Host, type VfioDevice } from '../lib/index.ts';
import { EDU, guestIommu, needs, openHost } from './support/backends.ts';
import { BUFFER, Edu } from './support/edu.ts';

interface Mode {
  readonly name: string;
  readonly open: (host: Host) => { device: VfioDevice; dma: DmaSpace & { mappings(): { iova: bigint }[] } };
  /** The error code for a range that wraps. */
  readonly wraps: string;
  /** The result of an unmap where nothing is mapped: a number of bytes, or an error code. */
  readonly nothing: bigint | string;
  /**
   * The effect of an unmap whose range ends in the middle of the second of three mappings, of two pages each: the answer, and
   * the mappings that are left.
   */
  readonly cut: { readonly answer: bigint | string; readonly left: readonly number[] };
  /** The result of unmapping the second page of a mapping of two. */
  readonly inside: bigint | string;
}

const container = (type: 'type1' | 'type1v2') => (host: Host) => {
  const made = host.openContainer();
  const group = host.openGroup(host.device(EDU).group ?? -1);
  group.setContainer(made);
  made.setIommu(type);
  return { device: group.openDevice(EDU), dma: made };
};
const emulation = (type: 'type1' | 'type1v2') => (host: Host) => {
  const iommufd = host.openIommufd();
  const group = host.openGroup(host.device(EDU).group ?? -1);
  group.setContainer(iommufd);
  const made = iommufd.container();
  made.setIommu(type);
  return { device: group.openDevice(EDU), dma: made };
};

const modes: readonly Mode[] = [
  {
    name: 'iommufd',
    open: (host) => {
      const { device, dma } = host.attach(EDU, { via: 'cdev' });
      return { device, dma };
    },
    wraps: 'EOVERFLOW',
    nothing: 'ENOENT',
    cut: { answer: 'ENOENT', left: [0x20000, 0x30000] },
    inside: 'ENOENT',
  },
  {
    name: 'type1v2',
    open: container('type1v2'),
    wraps: 'EINVAL',
    nothing: 0n,
    cut: { answer: 'EINVAL', left: [0x10000, 0x20000, 0x30000] },
    inside: 'EINVAL',
  },
  {
    name: 'type1',
    open: container('type1'),
    wraps: 'EINVAL',
    nothing: 0n,
    cut: { answer: 0x4000n, left: [0x30000] },
    inside: 0n,
  },
  {
    name: 'type1v2 on an iommufd',
    open: emulation('type1v2'),
    wraps: 'EOVERFLOW',
    nothing: 0n,
    cut: { answer: 'ENOENT', left: [0x20000, 0x30000] },
    inside: 'ENOENT',
  },
  {
    name: 'type1 on an iommufd',
    open: emulation('type1'),
    wraps: 'EOVERFLOW',
    nothing: 0n,
    // The second page of the second mapping is still mapped, so its memory is kept.
    cut: { answer: 0x3000n, left: [0x21000, 0x30000] },
    inside: 0x1000n,
  },
];

const code = (expected: string, reason = '') =>
  expect.objectContaining({
    code: expected,
    ...(reason === '' ? {} : { reason: expect.stringContaining(reason) }),
  });

describe.each(modes)('$name', (mode) => {
  let host: Host;
  let device: VfioDevice;
  let dma: ReturnType<Mode['open']>['dma'];
  const buffers: DmaBuffer[] = [];
  const memory = (size: number) => {
    const buffer = DmaBuffer.alloc(size);
    buffers.push(buffer);
    return buffer;
  };

  needs({ guest: ['intel', 'amd', 'virtio'], because: 'the other has no IOMMU, so no group' });

  beforeEach(async () => {
    host = openHost();
    await host.device(EDU).bind();
    ({ device, dma } = mode.open(host));
  });
  afterEach(() => {
    host[Symbol.dispose]();
    for (const buffer of buffers.splice(0)) buffer[Symbol.dispose]();
  });

  test('D1: the device can access mapped memory, as the mapping allows, until it is unmapped', async () => {
    const edu = new Edu(device);
    const buffer = memory(8192);
    buffer.write(0, Buffer.from('out and back'));
    const out = dma.map(buffer.slice(0, 4096), { write: false });
    const back = dma.map(buffer.slice(4096, 4096));
    await edu.fetch(out.iova, 12);
    await edu.store(back.iova, 12);
    expect(Buffer.from(buffer.bytes.subarray(4096, 4108)).toString()).toBe('out and back');
    await edu.store(out.iova, 4, 2); // for reading only
    back[Symbol.dispose]();
    edu.start(BUFFER + 4n, back.iova, 4, true);
    await edu.idle();
    expect(Buffer.from(buffer.bytes.subarray(0, 12)).toString()).toBe('out and back');
    expect(Buffer.from(buffer.bytes.subarray(4096, 4108)).toString()).toBe('out and back');
  });

  test('the ranges do not include reserved ones; the alignment is the page size (13, 110)', () => {
    const { ranges, alignment } = dma.iovaRanges();
    expect(alignment).toBe(4096n);
    if (guestIommu === null || guestIommu === 'intel')
      expect(ranges).toEqual([
        { start: 0n, last: 0xfedfffffn },
        { start: 0xfef00000n, last: 2n ** 48n - 1n },
      ]);
    const window = ranges.find((each, i) => i > 0 && each.start > 0n);
    if (window === undefined) return; // this IOMMU reserves nothing in the middle
    expect(() => dma.map(memory(0x2000), { iova: window.start - 0x1000n })).toThrow(
      code('EINVAL', 'touches the reserved range'),
    );
  });

  test('a fixed range that overlaps is EEXIST, and the error names the mapping (22)', () => {
    dma.map(memory(0x2000), { iova: 0x10000 });
    expect(() => dma.map(memory(0x1000), { iova: 0x11000 })).toThrow(
      code('EEXIST', '[0x11000, 0x11fff] overlaps the mapping [0x10000, 0x11fff]'),
    );
    expect(dma.mappings()).toEqual([{ iova: 0x10000n, length: 0x2000n, writable: true }]);
  });

  test('what is not aligned to pages is EINVAL, and the error says what (26)', () => {
    const buffer = memory(0x2000);
    expect(() => dma.map(buffer, { iova: 0x10010 })).toThrow(code('EINVAL', 'iova 0x10010'));
    expect(() => dma.map(buffer.slice(0, 0x800))).toThrow(code('EINVAL', 'length 0x800'));
    expect(() => dma.map(buffer.slice(0x10, 0x1000))).toThrow(code('EINVAL'));
    expect(dma.mappings()).toEqual([]);
  });

  test(`a range that wraps is ${mode.wraps} (21)`, () => {
    expect(() => dma.map(memory(0x2000), { iova: 2n ** 64n - 0x1000n })).toThrow(code(mode.wraps));
    expect(() => dma.unmap(2n ** 64n - 0x1000n, 0x2000)).toThrow(code(mode.wraps));
  });

  test('memory that does not exist is EFAULT, and nothing stays mapped (28)', () => {
    using nowhere = DmaBuffer.unsafeFromAddress(0x10000, 0x1000);
    expect(() => dma.map(nowhere)).toThrow(code('EFAULT'));
    expect(() => dma.map(nowhere, { iova: 0x10000 })).toThrow(code('EFAULT'));
    expect(dma.mappings()).toEqual([]);
    expect(dma.map(memory(4096), { iova: 0x10000 }).iova).toBe(0x10000n);
  });

  test('a chosen range is usable, never 0, free, and aligned so that huge pages can be used (23, 24)', () => {
    const { ranges } = dma.iovaRanges();
    dma.map(memory(0x3000), { iova: 0x2000 });
    for (const size of [0x1000, 0x3000, 2 << 20, 0x1000, 6 << 20, 0x2000]) dma.map(memory(size));
    const found = dma.mappings() as { iova: bigint; length: bigint }[];
    let end = 0n;
    for (const { iova, length } of found) {
      expect(iova).toBeGreaterThanOrEqual(end);
      expect(iova).toBeGreaterThan(0n);
      end = iova + length;
      expect(ranges.some((each) => each.start <= iova && each.last >= end - 1n)).toBe(true);
      if (length >= 2n << 20n) expect(iova % (2n << 20n)).toBe(0n);
    }
    expect(found).toHaveLength(7);
  });

  test('a freed range is used again', () => {
    const first = dma.map(memory(0x1000));
    dma.map(memory(0x1000));
    first[Symbol.dispose]();
    expect(dma.map(memory(0x1000)).iova).toBe(first.iova);
  });

  test('unmapping takes every mapping in a larger range and says how many bytes that were (41)', () => {
    dma.map(memory(0x1000), { iova: 0x10000 });
    dma.map(memory(0x2000), { iova: 0x20000 });
    expect(dma.unmap(0x8000, 0x30000)).toBe(0x3000n);
    expect(dma.mappings()).toEqual([]);
    dma.map(memory(0x5000));
    expect(dma.unmapAll()).toBe(0x5000n);
    expect(dma.unmapAll()).toBe(0n);
  });

  test(`an unmap where nothing is mapped gives ${mode.nothing} (43, 70), one of length 0 EINVAL (44)`, () => {
    if (typeof mode.nothing === 'string')
      expect(() => dma.unmap(0x1000, 0x1000)).toThrow(code(mode.nothing, 'nothing is mapped'));
    else expect(dma.unmap(0x1000, 0x1000)).toBe(mode.nothing);
    expect(() => dma.unmap(0x1000, 0)).toThrow(code('EINVAL'));
  });

  test(`a range that ends inside of a mapping is ${mode.cut.answer} (42, 107)`, () => {
    for (const iova of [0x10000, 0x20000, 0x30000]) dma.map(memory(0x2000), { iova });
    const { answer, left } = mode.cut;
    if (typeof answer === 'string')
      expect(() => dma.unmap(0x10000, 0x11000)).toThrow(code(answer, '[0x20000, 0x21fff]'));
    else expect(dma.unmap(0x10000, 0x11000)).toBe(answer);
    expect(dma.mappings().map((each) => Number(each.iova))).toEqual(left);
    // Checks it in the kernel: unmapped ranges can be mapped again, the others can't.
    for (const iova of [0x10000, 0x30000])
      if (left.includes(iova)) expect(() => dma.map(memory(0x1000), { iova })).toThrow(code('EEXIST'));
      else expect(dma.map(memory(0x1000), { iova }).iova).toBe(BigInt(iova));
  });

  test(`a range inside of a mapping is ${mode.inside} (42, 107)`, () => {
    dma.map(memory(0x2000), { iova: 0x10000 });
    if (typeof mode.inside === 'string')
      expect(() => dma.unmap(0x11000, 0x1000)).toThrow(code(mode.inside, '[0x10000, 0x11fff]'));
    else expect(dma.unmap(0x11000, 0x1000)).toBe(mode.inside);
    expect(dma.mappings()).toHaveLength(1);
    expect(dma.unmapAll()).toBe(mode.inside === 0x1000n ? 0x1000n : 0x2000n);
    expect(dma.mappings()).toEqual([]);
  });

  test('neither read nor write is EINVAL (20, 71)', () => {
    const none = { iova: 0x10000, read: false, write: false };
    // In the emulations the IOMMU's driver decides (71), and only virtio's accepts such mappings.
    if (guestIommu === 'virtio' && mode.name.endsWith('on an iommufd')) {
      expect(dma.map(memory(0x1000), none).iova).toBe(0x10000n);
      return;
    }
    expect(() => dma.map(memory(0x1000), none)).toThrow(code('EINVAL'));
    expect(dma.mappings()).toEqual([]);
  });

  test('mapAsync maps off the event loop as map does on it, and their places do not overlap', async () => {
    const made = await Promise.all(
      [2 << 20, 0x1000, 0x1000, 0x3000].map((size) => dma.mapAsync(memory(size))),
    );
    expect(dma.mappings()).toHaveLength(4);
    const [first] = made;
    await expect(dma.mapAsync(memory(0x1000), { iova: first?.iova ?? 0n })).rejects.toThrow(code('EEXIST'));
    for (const each of made) each[Symbol.dispose]();
    expect(dma.mappings()).toEqual([]);
  });

  test('a mapAsync whose range is unmapped before it resolves is rejected, and a later mapping stays', async () => {
    native.schedule.hold();
    onTestFinished(() => native.schedule.release());
    const pending = dma.mapAsync(memory(0x1000), { iova: 0x5000 });
    native.schedule.run(0);
    expect(dma.mappings()).toHaveLength(1);
    expect(dma.unmapAll()).toBe(0x1000n);
    using later = dma.map(memory(0x1000), { iova: 0x5000 });
    native.schedule.deliver(0);
    await expect(pending).rejects.toThrow(code('ECANCELED'));
    expect(later.iova).toBe(0x5000n);
    expect(dma.mappings()).toHaveLength(1);
  });

  test('an unmap does not end a mapAsync that the kernel has not begun', async () => {
    native.schedule.hold();
    onTestFinished(() => native.schedule.release());
    const pending = dma.mapAsync(memory(0x1000), { iova: 0x5000 });
    expect(dma.unmapAll()).toBe(0n);
    native.schedule.run(0);
    native.schedule.deliver(0);
    expect((await pending).iova).toBe(0x5000n);
    expect(dma.unmapAll()).toBe(0x1000n);
  });

  test('a mapping keeps its memory: the buffer may be disposed while the device uses it', async () => {
    const edu = new Edu(device);
    const source = memory(4096);
    source.write(0, Buffer.from('kept'));
    const kept = dma.map(source);
    source[Symbol.dispose]();
    const target = memory(4096);
    const { iova } = dma.map(target);
    await edu.fetch(kept.iova, 4);
    await edu.store(iova, 4);
    expect(Buffer.from(target.bytes.subarray(0, 4)).toString()).toBe('kept');
  });
});

test('in an emulation the IOMMU decides whether a mapping may allow neither read nor write (71)', (ctx) => {
  needs(ctx, {
    backends: ['software'],
    because: 'it chooses the IOMMU; in the guests the tests of each mode ask theirs',
  });
  for (const [kind, takes] of [
    ['virtio', true],
    ['vtd', false],
    ['amd', false],
  ] as const) {
    using host = Host.open({
      backend: 'software',
      software: {
        topology: {
          iommus: [{ kind, isolatesInterrupts: true }],
          devices: [{ model: 'edu', bdf: EDU, driver: 'vfio-pci' }],
        },
      },
    });
    const { dma } = emulation('type1v2')(host);
    using buffer = DmaBuffer.alloc(4096);
    const map = () => dma.map(buffer, { iova: 0x10000, read: false, write: false });
    if (takes) expect(map().iova).toBe(0x10000n);
    else expect(map).toThrow(code('EINVAL'));
  }
});
