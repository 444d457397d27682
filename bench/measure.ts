/**
 * How a comparison is made: samples of ours and of the baseline in turn, so that what else the machine does hits both
 * alike; first some that don't count, so that compilers and caches are warm. The figure is the median.
 */

/** Samples of one side, summed up. */
export interface Figure {
  readonly median: number;
  readonly min: number;
}

export interface Comparison {
  readonly ours: Figure;
  readonly baseline: Figure;
}

/** A line of the table. */
export interface Row {
  readonly name: string;
  readonly unit: 'ns' | 'us' | 'ms' | 'bytes';
  /** What the project aims at, in words; '' where it aims at nothing. */
  readonly target: string;
  measure(): Promise<Comparison>;
}

/** Takes one sample, in the row's unit. */
type Sampler = () => number | Promise<number>;

export function median(samples: Iterable<number>): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

const figure = (samples: readonly number[]): Figure => ({
  median: median(samples),
  min: Math.min(...samples),
});

export async function compare(
  ours: Sampler,
  baseline: Sampler,
  { rounds, warmUp }: { rounds: number; warmUp: number },
): Promise<Comparison> {
  const samples = { ours: [] as number[], baseline: [] as number[] };
  for (let round = -warmUp; round < rounds; round++) {
    // Who goes first changes, so that neither always runs in the other's wake.
    const order = round % 2 === 0 ? (['ours', 'baseline'] as const) : (['baseline', 'ours'] as const);
    for (const side of order) {
      const sample = await (side === 'ours' ? ours() : baseline());
      if (round >= 0) samples[side].push(sample);
    }
  }
  return { ours: figure(samples.ours), baseline: figure(samples.baseline) };
}

/** Nanoseconds for each of the `times` that `job` does. */
export function perTime(times: number, job: () => void): number {
  const begin = process.hrtime.bigint();
  job();
  return Number(process.hrtime.bigint() - begin) / times;
}
