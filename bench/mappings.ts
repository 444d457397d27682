/** Map and unmap of one page through TypeScript, against the same two ioctls from C++ on the same file. */
import { fileOf } from '../lib/handles/handle.ts';
import { DmaBuffer, Ioas } from '../lib/index.ts';
import { loadAddon } from './addon.ts';
import { edu, withDevice } from './machine.ts';
import { type Comparison, compare, perTime, type Row } from './measure.ts';

const PAGE = 4096;
const TIMES = 500;

async function mapUnmap(iova: bigint | undefined): Promise<Comparison> {
  return await withDevice(edu, async ({ dma }) => {
    if (!(dma instanceof Ioas)) throw new Error('this measures an Ioas');
    using memory = DmaBuffer.alloc(PAGE);
    memory.bytes.fill(1);
    const addon = loadAddon();
    const file = fileOf(dma.iommufd);
    const { id } = dma;
    const { address } = memory;
    const length = BigInt(PAGE);
    const options = iova === undefined ? undefined : { iova };
    const ours = () => {
      for (let i = 0; i < TIMES; i++) {
        const mapping = dma.map(memory, options);
        dma.unmap(mapping.iova, length);
      }
    };
    const baseline = () => addon.mapUnmap(file, id, address, PAGE, iova, TIMES);
    return await compare(
      () => perTime(TIMES, ours),
      () => perTime(TIMES, baseline),
      { rounds: 100, warmUp: 20 },
    );
  });
}

const target = 'adds at most 500 ns';

export const rows: readonly Row[] = [
  { name: 'map and unmap 4 KiB, IOVA given', unit: 'ns', target, measure: () => mapUnmap(0x100000n) },
  { name: 'map and unmap 4 KiB, IOVA chosen', unit: 'ns', target, measure: () => mapUnmap(undefined) },
];
