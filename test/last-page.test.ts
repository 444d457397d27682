/**
 * The last page below 2^64 in a container. Linux before 6.18 (39bcf0f7d415) adds up to 0 there: it does not find the mapping, so
 * that it can't be unmapped, and says that it unmapped 0 bytes. Its memory must not be released then.
 */
import { expect, test } from 'vitest';
import { Container, DmaBuffer, Host } from '../lib/index.ts';
import { backend, EDU, guestIommu, needs } from './support/backends.ts';

needs({ guest: ['amd'], because: 'only an IOMMU with addresses of 64 bits has that page' });

const TOP = 2n ** 64n - 4096n;

async function ready(kernel: string): Promise<Host> {
  const topology = { iommus: [{ kind: 'amd' as const }], devices: [{ model: 'edu' as const, bdf: EDU }] };
  const host = Host.open(backend === 'kernel' ? { backend } : { backend, software: { kernel, topology } });
  await host.device(EDU).unbind();
  await host.device(EDU).bind();
  return host;
}

/** The bytes that are kept because of such a page. */
const kept = (host: Host) =>
  host
    .report()
    .keptMemory.filter(({ reason }) => /highest address/.test(reason))
    .reduce((sum, { bytes }) => sum + BigInt(bytes), 0n);

test('before 6.18 it is not unmapped: the mapping stays listed, and its memory allocated', async () => {
  using host = await ready('6.12');
  const before = kept(host);
  {
    using user = host.attach(EDU, { via: 'group-type1' });
    const { dma } = user;
    if (!(dma instanceof Container)) throw new Error('it is no container');
    const left = () => dma.info().dmaAvailable ?? 0;
    const first = left();
    using memory = DmaBuffer.alloc(4096);
    const mapping = dma.map(memory, { iova: TOP });
    const mapped = left();
    expect(mapped).toBe(first - 1);
    const listed = [{ iova: TOP, length: 4096n, writable: true }];
    for (const unmap of [() => dma.unmap(TOP, 4096), () => dma.unmapAll(), () => mapping[Symbol.dispose]()]) {
      expect(unmap() ?? 0n).toBe(0n);
      expect([left(), dma.mappings()]).toEqual([mapped, listed]);
      expect(kept(host) - before).toBe(4096n);
    }
  }
});

test('from 6.18 on it is unmapped as any other', async (ctx) => {
  if (guestIommu !== null) return ctx.skip('the guest runs Linux 6.12');
  using host = await ready('6.18');
  using user = host.attach(EDU, { via: 'group-type1' });
  using memory = DmaBuffer.alloc(4096);
  const before = kept(host);
  user.dma.map(memory, { iova: TOP });
  expect(user.dma.unmap(TOP, 4096)).toBe(4096n);
  user.dma.map(memory, { iova: TOP });
  expect(user.dma.unmapAll()).toBe(4096n);
  expect(user.dma.mappings()).toEqual([]);
  expect(kept(host)).toBe(before);
});

test('in an IOAS every kernel unmaps it', async () => {
  using host = await ready('6.12');
  using user = host.attach(EDU, { via: 'cdev' });
  using memory = DmaBuffer.alloc(4096);
  user.dma.map(memory, { iova: TOP });
  expect(user.dma.unmap(TOP, 4096)).toBe(4096n);
  expect(user.dma.mappings()).toEqual([]);
});
