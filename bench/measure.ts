/**
 * Compares this package with a baseline. Samples of both are taken alternately, so that other load on the machine affects both
 * alike. The first ones don't count: they warm up compilers and caches. The figure is the median.
 */

/** A summary of the samples of one side. */
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
  /** The project's target in words; '' if there is none. */
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
    // The order alternates, so that neither side always runs directly after the other.
    const order = round % 2 === 0 ? (['ours', 'baseline'] as const) : (['baseline', 'ours'] as const);
    for (const side of order) {
      const sample = await (side === 'ours' ? ours() : baseline());
      if (round >= 0) samples[side].push(sample);
    }
  }
  return { ours: figure(samples.ours), baseline: figure(samples.baseline) };
}

/** Runs `job`, which does the same thing `times` times; returns the nanoseconds for each. */
export function perTime(times: number, job: () => void): number {
  const begin = process.hrtime.bigint();
  job();
  return Number(process.hrtime.bigint() - begin) / times;
}
