/**
 * The cost of the software host's own work with many mappings. Both sides are C++: the row's name says what "ours" is compared
 * with.
 */
import { loadAddon, type Space } from './addon.ts';
import { type Comparison, compare, type Row } from './measure.ts';

const PAGE = 4096;
const MANY = 1_000_000;
const FEW = 1000;
const TIMES = 1000;
const TRANSFER = 64 << 20;

async function withSpaces<Result>(
  shapes: readonly { count: number; size: number }[],
  job: (...spaces: Space[]) => Promise<Result>,
): Promise<Result> {
  const { Space } = loadAddon();
  const spaces: Space[] = [];
  try {
    for (const { count, size } of shapes) spaces.push(new Space(count, size));
    return await job(...spaces);
  } finally {
    for (const space of spaces) space.dispose();
  }
}

const many = { count: MANY, size: PAGE };
const few = { count: FEW, size: PAGE };

/** Unmap and map. `sameMemory`: both sides map the same memory, so that only the number of mappings differs. */
const exchange = (sameMemory: boolean): Promise<Comparison> =>
  withSpaces([many, few], (large, small) => {
    const memory = sameMemory ? [large!] : [];
    return compare(
      () => large!.exchange(TIMES, ...memory),
      () => small!.exchange(TIMES, ...memory),
      { rounds: 200, warmUp: 20 },
    );
  });

const translate = (): Promise<Comparison> =>
  withSpaces([many, few], (large, small) =>
    compare(
      () => large!.translate(TIMES),
      () => small!.translate(TIMES),
      { rounds: 200, warmUp: 20 },
    ),
  );

function dma(size: number): Promise<Comparison> {
  const from = new Uint8Array(TRANSFER).fill(2);
  return withSpaces([{ count: TRANSFER / size, size }], (space) =>
    compare(
      () => space!.write(from) / 1e6,
      () => space!.copy(from) / 1e6,
      { rounds: 15, warmUp: 2 },
    ),
  );
}

const memory = (): Promise<Comparison> =>
  withSpaces([many], async (space) => {
    const bytes = space!.bytesEach();
    return { ours: { median: bytes, min: bytes }, baseline: { median: 200, min: 200 } };
  });

export const rows: readonly Row[] = [
  {
    name: 'software host: unmap and map 4 KiB among 1,000,000, against 1,000',
    unit: 'ns',
    target: 'at most 2x',
    measure: () => exchange(true),
  },
  {
    name: 'software host: the same, of 8 GiB of memory, against 1,000 of 8 MiB',
    unit: 'ns',
    target: '',
    measure: () => exchange(false),
  },
  {
    name: 'software host: translate among 1,000,000, against 1,000',
    unit: 'ns',
    target: 'at most 1000 ns',
    measure: translate,
  },
  {
    name: 'software host: DMA of 64 MiB, one mapping, against memcpy',
    unit: 'ms',
    target: 'at most 1.25x',
    measure: () => dma(TRANSFER),
  },
  {
    name: 'software host: DMA of 64 MiB, 4 KiB pieces, against memcpy',
    unit: 'ms',
    target: 'at most 1.25x',
    measure: () => dma(PAGE),
  },
  {
    name: 'software host: resident memory of each of 1,000,000 mappings, against 200',
    unit: 'bytes',
    target: 'at most 200 bytes',
    measure: memory,
  },
];
