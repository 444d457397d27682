/** vfio explain: says whether a device can be used and, if not, why, and which commands repair it. */

import { shown } from '../lib/base/shell.ts';
import type { Host } from '../lib/index.ts';
import type { Printer } from './print.ts';

export function explain(
  host: Host,
  print: Printer,
  bdf: string,
  options: { attempt: boolean; memory?: number },
): number {
  const { usable, findings, ...rest } = host.diagnose(bdf, options);
  const device = host.device(bdf);
  const group = device.group === null ? null : host.group(device.group);
  // One command may repair several findings. It is kept at its last place, so that it follows all that must come before.
  const all = findings.flatMap((each) => each.commands);
  const commands = all.filter((command, index) => all.lastIndexOf(command) === index);
  const ownership = group?.dmaOwnership;
  const owner = ownership === undefined ? null : { is: ownership.owner, inferred: ownership.inferred };
  print.json({
    ...rest,
    usable,
    driver: device.driver,
    group: device.group,
    members: group?.devices.map((each) => each.bdf) ?? [],
    dmaOwner: owner,
    findings,
    commands,
  });
  const { bold, green, red, yellow, dim } = print.colors;
  print.line(`${bold(device.bdf)}  ${usable ? green('can be used') : red('cannot be used')}`);
  if (group !== null && owner !== null) {
    print.line(
      `  group ${group.id}: ${group.devices.map((each) => `${each.bdf} (${shown(each.driver ?? 'no driver')})`).join(', ')}`,
    );
    print.line(
      `  its DMA: ${owner.is === 'none' ? 'nobody owns it' : `owned by ${owner.is === 'user' ? 'a program' : 'the kernel'}`}${owner.inferred ? dim(' (inferred)') : ''}`,
    );
  }
  for (const each of findings) print.line(`  ${each.blocks ? red('✗') : yellow('!')} ${shown(each.reason)}`);
  if (commands.length > 0) {
    print.line(usable ? '\nTo improve it:' : '\nTo make it usable:');
    for (const command of commands) print.line(`  ${shown(command)}`);
  } else if (!usable) print.line('\nNo command repairs this.');
  return usable ? 0 : 1;
}
