/** Memory that is mapped from a file (IOMMU_IOAS_MAP_FILE, Linux 6.13). The guest's kernel does not have this request. */
import { closeSync, ftruncateSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DmaBuffer, type Host, type Ioas, type Iommufd, type VfioDevice } from '../lib/index.ts';
import { needs, openHost } from './support/backends.ts';
import type { Edu } from './support/edu.ts';
import { bound } from './support/iommu.ts';

const PATH = `/dev/shm/vfio-map-file-${process.pid}`;
let host: Host;
let iommufd: Iommufd;
let device: VfioDevice;
let edu: Edu;
let ioas: Ioas;
let fd: number;

beforeEach(async (ctx) => {
  needs(ctx, {
    backends: ['software'],
    because: 'Linux 6.12 has no IOMMU_IOAS_MAP_FILE (kernel-level.test.ts)',
  });
  host = openHost();
  ({ iommufd, device, edu } = await bound(host));
  ioas = iommufd.allocIoas();
  device.attach(ioas);
  fd = openSync(PATH, 'w+');
  ftruncateSync(fd, 0x10000);
  return () => {
    closeSync(fd);
    rmSync(PATH);
  };
});
afterEach(() => host?.[Symbol.dispose]());

test("a device reads and writes the file's pages, with nothing of it mapped in the process", async () => {
  const mapping = ioas.mapFile(fd, { offset: 0x1000, length: 0x2000 });
  expect(mapping.length).toBe(0x2000n);
  writeSync(fd, Buffer.from('by file'), 0, 7, 0x1000);
  await edu.fetch(mapping.iova, 7);
  await edu.store(mapping.iova + 0x1000n, 7);
  const back = Buffer.alloc(7);
  readSync(fd, back, 0, 7, 0x2000);
  expect(back.toString()).toBe('by file');
});

test('it is a mapping like any other: listed, copied, unmapped, and not cut', () => {
  const mapping = ioas.mapFile(fd, { offset: 0, length: 0x4000, iova: 0x100000, write: false });
  expect(ioas.mappings()).toEqual([{ iova: 0x100000n, length: 0x4000n, writable: false }]);
  const other = iommufd.allocIoas();
  expect(other.copy(mapping).length).toBe(0x4000n);
  expect(() => ioas.unmap(0x100000, 0x1000)).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  mapping[Symbol.dispose]();
  mapping[Symbol.dispose]();
  expect(ioas.mappings()).toEqual([]);
  expect(other.unmapAll()).toBe(0x4000n);
});

test('a file that is not of memory is EINVAL, an overlap is EEXIST, with reasons', () => {
  const ordinary = openSync(new URL(import.meta.url), 'r');
  try {
    expect(() => ioas.mapFile(ordinary, { offset: 0, length: 4096 })).toThrow(
      expect.objectContaining({ code: 'EINVAL', reason: expect.stringMatching(/neither of memory/) }),
    );
  } finally {
    closeSync(ordinary);
  }
  ioas.mapFile(fd, { offset: 0, length: 0x1000, iova: 0x100000 });
  expect(() => ioas.mapFile(fd, { offset: 0, length: 0x1000, iova: 0x100000 })).toThrow(
    expect.objectContaining({ code: 'EEXIST', reason: expect.stringMatching(/overlaps the mapping/) }),
  );
});

test('its charge can be moved to this process, unless something is mapped by address', () => {
  ioas.mapFile(fd, { offset: 0, length: 0x1000 });
  iommufd.changeProcess();
  using memory = DmaBuffer.alloc(4096);
  ioas.map(memory);
  expect(() => iommufd.changeProcess()).toThrow(expect.objectContaining({ code: 'EINVAL' }));
});
