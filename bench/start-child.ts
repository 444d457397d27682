/**
 * The process that start.ts measures. Prints how many milliseconds one side took, from before its code is loaded to the end of
 * two transfers by DMA, to the device and back, each with its interrupt.
 */

async function ours(): Promise<void> {
  // Loads the same file as users of the package: lib/ in one file.
  const { DmaBuffer, Host }: typeof import('../lib/index.ts') = await import(
    new URL('../vfio.js', import.meta.url).href
  );
  const edu = '0000:00:10.0';
  using host = Host.open({ backend: 'software' });
  await host.device(edu).bind();
  using user = host.attach(edu);
  const { device, dma } = user;
  device.config.busMaster = true;
  using registers = device.region('bar0').mmap();
  const [interrupt] = device.irq('msi').enable(1);
  using memory = DmaBuffer.alloc(2 * 4096);
  const { bytes } = memory;
  bytes.fill(0x5a, 0, 4096);
  const { iova } = dma.map(memory, { iova: 0x100000n });
  const transfer = async (from: bigint, to: bigint, how: number) => {
    registers.write64(0x80, from);
    registers.write64(0x88, to);
    registers.write64(0x90, 4096);
    registers.write64(0x98, how);
    await interrupt?.wait();
    registers.write32(0x64, registers.read32(0x24));
  };
  await transfer(iova, 0x40000n, 1 | 4);
  await transfer(0x40000n, iova + 4096n, 1 | 2 | 4);
  if (bytes[2 * 4096 - 1] !== 0x5a) throw new Error('the bytes did not arrive');
}

async function baseline(): Promise<void> {
  const { loadAddon } = await import('./addon.ts');
  loadAddon().firstDma();
}

const begin = performance.now();
await (process.argv[2] === 'ours' ? ours() : baseline());
console.log(performance.now() - begin);
