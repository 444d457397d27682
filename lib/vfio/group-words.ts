/** The reasons and hints of failed calls on groups, containers and hot resets. */

import type { VfioError, Words } from '../base/errors.ts';
import { tokenRefused, wordsForRefusal } from '../system/explain/host-words.ts';
import type { GroupFacts } from '../system/facts/group-facts.ts';
import { usesVfioDriver } from '../system/facts/pci-facts.ts';

const members = (group: GroupFacts | undefined) =>
  (group?.devices ?? []).map(({ bdf, driver }) => `${bdf} (${driver ?? 'no driver'})`).join(', ');

/** Why the file of a group could not be opened. `node`: its path. */
export function wordsForOpenGroup(
  error: VfioError,
  id: number,
  group: GroupFacts | undefined,
  node: string,
): Words | undefined {
  switch (error.code) {
    case 'EBUSY':
      return {
        reason: `${node} is open already, or a device of group ${id} is used through its character device: a group has one user`,
        hint: `Find it: "fuser -v ${node}"`,
      };
    case 'ENOENT':
    case 'ENODEV':
    case 'ENXIO':
      if (group === undefined) return { reason: `there is no group ${id}` };
      if (group.noIommu)
        return {
          reason: `group ${id} has no IOMMU: its devices reach all memory`,
          hint: 'If that is acceptable: { unsafeNoIommu: true }',
        };
      return group.devices.some(usesVfioDriver)
        ? {
            reason: `there is no ${node}`,
            hint: 'It needs a kernel with CONFIG_VFIO_GROUP',
          }
        : {
            reason: `no device of group ${id} is bound to a VFIO driver: ${members(group)}`,
            hint: 'Bind them to VFIO first: await host.device(bdf).bind()',
          };
    case 'EPERM':
      return { reason: 'a group without an IOMMU needs CAP_SYS_RAWIO', hint: 'Run as root' };
    default:
      return undefined;
  }
}

/** Why VFIO_GROUP_SET_CONTAINER or UNSET_CONTAINER failed. */
export function wordsForSetContainer(
  error: VfioError,
  id: number,
  group: GroupFacts | undefined,
): Words | undefined {
  const blockers = group?.viability().blockers ?? [];
  switch (error.code) {
    case 'EPERM':
      if (blockers.length > 0)
        return {
          reason: `group ${id} is not viable: ${blockers.map((each) => each.reason).join('; ')}`,
          hint: `Give the whole group to user space: ${blockers.map((each) => `await host.device('${each.bdf}').bind()`).join('; ')}`,
        };
      return (
        wordsForRefusal(error, [group]) ?? {
          reason: `the DMA of group ${id} belongs to someone else (another container or iommufd), or the container has groups of the other kind, with or without an IOMMU, or its interrupts are not isolated`,
        }
      );
    case 'EINVAL':
      return error.request === 'VFIO_GROUP_SET_CONTAINER'
        ? { reason: `group ${id} is in a container or an iommufd already` }
        : { reason: `group ${id} is in no container` };
    case 'EBUSY':
      return error.request === 'VFIO_GROUP_SET_CONTAINER'
        ? { reason: `a device of group ${id} is used with page tables of another owner` }
        : { reason: `devices of group ${id} are open`, hint: 'Dispose them first' };
    default:
      return undefined;
  }
}

/**
 * Why VFIO_GROUP_GET_DEVICE_FD failed, or a call on a device that uses the address space of its group's container. `token`: one
 * was given.
 */
export function wordsForGroupDevice(
  error: VfioError,
  bdf: string,
  id: number,
  group: GroupFacts | undefined,
  token: boolean,
): Words | undefined {
  if (error.request !== 'VFIO_GROUP_GET_DEVICE_FD')
    return error.request === 'VFIO_DEVICE_BIND_IOMMUFD' || error.request?.includes('IOMMUFD_PT')
      ? {
          reason: `${bdf} was opened through group ${id}: it has the address space of the group's container`,
          hint: 'Opened by its character device (host.openDevice) it can be bound and attached',
        }
      : undefined;
  const device = group?.devices.find((each) => each.bdf === bdf);
  switch (error.code) {
    case 'ENODEV':
      if (device === undefined) return { reason: `${bdf} is not in group ${id}: ${members(group)}` };
      return {
        reason: `${bdf} is not bound to a VFIO driver (its driver: ${device.driver ?? 'none'})`,
        hint: `await host.device('${bdf}').bind()`,
      };
    case 'EINVAL': {
      const refused = token && device !== undefined ? tokenRefused(device) : undefined;
      return (
        refused ?? {
          reason: `possible: group ${id} has no address space yet, or ${bdf} is open by its character device`,
          hint: "For an address space: group.setContainer(container); container.setIommu('type1v2')",
        }
      );
    }
    case 'EACCES':
      return {
        reason: `the token is missing or wrong: ${bdf} is a virtual function whose physical function is bound to vfio-pci, or a physical one whose virtual functions are open`,
        hint: 'The token that the physical function was given by setVfToken: openDevice(bdf, { vfToken })',
      };
    case 'EPERM':
      return wordsForSetContainer(error, id, group);
    case 'EBUSY':
      return { reason: `the DMA of group ${id} belongs to someone else` };
    default:
      return undefined;
  }
}

/** One function of a hot reset, and whether this program owns it. */
export interface ResetFunction {
  bdf: string;
  group: number | null;
  owned: boolean;
}

/**
 * Why VFIO_DEVICE_PCI_HOT_RESET or its GET_INFO failed. `others`: the functions that this program does not own, if they are
 * known.
 */
export function wordsForHotReset(
  error: VfioError,
  others: readonly ResetFunction[],
  byGroups: boolean,
): Words | undefined {
  switch (error.code) {
    case 'ENODEV':
      return { reason: 'neither its slot nor its bus can be reset' };
    case 'EINVAL':
      if (others.length > 0)
        return {
          reason: `the reset would also hit ${others.map(({ bdf, group }) => `${bdf}${group === null ? '' : ` of group ${group}`}`).join(', ')}, ${byGroups ? 'whose group was not given' : 'which this iommufd does not own'}`,
          hint: byGroups
            ? 'Open these groups, join them to the container and give all of them: hotReset({ groups })'
            : 'Bind these devices to the same iommufd',
        };
      return {
        reason: byGroups
          ? 'a descriptor is no group of the reset, or one of its functions is not bound to a VFIO driver'
          : 'one of its functions is not bound to a VFIO driver, or groups were given for a device that was not opened by its group',
      };
    case 'EBUSY':
    case 'EAGAIN':
      return { reason: 'another of its functions is busy with a reset' };
    default:
      return undefined;
  }
}
