/** The reasons and hints of failures that the state of the host explains: drivers, groups, nodes, permissions. */

import type { NativeHost } from '../../addon/native.ts';
import type { VfioError, Words } from '../../base/errors.ts';
import { OURS } from '../../base/private.ts';
import type { GroupFacts } from '../facts/group-facts.ts';
import { describeOwnership, openersOf } from '../facts/nodes.ts';
import { changeUnderWay, hostOf, PciFacts, usersOf, usesVfioDriver } from '../facts/pci-facts.ts';
import {
  asRoot,
  causesOf,
  type Finding,
  groupOpenCauses,
  interruptsRefused,
  neighbourOpenCauses,
} from './causes.ts';

/** Why a driver could not be bound or unbound. */
export function wordsForBind(error: VfioError, device: PciFacts): Words {
  const { bdf } = device;
  switch (error.code) {
    case 'EACCES':
    case 'EPERM':
      return { reason: 'only root may bind and unbind drivers', hint: 'Run this step as root' };
    case 'ETIMEDOUT':
      return changeUnderWay(bdf);
    case 'EBUSY':
      if (device.driver === null && (device.sriov?.numVfs ?? 0) > 0)
        return {
          reason: `${bdf} has virtual functions already: vfio-pci does not take such a device`,
          hint: `Bind it to a driver that can remove them: await host.device('${bdf}').setNumVfs(0)`,
        };
      return device.driver === null
        ? {
            reason: `another device of group ${device.group} is in use by user space: until that ends, the group takes no driver that does DMA for the kernel`,
          }
        : {
            reason: `${bdf} is held by driver ${device.driver}, and something has the device open${users(device)}`,
            hint: 'Close it first',
          };
    case 'ENODEV':
      return { reason: `the driver does not take ${bdf}` };
    case 'EINVAL':
      return device.group === null
        ? {
            ...wordsForNode(device, undefined),
          }
        : { reason: `the driver refuses ${bdf} (a bridge, or a device that it does not serve)` };
    default:
      return { reason: `${bdf} has driver ${device.driver ?? 'none'}` };
  }
}

/**
 * Why an unbind failed. Call it before the unbind: once that has begun, sysfs no longer shows the driver, the nodes, and which
 * processes have them open.
 */
export function wordsForUnbind(device: PciFacts): typeof wordsForBind {
  const { bdf, driver } = device;
  const who = users(device);
  return (error) =>
    error.code === 'ETIMEDOUT'
      ? {
          reason: `the unbind of ${bdf} from ${driver} is pending and completes when it is closed: something has the device open${who}`,
          hint: "The device has no driver after that. It can't be cancelled, not even by ending this process",
        }
      : wordsForBind(error, device);
}

/** Why the number of a device's virtual functions could not be set. */
export function wordsForNumVfs(error: VfioError, device: PciFacts): Words {
  const { bdf, driver } = device;
  // The change that is under way holds the lock that reading the number takes.
  const sriov = error.code === 'ETIMEDOUT' ? null : device.sriov;
  switch (error.code) {
    case 'ENOENT':
      if (sriov === null) return { reason: `${bdf} is no SR-IOV physical function` };
      if (driver === null)
        return {
          reason: `${bdf} has no driver: it needs one to have virtual functions`,
          hint: `await host.device('${bdf}').bind()`,
        };
      return driver === 'vfio-pci'
        ? {
            reason: 'vfio-pci makes virtual functions only with its parameter enable_sriov',
            hint: 'setNumVfs(count, { enableSriov: true }), or as root: echo Y > /sys/module/vfio_pci/parameters/enable_sriov',
          }
        : { reason: `driver ${driver} can't make virtual functions` };
    case 'ERANGE':
      return { reason: `${bdf} can have ${sriov?.totalVfs} virtual functions at most` };
    case 'EBUSY':
    case 'ETIMEDOUT': {
      const open = device.virtualFunctions.filter(
        (vf) => usersOf(new PciFacts(OURS, hostOf(device), vf)).length > 0,
      );
      if (open.length > 0)
        return {
          reason: `virtual functions are open: ${open.join(', ')}`,
          hint: 'Close them first, or remove them by force: setNumVfs(0, { force: true })',
        };
      return error.code === 'EBUSY'
        ? {
            reason: `${bdf} has ${sriov?.numVfs} virtual functions: to change the number, remove them first`,
            hint: `await host.device('${bdf}').setNumVfs(0)`,
          }
        : { reason: `driver ${driver} did not finish in time: a virtual function may be open` };
    }
    case 'EACCES':
    case 'EPERM':
      return {
        reason: 'only root may change the number of virtual functions',
        hint: 'Run this step as root',
      };
    default:
      return { reason: `the kernel could not make virtual functions of ${bdf}: its log says why (dmesg)` };
  }
}

function users(device: PciFacts): string {
  const names = usersOf(device);
  return names.length === 0 ? '' : ` (${names.join(', ')})`;
}

/**
 * Why vfio-pci takes no token for this device, whatever the token is (vfio_pci_validate_vf_token); undefined: it takes one, or
 * another cause is possible.
 */
export function tokenRefused(device: PciFacts): Words | undefined {
  const { bdf, physicalFunction, sriov } = device;
  const hint = 'Leave the token out';
  if (device.mediated) return { reason: `${bdf} takes no token: it is a mediated device`, hint };
  if (physicalFunction !== null) {
    const parent = new PciFacts(OURS, hostOf(device), physicalFunction);
    if (usesVfioDriver(parent)) return undefined;
    return {
      reason: `${bdf} takes no token: its physical function ${physicalFunction} is not bound to vfio-pci (its driver: ${parent.driver ?? 'none'})`,
      hint,
    };
  }
  if (sriov !== null) return undefined;
  return { reason: `${bdf} takes no token: it has no virtual functions and is none`, hint };
}

/** Why VFIO_DEVICE_BIND_IOMMUFD or an attach failed. `token`: one was given. */
export function wordsForJoin(
  error: VfioError,
  device: PciFacts,
  group: GroupFacts | undefined,
  token: boolean,
): Words | undefined {
  const { bdf } = device;
  const host = hostOf(device);
  const blockers = group?.viability().blockers ?? [];
  if (error.code === 'EPERM' && blockers.length > 0)
    return {
      reason: `${bdf} can't be used while ${blockers.map((each) => `${each.bdf}, in the same group ${group?.id}, is in use by driver ${each.driver}`).join(' and ')}`,
      hint: `Run: ${asRoot(host, `vfio bind --group ${bdf}`)}`,
    };
  if (error.code === 'EPERM' && group !== undefined) {
    const [user] = [...groupOpenCauses(host, group), ...neighbourOpenCauses(host, device, group)];
    const found = user ?? interruptsRefused(host, bdf, error.request);
    return found && wordsOf(found);
  }
  if (error.code === 'EBUSY')
    return {
      reason: `the group file /dev/vfio/${device.group} is open${by(host, `/dev/vfio/${device.group}`)}: a device is used either through it or through its own file`,
    };
  if (error.code === 'EACCES' && error.request === 'VFIO_DEVICE_BIND_IOMMUFD')
    return {
      reason: `the token is missing or wrong: ${bdf} is a virtual function whose physical function is bound to vfio-pci, or a physical one whose virtual functions are open`,
      hint: 'The token that the physical function was given by setVfToken: bind(iommufd, { token })',
    };
  if (error.code === 'EINVAL' && error.request === 'VFIO_DEVICE_BIND_IOMMUFD') {
    const refused = token ? tokenRefused(device) : undefined;
    return (
      refused ?? {
        reason: `possible: ${bdf} is bound already, by this descriptor or by another one${device.vfioNode === null ? '' : by(host, device.vfioNode)}`,
      }
    );
  }
  return undefined;
}

/** Why a request on these groups was refused with EPERM: because of their interrupts, if the request checks these. */
export function wordsForRefusal(
  error: VfioError,
  groups: readonly (GroupFacts | undefined)[],
): Words | undefined {
  const devices = groups.flatMap((group) => group?.endpoints ?? []);
  const [first] = devices;
  if (first === undefined) return undefined;
  const names = devices.map(({ bdf }) => bdf).join(', ');
  const found = interruptsRefused(hostOf(first), names, error.request);
  return found && wordsOf(found);
}

/** The reason of a finding, with its commands as the hint. */
export function wordsOf(finding: Finding): Words {
  const { reason, commands } = finding;
  return commands.length === 0 ? { reason } : { reason, hint: `Run: ${commands.join(' && ')}` };
}

/** " (process 4711 (qemu))": the processes that have a node open, as far as they can be seen. */
function by(host: NativeHost, path: string): string {
  const openers = openersOf(host, path);
  return openers.length === 0 ? '' : ` (${openers.map((each) => each.name).join(', ')})`;
}

/** Why a device's character device could not be found or opened. */
export function wordsForNode(device: PciFacts, group: GroupFacts | undefined): Words {
  const found = causesOf(hostOf(device), device, group).find(
    ({ cause }) => cause !== 'interrupts' && cause !== 'no-reset' && cause !== 'group',
  );
  return found === undefined ? { reason: `${device.bdf} has no character device` } : wordsOf(found);
}

/** Why VFIO has no group for a device that no IOMMU translates, which it would make if its parameter allowed it. */
export function wordsWithoutGroup(device: PciFacts): Words {
  const { bdf } = device;
  const host = hostOf(device);
  const parameter = '/sys/module/vfio/parameters/enable_unsafe_noiommu_mode';
  const mode = host.readText(parameter)?.trim();
  const none = `${bdf} is in no IOMMU group, and VFIO makes none for it`;
  if (mode === undefined)
    return {
      reason: `${none}: there is no ${parameter}. Possible: the module vfio is not loaded, or the kernel was built without CONFIG_VFIO_NOIOMMU`,
      hint: `Run: ${asRoot(host, 'modprobe vfio enable_unsafe_noiommu_mode=1')}`,
    };
  if (mode === 'Y' || mode === '1')
    return {
      reason: `${none}, though enable_unsafe_noiommu_mode is on. Possible: ${bdf} is not bound to vfio-pci, or was bound before that`,
      hint: `Bind it: await host.device('${bdf}').bind()`,
    };
  return {
    reason: `${none}: its parameter enable_unsafe_noiommu_mode is off`,
    hint: `Run: ${asRoot(host, `sh -c 'echo 1 > ${parameter}'`)} and bind the device to vfio-pci after that`,
  };
}

/** Why a node could not be opened. */
export function wordsForOpen(error: VfioError, host: NativeHost, path: string): Words | undefined {
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    if (host.ownership(path) === null) return undefined;
    return {
      reason: `${path} ${describeOwnership(host, path)}`,
      hint: `Run: ${asRoot(host, `vfio grant BDF --user ${host.user()}`)} (which prints the udev rule that makes it last)`,
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
