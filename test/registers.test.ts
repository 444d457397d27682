/**
 * Register accesses as the device sees them: QEMU logs every access that reaches a device's registers, with its address, width
 * and value. Each call must be one line of the log: never split, merged, repeated or dropped.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { MappedRegion } from '../lib/index.ts';
import { EDU, IVSHMEM, NVME, needs, openHost, PCI_TESTDEV } from './support/backends.ts';
import { monitor } from './support/qemu.ts';

const kernelOnly = { backends: ['kernel'] as const, because: 'it asks QEMU what reached the device' };

/** QEMU's log of `run`: one entry for each access to BAR0 of the device. */
async function traced(bdf: string, run: (bar: MappedRegion) => void): Promise<string[]> {
  using host = openHost();
  await host.device(bdf).bind();
  using user = host.attach(bdf);
  using bar = user.device.region('bar0').mmap();
  const base = BigInt((user.device.config.read32(0x10) & ~0xf) >>> 0);
  await monitor('trace-event memory_region_ops_read on');
  await monitor('trace-event memory_region_ops_write on');
  const log = join(process.env['VFIO_GUEST_SHARE'] ?? '', 'qemu.log');
  const before = readFileSync(log).length;
  try {
    run(bar);
    await sleep(200);
  } finally {
    await monitor('trace-event memory_region_ops_read off');
    await monitor('trace-event memory_region_ops_write off');
  }
  const lines = readFileSync(log).subarray(before).toString().split('\n');
  const accesses: string[] = [];
  for (const line of lines) {
    const match = /memory_region_ops_(read|write) .*?addr (0x[0-9a-f]+) value (0x[0-9a-f]+) size (\d)/.exec(
      line,
    );
    if (!match) continue;
    const [, kind, address = '0', value = '0', size] = match;
    const offset = BigInt(address) - base;
    if (offset >= 0n && offset < 1n << 20n)
      accesses.push(
        `${kind}${Number(size) * 8} +0x${offset.toString(16)}${kind === 'write' ? ` ${value}` : ''}`,
      );
  }
  return accesses;
}

test('each accessor call is one bus access of its width, in order, on a mapped BAR', async (ctx) => {
  needs(ctx, kernelOnly);
  const seen = await traced(EDU, (bar) => {
    bar.write32(0x04, 0x11223344);
    bar.read32(0x04);
    bar.read32(0x00);
    bar.write64(0x80, 0x1122334455667788n);
    bar.read64(0x80);
  });
  expect(seen).toEqual([
    'write32 +0x4 0x11223344',
    'read32 +0x4',
    'read32 +0x0',
    'write64 +0x80 0x1122334455667788',
    'read64 +0x80',
  ]);
});

test('the same register read a hundred times is a hundred reads, also when nobody looks at the result', async (ctx) => {
  needs(ctx, kernelOnly);
  const seen = await traced(EDU, (bar) => {
    for (let i = 0; i < 100; i++) bar.read32(0x20);
  });
  expect(seen).toEqual(Array(100).fill('read32 +0x20'));
});

test('the same value written ten thousand times arrives ten thousand times, whatever the engine optimises', async (ctx) => {
  needs(ctx, kernelOnly);
  const seen = await traced(EDU, (bar) => {
    for (let i = 0; i < 10_000; i++) bar.write32(0x04, 7);
  });
  expect(seen.length).toBe(10_000);
  expect(new Set(seen)).toEqual(new Set(['write32 +0x4 0x7']));
});

test('accesses of 8 bits: pci-testdev counts the writes that it was told to expect', async (ctx) => {
  needs(ctx, kernelOnly);
  const seen = await traced(PCI_TESTDEV, (bar) => {
    bar.write8(0, 0);
    const offset = bar.read32(4);
    const data = bar.read8(8);
    const before = bar.read8(12);
    for (let i = 0; i < 5; i++) bar.write8(offset, data);
    expect(bar.read8(12) - before).toBe(5);
  });
  expect(seen.filter((each) => each.startsWith('write'))).toHaveLength(6);
});

test('accesses of 16 bits, on an NVMe controller, whose registers take 2 to 8 bytes', async (ctx) => {
  needs(ctx, kernelOnly);
  const seen = await traced(NVME, (bar) => {
    bar.read16(0x08);
    bar.read16(0x0a);
    bar.read32(0x08);
    bar.read64(0x00);
    bar.write16(0x24, 0x1f);
  });
  expect(seen).toEqual(['read16 +0x8', 'read16 +0xa', 'read32 +0x8', 'read64 +0x0', 'write16 +0x24 0x1f']);
});

test('typed views of 32 bits: each load and store is one access', async (ctx) => {
  needs(ctx, kernelOnly);
  const seen = await traced(EDU, (bar) => {
    const words = new Uint32Array(bar.buffer);
    words[1] = 5;
    void [words[1], words[0]];
  });
  expect(seen).toEqual(['write32 +0x4 0x5', 'read32 +0x4', 'read32 +0x0']);
});

test('a memory-backed BAR keeps what is written, by accessor and by typed view alike', async () => {
  using host = openHost();
  await host.device(IVSHMEM).bind();
  using user = host.attach(IVSHMEM);
  using bar = user.device.region('bar2').mmap();
  const words = new Uint32Array(bar.buffer);
  bar.write32(0x100, 0xdeadbeef);
  expect(words[0x40]).toBe(0xdeadbeef);
  words[0x41] = 42;
  expect(bar.read32(0x104)).toBe(42);
  expect(bar.read64(0x100)).toBe(0x2adeadbeefn);
});

test('accesses that are not aligned, or outside, are refused before they reach the bus', async () => {
  using host = openHost();
  await host.device(EDU).bind();
  using user = host.attach(EDU);
  using bar = user.device.region('bar0').mmap();
  for (const wrong of [1, 2, 3, 0x100000, 0xffffe, -4, 2 ** 53, Number.NaN, 0.5])
    expect(() => bar.read32(wrong)).toThrow(/^Expected .* for offset but received/);
  expect(() => bar.write8(0, 256)).toThrow('Expected an integer from 0 to 255 for value but received 256');
  expect(() => bar.write32(0, -1)).toThrow(/^Expected .* for value/);
  expect(() => bar.write64(0, 2n ** 64n)).toThrow(/^Expected .* for value/);
});

test('part of a BAR can be mapped: offsets count from its start', async () => {
  using host = openHost();
  await host.device(EDU).bind();
  using user = host.attach(EDU);
  using part = user.device.region('bar0').mmap({ offset: 0x1000, length: 0x2000 });
  expect(part.length).toBe(0x2000);
  expect(() => part.read32(0x2000)).toThrow('Expected a multiple of 4 below 8192 for offset');
  expect(() => user.device.region('bar0').mmap({ offset: 0x10 })).toThrow(
    expect.objectContaining({ code: 'EINVAL' }),
  );
  expect(() => user.device.region('bar0').mmap({ length: 0x200000 })).toThrow('Expected a length up to');
  expect(() => user.device.region('config').mmap()).toThrow(
    expect.objectContaining({ code: 'EINVAL', reason: expect.stringContaining("can't be mapped") }),
  );
});

test('a typed view neither keeps the device nor crashes: disposed, or not answering, it shows zeroes', async (ctx) => {
  needs(ctx, { backends: ['kernel'], because: 'the software host has no typed views of registers' });
  using host = openHost();
  await host.device(EDU).bind();
  let words: Uint32Array;
  {
    using user = host.attach(EDU);
    using bar = user.device.region('bar0').mmap();
    words = new Uint32Array(bar.buffer);
    expect(words[0]).toBe(0x010000ed);
    user.device.config.memory = false;
    expect(words[0]).toBe(0);
    words[0] = 1;
    user.device.config.memory = true;
    // The view no longer shows the device: the accessors throw, and a new mapping works.
    expect(() => bar.read32(0x1000)).toThrow(expect.objectContaining({ code: 'EIO' }));
    using anew = user.device.region('bar0').mmap();
    expect(anew.read32(0)).toBe(0x010000ed);
  }
  expect(words[1]).toBe(0);
  // The view still exists, but the device can be opened again.
  using again = host.attach(EDU);
  expect(again.device.region('bar0').read32(0)).toBe(0x010000ed);
});
