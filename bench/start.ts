/** The time to the first DMA of a new process on a software host, against the same job in C++. One process for each sample. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Comparison, compare, type Row } from './measure.ts';

const child = fileURLToPath(new URL('start-child.js', import.meta.url));
const run = promisify(execFile);

async function sample(side: 'ours' | 'baseline'): Promise<number> {
  const { stdout } = await run(process.execPath, [child, side]);
  return Number(stdout);
}

const start = (): Promise<Comparison> =>
  compare(
    () => sample('ours'),
    () => sample('baseline'),
    { rounds: 15, warmUp: 1 },
  );

export const rows: readonly Row[] = [
  { name: 'load, open a host, first DMA', unit: 'ms', target: 'at most 50 ms', measure: start },
];
