/** vfio doctor: checks the whole host, and prints a line for each check. */

import { shown } from '../lib/base/shell.ts';
import type { Host } from '../lib/index.ts';
import type { Printer } from './print.ts';

export function doctor(host: Host, print: Printer): number {
  const report = host.report();
  print.json(report);
  const { green, yellow, red, dim } = print.colors;
  const marks = { ok: green('ok     '), warning: yellow('warning'), fail: red('fail   ') };
  const width = Math.max(...report.checks.map((each) => each.name.length));
  print.line(dim(`backend: ${report.backend}`));
  for (const { name, level, detail, fix } of report.checks) {
    print.line(`${marks[level]}  ${name.padEnd(width)}  ${shown(detail)}`);
    if (fix !== undefined) print.line(`${' '.repeat(width + 11)}${dim('fix:')} ${shown(fix)}`);
  }
  return report.checks.every((each) => each.ok) ? 0 : 1;
}
