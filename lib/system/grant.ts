/**
 * Gives an ordinary user the nodes of a group. All of them: the devices of a group are not isolated from each other, so that a
 * user of one can reach the others.
 */

import type { NativeHost } from '../addon/native.ts';
import { VfioError } from '../base/errors.ts';
import { lastingLockLimit } from '../base/memlock.ts';
import { OURS } from '../base/private.ts';
import { usesVfioDriver } from './facts/pci-facts.ts';
import { IommuGroup } from './groups.ts';
import type { PciDevice } from './pci.ts';

/** The permission bits that let a node's Unix group read or write. */
const GROUP_ACCESS = 0o060;

/** The nodes that were granted, and the rules that make the grant permanent. */
export interface Grant {
  /** The IOMMU group. */
  group: number;
  /** The nodes that the user owns now. */
  nodes: string[];
  /** The nodes that everybody may open now. */
  shared: string[];
  lasting: {
    /** Lines for a file in /etc/udev/rules.d: they bind the same drivers and give the same nodes. */
    udev: string[];
    /** A line for /etc/security/limits.conf: how much memory the user may map for devices. */
    limits: string;
  };
}

export function grant(host: NativeHost, device: PciDevice, uid: number, name: string, force: boolean): Grant {
  const refused = (reason: string, hint?: string) =>
    new VfioError(1, { syscall: 'chown', path: `/sys/bus/pci/devices/${device.bdf}`, reason, hint });
  const number = device.group;
  if (number === null) throw refused(`${device.bdf} is in no IOMMU group`, `Run: vfio explain ${device.bdf}`);
  const group = new IommuGroup(OURS, host, number);
  if (group.noIommu)
    throw refused(
      `group ${number} has no IOMMU: its node is of no use without CAP_SYS_RAWIO, which no permission gives`,
    );
  const { blockers } = group.viability();
  if (blockers.length > 0)
    throw refused(
      `group ${number} can't be granted in part: ${blockers.map((each) => each.reason).join('; ')}`,
      `Run: vfio bind --group ${device.bdf}`,
    );
  const members = group.devices.filter(usesVfioDriver);
  const nodes = [`/dev/vfio/${number}`, ...members.flatMap(({ vfioNode }) => vfioNode ?? [])].filter(
    (path) => host.ownership(path) !== null,
  );
  if (members.length === 0 || nodes.length === 0)
    throw new VfioError(19, {
      syscall: 'chown',
      path: `/dev/vfio/${number}`,
      reason: `no device of group ${number} is bound to a VFIO driver, so there are no nodes`,
      hint: `Run: vfio bind --group ${device.bdf}`,
    });
  const others = nodes.filter((path) => {
    const { uid: owner = 0, gid = 0, mode = 0 } = host.ownership(path) ?? {};
    return (owner !== 0 && owner !== uid) || (gid !== 0 && (mode & GROUP_ACCESS) !== 0);
  });
  if (others.length > 0 && !force)
    throw refused(
      `others own nodes of group ${number}: ${others.map((path) => `${path} belongs to user ${host.ownership(path)?.uid}, group ${host.ownership(path)?.gid}`).join(', ')}`,
      `Run: vfio grant ${device.bdf} --user ${name} --force`,
    );
  const before = nodes.map((path) => ({ path, was: host.ownership(path) }));
  const shared = ['/dev/iommu', '/dev/vfio/vfio'].filter((path) => host.ownership(path) !== null);
  const done: typeof before = [];
  try {
    for (const entry of before) {
      host.own(entry.path, uid, 0o600);
      done.push(entry);
    }
    for (const path of shared) {
      const was = host.ownership(path);
      if (was !== null && (was.mode & 6) !== 6) host.own(path, was.uid, was.mode | 6);
    }
  } catch (error) {
    for (const { path, was } of done) if (was !== null) host.own(path, was.uid, was.mode);
    throw error;
  }
  return {
    group: number,
    nodes,
    shared,
    lasting: {
      udev: [
        ...members.flatMap(({ bdf, driver, mediated }) =>
          mediated
            ? []
            : `ACTION=="add", SUBSYSTEM=="pci", KERNEL=="${bdf}", ATTR{driver_override}="${driver}"`,
        ),
        ...members.map(({ bdf }) => `SUBSYSTEM=="vfio-dev", KERNELS=="${bdf}", OWNER="${name}", MODE="0600"`),
        // A group can get another number at the next boot: the rule looks for the device in it instead.
        `SUBSYSTEM=="vfio", PROGRAM="/usr/bin/test -e /sys/kernel/iommu_groups/%k/devices/${device.bdf}", OWNER="${name}", MODE="0600"`,
        'KERNEL=="iommu", SUBSYSTEM=="misc", MODE="0666"',
      ],
      limits: lastingLockLimit(name),
    },
  };
}
