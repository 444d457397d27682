/** Loads and stores on a mapped BAR that is plain memory, against a C++ loop over volatile words of the same mapping. */
import type { MappedRegion } from '../lib/index.ts';
import { loadAddon } from './addon.ts';
import { memoryDevice, withDevice } from './machine.ts';
import { type Comparison, compare, perTime, type Row } from './measure.ts';

/** How many registers a loop accesses: 4 KiB of them, one page. */
const WINDOW = 1024;
const MASK = WINDOW - 1;

/**
 * Makes a loop of `times` accesses. On both sides an iteration has four of them, as in a driver that fills a descriptor. Loads
 * return the sum of the values that they read; stores write `first`, `first` + 1, ...
 *
 * The loops over a view are written as a fast driver would be: the view is a const outside the function, which is made once in
 * the process, and arithmetic stays in 32 bits. So the engine can treat the view as a constant. A view that is an argument is
 * checked at each access, which costs half a nanosecond more.
 */
type Maker = (words: Uint32Array, mapped: MappedRegion) => (times: number, first: number) => number;

const loadsOfView: Maker = (words) => (times) => {
  let sum = 0;
  for (let i = 0; i < times; i = (i + 4) | 0) {
    const at = i & MASK;
    sum = (sum + words[at]!) | 0;
    sum = (sum + words[at | 1]!) | 0;
    sum = (sum + words[at | 2]!) | 0;
    sum = (sum + words[at | 3]!) | 0;
  }
  return sum;
};

const storesOfView: Maker = (words) => (times, first) => {
  const value = first | 0;
  for (let i = 0; i < times; i = (i + 4) | 0) {
    const at = i & MASK;
    words[at] = (value + i) | 0;
    words[at | 1] = (value + i + 1) | 0;
    words[at | 2] = (value + i + 2) | 0;
    words[at | 3] = (value + i + 3) | 0;
  }
  return 0;
};

const loadsOfAccessor: Maker = (_, mapped) => (times) => {
  let sum = 0;
  for (let i = 0; i < times; i = (i + 1) | 0) sum = (sum + mapped.read32((i & MASK) << 2)) | 0;
  return sum;
};

const storesOfAccessor: Maker = (_, mapped) => (times, first) => {
  for (let i = 0; i < times; i = (i + 1) | 0) mapped.write32((i & MASK) << 2, first + i);
  return 0;
};

async function measure(kind: 'loads' | 'stores', make: Maker, times: number): Promise<Comparison> {
  return await withDevice(memoryDevice, async ({ device }) => {
    const region = device.region('bar2');
    using mapped = region.mmap();
    const words = new Uint32Array(mapped.buffer, 0, WINDOW);
    const { loads, stores } = loadAddon();
    stores(words, WINDOW, 0x9e3779b1);
    let expected = 0;
    for (let i = 0; i < times; i++) expected = (expected + region.read32((i & MASK) << 2)) | 0;

    let first = 0;
    const sample = (loop: (times: number, first: number) => number) => () => {
      first += 7;
      let sum = 0;
      const time = perTime(times, () => {
        sum = loop(times, first);
      });
      // Checks that the loop has really accessed the device, by reading the registers through the device's file.
      if (kind === 'loads' && sum !== expected) throw new Error('a load did not see the register');
      for (let i = times - WINDOW; kind === 'stores' && i < times; i++)
        if (region.read32((i & MASK) << 2) !== first + i) throw new Error('a store did not land');
      return time;
    };
    const ours = make(words, mapped);
    const baseline = kind === 'loads' ? loads : stores;
    // Many short calls, as a driver makes them. After a few long calls the engine would still run code that it made for the first.
    for (let call = 0; call < 3000; call++) ours(WINDOW, call);
    return await compare(
      sample(ours),
      sample((times, first) => baseline(words, times, first)),
      { rounds: 60, warmUp: 10 },
    );
  });
}

const target = 'at most 1.5x';

export const rows: readonly Row[] = [
  {
    name: 'read32 of a mapped BAR, typed view',
    unit: 'ns',
    target,
    measure: () => measure('loads', loadsOfView, 400_000),
  },
  {
    name: 'write32 of a mapped BAR, typed view',
    unit: 'ns',
    target,
    measure: () => measure('stores', storesOfView, 400_000),
  },
  {
    name: 'read32 of a mapped BAR, accessor call',
    unit: 'ns',
    target: '',
    measure: () => measure('loads', loadsOfAccessor, 50_000),
  },
  {
    name: 'write32 of a mapped BAR, accessor call',
    unit: 'ns',
    target: '',
    measure: () => measure('stores', storesOfAccessor, 50_000),
  },
];
