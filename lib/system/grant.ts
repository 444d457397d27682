/** Giving an ordinary user the nodes of a group: of all of it, since whoever has one device of a group reaches all. */

import type { NativeHost } from '../addon/native.ts';
import { VfioError } from '../base/errors.ts';
import { lastingLockLimit } from '../base/memlock.ts';
import { OURS } from '../base/private.ts';
import { withVfio } from './facts/pci-facts.ts';
import { IommuGroup } from './groups.ts';
import type { PciDevice } from './pci.ts';

/** Reading or writing, for a node's group. */
const GROUP_ACCESS = 0o060;

/** What was granted, and what makes it last. */
export interface Grant {
  /** The IOMMU group. */
  group: number;
  /** The nodes that are the user's now. */
  nodes: string[];
  /** The nodes that everybody may open now. */
  shared: string[];
  lasting: {
    /** Lines for a file in /etc/udev/rules.d: drivers and nodes, as they are now. */
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
      `group ${number} is not given in part: ${blockers.map((each) => each.reason).join('; ')}`,
      `Run: vfio bind --group ${device.bdf}`,
    );
  const members = group.devices.filter(withVfio);
  const nodes = [`/dev/vfio/${number}`, ...members.flatMap(({ vfioNode }) => vfioNode ?? [])].filter(
    (path) => host.ownership(path) !== null,
  );
  if (members.length === 0 || nodes.length === 0)
    throw new VfioError(19, {
      syscall: 'chown',
      path: `/dev/vfio/${number}`,
      reason: `no device of group ${number} is with VFIO, so there are no nodes`,
      hint: `Run: vfio bind --group ${device.bdf}`,
    });
  const others = nodes.filter((path) => {
    const { uid: owner = 0, gid = 0, mode = 0 } = host.ownership(path) ?? {};
    return (owner !== 0 && owner !== uid) || (gid !== 0 && (mode & GROUP_ACCESS) !== 0);
  });
  if (others.length > 0 && !force)
    throw refused(
      `others have a part of group ${number}: ${others.map((path) => `${path} is of user ${host.ownership(path)?.uid}, group ${host.ownership(path)?.gid}`).join(', ')}`,
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
        // The number of a group may be another one at the next boot.
        `SUBSYSTEM=="vfio", PROGRAM="/usr/bin/test -e /sys/kernel/iommu_groups/%k/devices/${device.bdf}", OWNER="${name}", MODE="0600"`,
        'KERNEL=="iommu", SUBSYSTEM=="misc", MODE="0666"',
      ],
      limits: lastingLockLimit(name),
    },
  };
}
