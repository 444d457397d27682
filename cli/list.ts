/** vfio list: prints the PCI devices of the host. */

import type { Host } from '../lib/index.ts';
import { usesVfioDriver } from '../lib/system/facts/pci-facts.ts';
import type { Printer } from './print.ts';

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0');

export function list(host: Host, print: Printer, { vfio }: { vfio?: boolean }): number {
  const devices = host
    .devices()
    .filter((each) => !vfio || usesVfioDriver(each))
    .map((each) => ({
      bdf: each.bdf,
      vendor: each.vendor,
      device: each.device,
      classCode: each.classCode,
      driver: each.driver,
      group: each.group,
      node: each.vfioNode,
    }));
  print.json(devices);
  print.table(
    ['ADDRESS', 'ID', 'CLASS', 'DRIVER', 'GROUP', 'NODE'],
    devices.map(({ bdf, vendor, device, classCode, driver, group, node }) => [
      bdf,
      `${hex(vendor, 4)}:${hex(device, 4)}`,
      hex(classCode, 6),
      driver ?? '-',
      group === null ? '-' : String(group),
      node ?? '-',
    ]),
  );
  return 0;
}
