/** Words for failures whose cause is in the state of the host: drivers, groups, nodes, permissions. */
import { existsSync, statSync } from 'node:fs';
import type { VfioError } from './errors.ts';
import type { Words } from './explain.ts';
import type { IommuGroup } from './groups.ts';
import type { PciDevice } from './pci.ts';

/** A driver could not be bound or unbound. */
export function wordsForBind(error: VfioError, device: PciDevice): Words {
  const { bdf } = device;
  switch (error.code) {
    case 'EACCES':
    case 'EPERM':
      return { reason: 'only root may bind and unbind drivers', hint: 'Run this step as root' };
    case 'ETIMEDOUT':
      return {
        reason: `driver ${device.driver} did not let go of ${bdf}: something holds the device open`,
        hint: `Find it: "fuser -v ${device.vfioNode ?? `/dev/vfio/${device.group}`}"`,
      };
    case 'EBUSY':
      return device.driver === null
        ? {
            reason: `another device of group ${device.group} is in use by user space: drivers that do DMA for the kernel must wait`,
          }
        : {
            reason: `${bdf} is held by driver ${device.driver}, and something has the device open`,
            hint: 'Close it first',
          };
    case 'ENODEV':
      return { reason: `the driver does not take ${bdf}` };
    case 'EINVAL':
      return device.group === null
        ? {
            reason: `${bdf} has no IOMMU group: the IOMMU is off`,
            hint: 'Boot with intel_iommu=on or amd_iommu=on',
          }
        : { reason: `the driver refuses ${bdf} (a bridge, or a device that it does not serve)` };
    default:
      return { reason: `${bdf} has driver ${device.driver ?? 'none'}` };
  }
}

/** VFIO_DEVICE_BIND_IOMMUFD or an attach failed. */
export function wordsForJoin(
  error: VfioError,
  device: PciDevice,
  group: IommuGroup | undefined,
): Words | undefined {
  const { bdf } = device;
  const blockers = group?.viability().blockers ?? [];
  if (error.code === 'EPERM' && blockers.length > 0)
    return {
      reason: `${bdf} can't be used while ${blockers.map((each) => `${each.bdf}, in the same group ${group?.id}, is in use by driver ${each.driver}`).join(' and ')}`,
      hint: `Give the whole group to user space: ${blockers.map((each) => `host.device('${each.bdf}').bind()`).join('; ')}`,
    };
  if (error.code === 'EPERM')
    return {
      reason: `group ${device.group} of ${bdf} belongs to another iommufd or container${group && group.devices.length > 1 ? ` (its devices: ${group.devices.map((each) => each.bdf).join(', ')}, which must share one)` : ''}, or its interrupts are not isolated`,
    };
  if (error.code === 'EBUSY')
    return {
      reason: `the group file /dev/vfio/${device.group} is open: a device is used either through it or through its own file`,
    };
  if (error.code === 'EINVAL' && error.request === 'VFIO_DEVICE_BIND_IOMMUFD')
    return { reason: `${bdf} is bound already, by this descriptor or by another one` };
  return undefined;
}

/** A device's own file could not be found or opened. */
export function wordsForNode(device: PciDevice): Words {
  const { bdf, driver } = device;
  if (driver !== 'vfio-pci')
    return {
      reason: driver === null ? `${bdf} has no driver` : `${bdf} is held by driver ${driver}`,
      hint: `Give it to VFIO first: await host.device('${bdf}').bind()`,
    };
  return {
    reason: `${bdf} is with vfio-pci but has no character device`,
    hint: 'It needs a kernel (6.6 or later) with CONFIG_VFIO_DEVICE_CDEV',
  };
}

/** open() of a node failed. */
export function wordsForOpen(error: VfioError, path: string): Words | undefined {
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    if (!existsSync(path)) return undefined;
    const { mode, uid, gid } = statSync(path);
    return {
      reason: `${path} has mode ${(mode & 0o7777).toString(8).padStart(4, '0')}, owner ${uid}, group ${gid}; this process runs as ${process.geteuid?.()}`,
      hint: `Let this user in: a udev rule, or "chown" of ${path}`,
    };
  }
  if (error.code !== 'ENOENT' && error.code !== 'ENODEV' && error.code !== 'ENXIO') return undefined;
  if (path === '/dev/iommu')
    return {
      reason: 'this kernel has no iommufd',
      hint: 'It needs Linux 6.2 or later with CONFIG_IOMMUFD; as a module: "modprobe iommufd". Without it, Host.open({ backend: \'software\' }) runs the same program on a simulated host',
    };
  return { reason: `there is no ${path}` };
}
