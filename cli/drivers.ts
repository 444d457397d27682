/** vfio bind, unbind, restore: change the drivers of devices, all or none. */

import { shown } from '../lib/base/shell.ts';
import type { Host } from '../lib/index.ts';
import { changeTogether } from '../lib/system/driver-change.ts';
import type { Printer } from './print.ts';

export async function changeDrivers(
  host: Host,
  print: Printer,
  change: 'bind' | 'unbind' | 'restore',
  bdfs: readonly string[],
  options: { group?: boolean; driver?: string; force?: boolean },
): Promise<number> {
  const named = bdfs.map((bdf) => host.device(bdf));
  const wanted = named.flatMap((device) => {
    if (!options.group || device.group === null) return [device];
    return host.group(device.group).endpoints;
  });
  const devices = [...new Map(wanted.map((each) => [each.bdf, each])).values()];
  const was = new Map(devices.map((each) => [each.bdf, each.driver]));
  const to = change === 'bind' ? { driver: options.driver ?? 'vfio-pci' } : change;
  await changeTogether(devices, to, { force: options.force ?? false });
  const result = devices.map((each) => ({
    bdf: each.bdf,
    was: was.get(each.bdf) ?? null,
    driver: each.driver,
    group: each.group,
    node: each.vfioNode,
  }));
  const blocked = [...new Set(named.map((each) => each.group))].flatMap((id) => {
    if (change !== 'bind' || id === null) return [];
    return host
      .group(id)
      .viability()
      .blockers.map((each) => ({ ...each, group: id }));
  });
  // Reports the devices that have lost their driver. With --group, some devices of the group may never have had one.
  const lost = result.filter(
    ({ bdf, was: before, driver }) =>
      change === 'restore' && driver === null && (before !== null || named.some((each) => each.bdf === bdf)),
  );
  print.json({ devices: result, blockers: blocked });
  for (const { bdf, was: before, driver, node } of result)
    print.line(
      shown(
        `${bdf}  ${before ?? 'no driver'} -> ${driver ?? 'no driver'}${node === null ? '' : `  ${node}`}`,
      ),
    );
  for (const each of blocked)
    print.line(
      shown(`! group ${each.group} is not viable yet: ${each.reason}. Run: vfio bind --group ${bdfs[0]}`),
    );
  for (const { bdf } of lost)
    print.line(`! no driver took ${shown(bdf)}: this kernel has no driver for it, or has not loaded it`);
  return lost.length === 0 ? 0 : 1;
}
