/**
 * Runs many sequences for each kind of address space.
 *
 *   npm run test:model -- [--sequences N] [--seconds T] [--seed S] [--kind K,...] [--dma-every N] [--differences N]
 *                          [--without STEP,...]
 */
import { parseArgs } from 'node:util';
import { backend } from '../support/backends.ts';
import { KINDS, type Kind } from './model.ts';
import { Runner } from './runner.ts';

const { values } = parseArgs({
  options: {
    sequences: { type: 'string', default: '10000' },
    seconds: { type: 'string' },
    seed: { type: 'string' },
    kind: { type: 'string', default: KINDS.join(',') },
    'dma-every': { type: 'string', default: backend === 'kernel' ? '200' : '16' },
    without: { type: 'string', default: '' },
    differences: { type: 'string', default: '1' },
  },
});
const kinds = values.kind.split(',').map((name) => {
  const kind = KINDS.find((each) => each === name);
  if (kind === undefined) throw new Error(`Expected ${KINDS.join(', ')} for --kind but received ${name}`);
  return kind;
});
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
const seconds = values.seconds === undefined ? undefined : Number(values.seconds) / kinds.length;

process.env['NODE_ENV'] = 'production'; // so that no stack is recorded for each handle
process.removeAllListeners('warning'); // sequences drop handles on purpose
console.log(`seed ${seed}, ${backend} backend`);
let found = 0;
for (const kind of kinds) found += await campaign(kind);
process.exitCode = found === 0 ? 0 : 1;

async function campaign(kind: Kind): Promise<number> {
  const started = performance.now();
  const total = new Map<string, number>();
  let left = Number(values.sequences);
  let differences = 0;
  for (let from = seed; left > 0; from++) {
    const time = seconds === undefined ? undefined : started + seconds * 1000 - performance.now();
    if (time !== undefined && time <= 0) break;
    const runner = new Runner({
      kind,
      backend,
      seed: from,
      sequences: left,
      without: values.without.split(','),
      dmaEvery: Number(values['dma-every']),
      ...(time === undefined ? {} : { time }),
    });
    const { runs, counts, kept, difference } = await runner.run();
    left -= runs;
    for (const [name, count] of counts) total.set(name, (total.get(name) ?? 0) + count);
    for (const { bytes, reason } of kept) console.log(`\n${kind}: ${bytes} bytes are kept: ${reason}`);
    if (kept.length > 0) differences++;
    if (difference === undefined) break;
    differences++;
    console.log(
      `\n${kind}, seed ${from}:\n${difference.program}\n=> ${difference.says}\n${JSON.stringify(difference.sequence)}\n`,
    );
    if (differences >= Number(values.differences)) break;
  }
  const took = (performance.now() - started) / 1000;
  const of = (name: string) => total.get(name) ?? 0;
  console.log(
    `${kind}: ${of('sequences')} sequences in ${took.toFixed(1)} s (${Math.round(of('sequences') / took)} each second), ` +
      `${of('beside mapAsync')} with something beside a mapAsync under way (${of('mapAsync')} mapAsync), ` +
      `${of('DMA transfers')} spaces with DMA to every address, ${differences} differences`,
  );
  return differences;
}
