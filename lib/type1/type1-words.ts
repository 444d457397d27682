/** The reasons and hints of failed calls on containers. */
import type { VfioError, Words } from '../base/errors.ts';
import { wordsForRefusal } from '../system/explain/host-words.ts';
import type { GroupFacts } from '../system/facts/group-facts.ts';

/** Why VFIO_SET_IOMMU with a type1 IOMMU failed for a container that these groups have joined. */
export function wordsForSetIommu(
  error: VfioError,
  groups: readonly (GroupFacts | undefined)[],
): Words | undefined {
  return error.code === 'EPERM' ? wordsForRefusal(error, groups) : undefined;
}

/** Why a container's request failed. `own`: it is /dev/vfio/vfio, not an iommufd's. */
export function wordsForContainer(error: VfioError, own: boolean, type: string | null): Words | undefined {
  if (error.reason !== undefined) return undefined;
  if (!own) {
    if (error.code === 'ENODEV')
      return {
        reason: 'the iommufd has no compatibility IOAS',
        hint: 'Set one: iommufd.vfioCompatIoas = iommufd.allocIoas()',
      };
    if (error.code === 'ENOTTY' && error.request === 'VFIO_IOMMU_DIRTY_PAGES')
      return { reason: 'an iommufd tracks dirty pages by page table', hint: 'Hwpt.setDirtyTracking' };
    return undefined;
  }
  switch (error.code) {
    case 'EINVAL':
      if (error.request === 'VFIO_SET_IOMMU')
        return type === null
          ? {
              reason: 'no group has joined the container, or it has an IOMMU already',
              hint: 'Join one first: host.openGroup(id).setContainer(container)',
            }
          : { reason: `the container has its IOMMU already: ${type}` };
      return type === null
        ? {
            reason: 'the container has no IOMMU: it gets one by setIommu, and loses it with its last group',
            hint: "group.setContainer(container); container.setIommu('type1v2')",
          }
        : undefined;
    case 'ENODEV':
      return error.request === 'VFIO_SET_IOMMU'
        ? { reason: 'this kernel has no IOMMU of this type, or it is not for the groups of the container' }
        : undefined;
    case 'ENOTTY':
      return type === 'noiommu'
        ? { reason: 'without an IOMMU nothing can be mapped: the device takes physical addresses' }
        : undefined;
    case 'EACCES':
      return error.request === 'VFIO_IOMMU_DIRTY_PAGES'
        ? { reason: "dirty pages need 'type1v2', the container has 'type1'" }
        : undefined;
    default:
      return undefined;
  }
}
