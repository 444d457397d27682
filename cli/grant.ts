/** vfio grant: the nodes of a group for an ordinary user, and what makes that last. */
import { spawnSync } from 'node:child_process';
import { shown } from '../lib/base/shell.ts';
import type { Host } from '../lib/index.ts';
import type { Printer } from './print.ts';

export function grant(
  host: Host,
  print: Printer,
  bdf: string,
  { user, force }: { user: string; force?: boolean },
): number {
  const granted = host.grant(bdf, uidOf(user), { name: user, force: force ?? false });
  print.json(granted);
  for (const node of granted.nodes) print.line(shown(`${node}  is ${user}'s`));
  for (const node of granted.shared) print.line(`${shown(node)}  is everybody's: it reaches no device`);
  print.line('\nUntil the next boot. To make it last, in /etc/udev/rules.d/60-vfio.rules:');
  for (const rule of granted.lasting.udev) print.line(`  ${shown(rule)}`);
  print.line('and in /etc/security/limits.conf:');
  print.line(`  ${shown(granted.lasting.limits)}`);
  return 0;
}

/** The number of a user, by whichever service this machine knows its users. */
function uidOf(user: string): number {
  if (/^\d{1,10}$/.test(user)) return Number(user);
  const asked = spawnSync('id', ['-u', '--', user], { encoding: 'utf8' });
  const uid = asked.stdout?.trim() ?? '';
  if (asked.status !== 0 || !/^\d+$/.test(uid))
    throw new TypeError(`Expected the name or number of a user for --user but received '${user}'`);
  return Number(uid);
}
