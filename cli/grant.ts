/** vfio grant: gives the nodes of a group to an ordinary user, and prints the rules that make it permanent. */
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
  for (const node of granted.nodes) print.line(shown(`${node}  belongs to ${user}`));
  for (const node of granted.shared)
    print.line(`${shown(node)}  may be opened by everybody: it reaches no device`);
  print.line('\nUntil the next boot. To make it last, in /etc/udev/rules.d/60-vfio.rules:');
  for (const rule of granted.lasting.udev) print.line(`  ${shown(rule)}`);
  print.line('and in /etc/security/limits.conf:');
  print.line(`  ${shown(granted.lasting.limits)}`);
  return 0;
}

/** The number of a user. The command `id` finds it in whichever database the machine uses. */
function uidOf(user: string): number {
  if (/^\d{1,10}$/.test(user)) return Number(user);
  const asked = spawnSync('id', ['-u', '--', user], { encoding: 'utf8' });
  const uid = asked.stdout?.trim() ?? '';
  if (asked.status !== 0 || !/^\d+$/.test(uid))
    throw new TypeError(`Expected the name or number of a user for --user but received '${user}'`);
  return Number(uid);
}
