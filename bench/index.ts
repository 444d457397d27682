/**
 * Measures what this package adds to plain C++: docs/benchmarks.md.
 *
 *   npm run bench                            a table
 *   npm run -s bench -- --json               a line of JSON for each row
 *   npm run bench -- --filter interrupt      only the rows whose names contain this text
 */
import Table from 'cli-table3';
import { Command } from 'commander';
import { rows as interrupts } from './interrupts.ts';
import { rows as largeMachine } from './large-machine.ts';
import { rows as mappings } from './mappings.ts';
import type { Figure } from './measure.ts';
import { rows as models } from './models.ts';
import { rows as registers } from './registers.ts';
import { rows as software } from './software.ts';
import { rows as start } from './start.ts';
import { rows as sva } from './sva.ts';

const { filter, json } = new Command('bench')
  .description('what this package adds to plain C++, on the software host')
  .option('--filter <text>', 'only rows whose names contain this text', '')
  .option('--json', 'print a line of JSON for each row')
  .parse()
  .opts<{ filter: string; json?: boolean }>();

const chosen = [
  ...registers,
  ...mappings,
  ...interrupts,
  ...start,
  ...models,
  ...sva,
  ...software,
  ...largeMachine,
].filter(({ name }) => name.includes(filter));
const digits = (value: number) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));
const show = ({ median, min }: Figure) => `${digits(median)} (${digits(min)})`;

const table = new Table({
  head: ['', 'unit', 'ours (min)', 'C++ (min)', 'ratio', 'added', 'target'],
  colAligns: ['left', 'left', 'right', 'right', 'right', 'right', 'left'],
  style: { head: [], border: [] },
});
for (const { name, unit, target, measure } of chosen) {
  const { ours, baseline } = await measure();
  const ratio = ours.median / baseline.median;
  if (json) console.log(JSON.stringify({ name, unit, ours: ours.median, baseline: baseline.median, ratio }));
  else
    table.push([
      name,
      unit,
      show(ours),
      show(baseline),
      ratio.toFixed(2),
      digits(ours.median - baseline.median),
      target,
    ]);
}
if (!json) console.log(table.toString());
