/**
 * The main job: a program opens a device, maps memory for it, lets it do DMA, waits for its interrupt and closes everything. On
 * the kernel backend, QEMU's edu device moves the bytes through the kernel's IOMMU driver.
 */
import { expect, test } from 'vitest';
import { DmaBuffer, type Ioas } from '../lib/index.ts';
import { EDU, openHost } from './support/backends.ts';
import { Edu, Reg, startJob } from './support/edu.ts';

test('A1: from nothing but a PCI address: character device, iommufd, bind, attach', async () => {
  using host = openHost();
  const sysfs = host.device(EDU);
  await sysfs.bind();
  expect(sysfs.vfioNode).toMatch(/^\/dev\/vfio\/devices\/vfio\d+$/);
  using iommufd = host.openIommufd();
  using device = host.openDevice(EDU);
  device.bind(iommufd);
  expect(device.id).toBe(1);
  const ioas = iommufd.allocIoas();
  expect(ioas.id).toBe(2);
  expect(device.attach(ioas)).toBe(3);
  expect(device.info).toEqual({ numRegions: 9, numIrqs: 5, pci: true, resettable: false });
});

test('A3: the same in one call, and the device answers', async () => {
  using host = openHost();
  using job = await startJob(host);
  expect(job.user.via).toBe('cdev');
  expect(job.device.config.vendor).toBe(0x1234);
  expect(job.device.config.device).toBe(0x11e8);
  expect(job.edu.registers.read32(Reg.identification)).toBe(0x010000ed);
  job.edu.registers.write32(Reg.liveness, 0xcafe);
  expect(job.edu.registers.read32(Reg.liveness)).toBe(~0xcafe >>> 0);
});

test('the device computes a factorial while the driver polls', async () => {
  using host = openHost();
  using job = await startJob(host);
  job.edu.registers.write32(Reg.factorial, 12);
  while (job.edu.registers.read32(Reg.status) & 1) await new Promise((resolve) => setTimeout(resolve, 1));
  expect(job.edu.registers.read32(Reg.factorial)).toBe(479001600);
});

test('D1: DMA both ways through the IOMMU, to the memory of the mappings', async () => {
  using host = openHost();
  using job = await startJob(host);
  using memory = DmaBuffer.alloc(0x3000);
  const bytes = memory.bytes;
  for (let i = 0; i < 4096; i++) bytes[i] = (i * 7) & 0xff;
  // Two pages that are adjacent in memory, but not in their IOVAs.
  using first = job.dma.map(memory.slice(0, 0x1000), { iova: 0x10000 });
  using third = job.dma.map(memory.slice(0x2000, 0x1000), { iova: 0x20000 });
  // QEMU before 8.0 treats the last of the device's 4096 bytes as out of bounds, and exits.
  const size = 4095;
  await job.edu.fetch(first.iova, size);
  await job.edu.store(third.iova, size);
  expect(Buffer.compare(bytes.subarray(0x2000, 0x2000 + size), bytes.subarray(0, size))).toBe(0);
  expect(bytes.subarray(0x1000, 0x2000).every((each) => each === 0)).toBe(true);
});

test('D1: DMA across the border of two mappings reaches both', async () => {
  using host = openHost();
  using job = await startJob(host);
  using a = DmaBuffer.alloc(4096);
  using b = DmaBuffer.alloc(4096);
  job.dma.map(a, { iova: 0x10000 });
  job.dma.map(b, { iova: 0x11000 });
  a.bytes.fill(0xaa);
  b.bytes.fill(0xbb);
  await job.edu.fetch(0x10ffen, 4);
  await job.edu.store(0x10000n, 4);
  expect([...a.bytes.subarray(0, 4)]).toEqual([0xaa, 0xaa, 0xbb, 0xbb]);
});

test('a read-only mapping keeps the device from writing, an unmapped address from anything', async () => {
  using host = openHost();
  using job = await startJob(host);
  using memory = DmaBuffer.alloc(4096);
  memory.bytes.fill(0x55);
  using mapping = job.dma.map(memory, { iova: 0x10000, write: false });
  await job.edu.store(mapping.iova, 64);
  expect(memory.bytes.every((each) => each === 0x55)).toBe(true);
  await job.edu.store(0x50000n, 64);
  // On the software host the IOMMU's fault log shows the access; the kernel writes it to its own log.
  if (host.software)
    expect(host.software.takeFaults()).toMatchObject([
      { bdf: EDU, iova: 0x10000n, write: true, reason: expect.stringContaining('writ') },
      { bdf: EDU, iova: 0x50000n, write: true, reason: expect.stringContaining('not mapped') },
    ]);
});

test('after unmap and after detach the device reaches nothing', async () => {
  using host = openHost();
  using job = await startJob(host);
  using memory = DmaBuffer.alloc(4096);
  const mapping = job.dma.map(memory, { iova: 0x10000 });
  memory.bytes.fill(1);
  await job.edu.fetch(0x10000n, 64);
  mapping[Symbol.dispose]();
  memory.bytes.fill(2);
  await job.edu.store(0x10000n, 64);
  expect(memory.bytes[0]).toBe(2);
  job.dma.map(memory, { iova: 0x10000 });
  job.device.detach();
  await job.edu.store(0x10000n, 64);
  expect(memory.bytes[0]).toBe(2);
  job.device.attach(job.dma as Ioas);
  await job.edu.store(0x10000n, 64);
  expect(memory.bytes[0]).toBe(1);
});

test('a second attach replaces the address space: the same IOVA leads to other memory (behaviour 52)', async () => {
  using host = openHost();
  await host.device(EDU).bind();
  using iommufd = host.openIommufd();
  using device = host.openDevice(EDU);
  device.bind(iommufd);
  const [one, two] = [iommufd.allocIoas(), iommufd.allocIoas()];
  using a = DmaBuffer.alloc(4096);
  using b = DmaBuffer.alloc(4096);
  one.map(a, { iova: 0x10000 });
  two.map(b, { iova: 0x10000 });
  b.bytes.fill(7);
  device.attach(one);
  using edu = new Edu(device);
  await edu.fetch(0x10000n, 16);
  const pt = device.attach(two);
  expect(device.attach(two)).toBe(pt);
  await edu.fetch(0x10000n, 16);
  await edu.store(0x10100n, 16);
  expect(a.bytes[0x100]).toBe(0);
  expect(b.bytes[0x100]).toBe(7);
});

test('an interrupt at the end of DMA resolves the wait', async () => {
  using host = openHost();
  using job = await startJob(host);
  using interrupt = job.msi();
  using memory = DmaBuffer.alloc(4096);
  using mapping = job.dma.map(memory, { iova: 0x10000 });
  const waiting = interrupt.wait({ timeout: 20_000 });
  job.edu.start(mapping.iova, 0x40000n, 256, false, true);
  expect(await waiting).toBe(1n);
  expect(job.edu.registers.read32(Reg.interruptStatus)).toBe(0x100);
  job.edu.registers.write32(Reg.acknowledge, 0x100);
  expect(job.edu.registers.read32(Reg.interruptStatus)).toBe(0);
});

test('closing frees everything: the next program begins where this one did', async () => {
  using host = openHost();
  for (let round = 0; round < 3; round++) {
    using job = await startJob(host);
    expect(job.device.id).toBe(1);
    expect(job.dma.unmapAll()).toBe(0n);
    using interrupt = job.msi();
    expect(interrupt.poll()).toBe(0n);
    job.dma.map(DmaBuffer.alloc(4096));
  }
});

test('bus mastering is off when a device is opened (98): without it there is no DMA', async () => {
  using host = openHost();
  {
    using job = await startJob(host);
    expect(job.device.config.busMaster).toBe(true);
  }
  using user = host.attach(EDU);
  expect(user.device.config.busMaster).toBe(false);
});
