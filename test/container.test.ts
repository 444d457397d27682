/**
 * The requests of a VFIO container on an iommufd (requirement D4: the same results as on a container), on both backends. Numbers
 * are behaviours of docs/behaviours.md.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Container, DmaBuffer, type Host, type Ioas, type Iommufd } from '../lib/index.ts';
import { guestIommu, openHost } from './support/backends.ts';
import { bound } from './support/iommu.ts';

let host: Host;
let iommufd: Iommufd;
let container: Container;
let ioas: Ioas;
const buffers: DmaBuffer[] = [];
const memory = (size: number) => {
  const buffer = DmaBuffer.alloc(size);
  buffers.push(buffer);
  return buffer;
};
const code = (expected: string, reason = /./) =>
  expect.objectContaining({ code: expected, reason: expect.stringMatching(reason) });

beforeEach(() => {
  host = openHost();
  iommufd = host.openIommufd();
  container = iommufd.container();
  ioas = iommufd.allocIoas();
});
afterEach(() => {
  host[Symbol.dispose]();
  for (const buffer of buffers.splice(0)) buffer[Symbol.dispose]();
});

describe('without a compatibility IOAS', () => {
  test('requests that need none succeed, the others are ENODEV and say what to do (D4, 69)', () => {
    expect(iommufd.vfioCompatIoas).toBeNull();
    expect(container.apiVersion).toBe(0);
    expect(container.iommuType).toBeNull();
    expect(container.supports('type1v2')).toBe(true);
    const missing = expect.objectContaining({
      code: 'ENODEV',
      reason: 'the iommufd has no compatibility IOAS',
      hint: expect.stringContaining('vfioCompatIoas'),
    });
    for (const call of [
      () => container.supports('dma-cc'),
      () => container.setIommu('type1v2'),
      () => container.info(),
      () => container.iovaRanges(),
      () => container.map(memory(4096), { iova: 0x1000 }),
      () => container.unmap(0x1000, 4096),
      () => container.unmapAll(),
      () => container.mappings(),
    ])
      expect(call).toThrow(missing);
    // An iommufd has no such type of IOMMU, with an IOAS or without.
    expect(() => container.setIommu('noiommu')).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  test('it is set, asked for and cleared; destroying the Ioas clears it (68)', () => {
    iommufd.vfioCompatIoas = ioas;
    expect(iommufd.vfioCompatIoas).toBe(ioas);
    const other = iommufd.allocIoas();
    iommufd.vfioCompatIoas = other;
    expect(iommufd.vfioCompatIoas).toBe(other);
    iommufd.vfioCompatIoas = null;
    expect(iommufd.vfioCompatIoas).toBeNull();
    iommufd.vfioCompatIoas = other;
    other[Symbol.dispose]();
    expect(iommufd.vfioCompatIoas).toBeNull();
  });
});

describe('with one', () => {
  beforeEach(() => {
    iommufd.vfioCompatIoas = ioas;
  });

  test('it says which extensions it has, and the properties of its IOMMU (D4)', () => {
    const has = (['type1', 'type1v2', 'unmap-all', 'dma-cc'] as const).map((each) =>
      container.supports(each),
    );
    expect(has).toEqual([true, true, true, true]);
    for (const each of ['spapr-tce', 'spapr-tce-v2', 'eeh', 'type1-nesting', 'update-vaddr'] as const)
      expect(container.supports(each)).toBe(false);
    expect(container.info()).toEqual({
      pageSizes: 2n ** 64n - 4096n,
      ranges: [{ start: 0n, last: 2n ** 64n - 1n }],
      dmaAvailable: 2 ** 32 - 1,
      migration: null,
    });
    expect(container.iovaRanges().alignment).toBe(4096n);
    container.setIommu('type1v2');
    expect(container.iommuType).toBe('type1v2');
    container.setIommu('type1v2');
  });

  test('its mappings are those of the Ioas, and the other way round (D4)', () => {
    const buffer = memory(0x3000);
    const mapping = container.map(buffer, { iova: 0x10000 });
    expect([mapping.iova, mapping.length]).toEqual([0x10000n, 0x3000n]);
    expect(ioas.mappings()).toEqual([{ iova: 0x10000n, length: 0x3000n, writable: true }]);
    ioas.map(buffer, { iova: 0x20000, write: false });
    expect(container.mappings()).toEqual(ioas.mappings());
    expect(() => container.map(buffer, { iova: 0x21000 })).toThrow(
      code('EEXIST', /overlaps the mapping \[0x20000, 0x22fff\]/),
    );
    expect(ioas.unmap(0x10000, 0x3000)).toBe(0x3000n);
    expect(container.unmap(0x20000, 0x3000)).toBe(0x3000n);
    expect(ioas.mappings()).toEqual([]);
    mapping[Symbol.dispose](); // it is unmapped already: no effect
  });

  test('without an iova it chooses a free place, never 0, beside the mappings that exist', () => {
    const places = [1, 2, 1].map((pages) => container.map(memory(pages * 4096)));
    expect(places.map((each) => each.iova)).toEqual([0x1000n, 0x2000n, 0x4000n]);
    ioas.map(memory(4096), { iova: 0x5000 });
    expect(container.map(memory(4096)).iova).toBe(0x6000n);
    places[1]?.[Symbol.dispose]();
    ioas.map(memory(4096), { iova: 0x7000 });
    // The next place, 0x7000, is occupied: the lowest free one is chosen.
    expect(container.map(memory(8192)).iova).toBe(0x2000n);
    expect(container.mappings().reduce((sum, each) => sum + each.length, 0n)).toBe(0x7000n);
  });

  test('mapAsync does the same as map, off the event loop', async () => {
    const [first, second] = await Promise.all([
      container.mapAsync(memory(4096), { iova: 0x8000 }),
      container.mapAsync(memory(4096), { iova: 0x9000, write: false }),
    ]);
    expect([first.iova, second.iova]).toEqual([0x8000n, 0x9000n]);
    expect((await container.mapAsync(memory(4096))).iova).toBe(0x1000n);
    await expect(container.mapAsync(memory(4096), { iova: 0x8000 })).rejects.toMatchObject({
      code: 'EEXIST',
    });
    expect(container.mappings().map((each) => each.writable)).toEqual([true, true, false]);
  });

  test('neither read nor write is accepted, where an Ioas refuses it (71)', () => {
    const none = { iova: 0x1000, read: false, write: false };
    expect(container.map(memory(4096), none).length).toBe(4096n);
    expect(() => ioas.map(memory(4096), { ...none, iova: 0x4000 })).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
  });

  test('an unmap where nothing is mapped gives 0n; one that cuts a mapping is ENOENT, and unmaps those below it (70)', () => {
    container.map(memory(4096), { iova: 0x1000 });
    container.map(memory(8192), { iova: 0x2000 });
    expect(container.unmap(0x100000, 0x1000)).toBe(0n);
    expect(() => container.unmap(0x1000, 0x2000)).toThrow(
      code('ENOENT', /cuts the mapping \[0x2000, 0x3fff\]/),
    );
    expect(container.mappings()).toEqual([{ iova: 0x2000n, length: 0x2000n, writable: true }]);
    expect(container.unmapAll()).toBe(0x2000n);
    expect(container.unmapAll()).toBe(0n);
  });

  test('type1 of the first version cuts mappings, and keeps their memory until all of it is unmapped', async () => {
    container.setIommu('type1');
    const buffer = memory(0x3000);
    const whole = container.map(buffer, { iova: 0x10000 });
    expect(container.unmap(0x11000, 0x1000)).toBe(0x1000n);
    const middle = container.map(memory(4096), { iova: 0x11000 });
    expect(() => container.map(memory(4096), { iova: 0x12000 })).toThrow(
      expect.objectContaining({ code: 'EEXIST' }),
    );
    middle[Symbol.dispose]();
    expect(container.unmap(0x10000, 0x1000)).toBe(0x1000n);
    // Another mapping where the cut one began.
    const first = container.map(memory(4096), { iova: 0x10000 });
    expect(first.iova).toBe(whole.iova);
    expect(container.unmapAll()).toBe(0x2000n);
    expect(ioas.mappings()).toEqual([]);
    expect(ioas.hugePages).toBe(false);
  });

  test('dirty pages are told by page tables, not by the container', () => {
    for (const call of [
      () => container.startDirtyTracking(),
      () => container.stopDirtyTracking(),
      () => container.dirtyBitmap(0, 4096, { pageSize: 4096 }),
    ])
      expect(call).toThrow(code('ENOTTY', /by page table/));
  });

  test('disposing it unmaps nothing: the mappings are those of the Ioas', () => {
    const mapping = container.map(memory(4096), { iova: 0x1000 });
    container[Symbol.dispose]();
    expect(ioas.mappings()).toHaveLength(1);
    mapping[Symbol.dispose]();
    expect(ioas.mappings()).toEqual([]);
    expect(() => container.info()).toThrow(expect.objectContaining({ code: 'ERR_VFIO_DISPOSED' }));
  });

  test('when another Ioas is set, it has its own mappings, and the first one keeps the memory of its own', () => {
    const mapping = container.map(memory(4096), { iova: 0x1000 });
    const other = iommufd.allocIoas();
    iommufd.vfioCompatIoas = other;
    expect(container.mappings()).toEqual([]);
    container.map(memory(8192), { iova: 0x1000 });
    expect(container.unmapAll()).toBe(0x2000n);
    expect(ioas.mappings()).toEqual([{ iova: 0x1000n, length: 0x1000n, writable: true }]);
    mapping[Symbol.dispose]();
    expect(ioas.mappings()).toEqual([]);
  });
});

test('a device does DMA through what a container mapped (D4)', async () => {
  const { iommufd, device, edu } = await bound(host);
  const space = iommufd.allocIoas();
  device.attach(space);
  iommufd.vfioCompatIoas = space;
  const container = iommufd.container();
  container.setIommu('type1v2');
  const { ranges, pageSizes } = container.info();
  expect(pageSizes & 4096n).toBe(4096n);
  // On x86 the interrupts' address range is reserved, as the IOMMU's driver says.
  if (guestIommu === null || guestIommu === 'intel')
    expect(ranges.some(({ start, last }) => start <= 0xfee00000n && last >= 0xfee00000n)).toBe(false);
  const buffer = memory(8192);
  const { iova } = container.map(buffer);
  buffer.write(0, Buffer.from('through a container'));
  await edu.fetch(iova, 19);
  await edu.store(iova + 4096n, 19);
  expect(Buffer.from(buffer.bytes.subarray(4096, 4096 + 19)).toString()).toBe('through a container');
});
