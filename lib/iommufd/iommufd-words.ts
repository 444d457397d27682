/** The reasons and hints of failed calls on page tables, queues and virtual IOMMUs, and of calls that an old kernel lacks. */

import type { NativeFile } from '../addon/files.ts';
import type { VfioError, Words } from '../base/errors.ts';

/** The Linux release that introduced a request. */
const since: Record<string, string> = {
  IOMMU_HWPT_ALLOC: '6.6',
  IOMMU_GET_HW_INFO: '6.6',
  IOMMU_HWPT_SET_DIRTY_TRACKING: '6.7',
  IOMMU_HWPT_GET_DIRTY_BITMAP: '6.7',
  IOMMU_HWPT_INVALIDATE: '6.8',
  IOMMU_FAULT_QUEUE_ALLOC: '6.11',
  IOMMU_IOAS_MAP_FILE: '6.13',
  IOMMU_VIOMMU_ALLOC: '6.13',
  IOMMU_VDEVICE_ALLOC: '6.13',
  IOMMU_IOAS_CHANGE_PROCESS: '6.13',
  IOMMU_VEVENTQ_ALLOC: '6.15',
  IOMMU_HW_QUEUE_ALLOC: '6.17',
  IOMMU_IOAS_NOIOMMU_GET_PA: '7.3',
};

/** Whether the kernel of `file` is older than `release`. */
function olderThan(file: NativeFile, release: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map(Number);
  const [its = 0, itsMinor = 0] = file.release().split(/[.-]/).map(Number);
  return its < major || (its === major && itsMinor < minor);
}

/** "needs Linux 6.13, this host answers as 6.12"; undefined if the kernel is not older than that. */
function needs(what: string, release: string, file: NativeFile): Words | undefined {
  if (!olderThan(file, release)) return undefined;
  return { reason: `${what} needs Linux ${release}, this host answers as ${file.release()}` };
}

/** Words for ENOTTY: the request came with a later release. */
export function wordsForMissing(error: VfioError, file: NativeFile): Words | undefined {
  const release = error.code === 'ENOTTY' && error.request !== undefined && since[error.request];
  return release ? needs(error.request as string, release, file) : undefined;
}

/** Words for EBUSY from IOMMU_DESTROY. `users`: the known users of the object, in words. */
export function wordsForBusy(users: readonly string[]): Words {
  return {
    reason:
      users.length > 0
        ? users.join(', and ')
        : 'something uses it that was not opened here: an attached device, a page table made of it, an open queue',
  };
}

/** The arguments of IOMMU_HWPT_ALLOC. */
export interface HwptRequest {
  nestParent: boolean;
  dirtyTracking: boolean;
  pasid: boolean;
  faultQueue: boolean;
  /** The kind of object that the page table is made of. */
  parent: 'Ioas' | 'Hwpt' | 'Viommu';
  format: string | undefined;
}

/** Why IOMMU_HWPT_ALLOC failed. */
export function wordsForHwpt(error: VfioError, asked: HwptRequest, file: NativeFile): Words | undefined {
  const { parent, format } = asked;
  switch (error.code) {
    case 'EOPNOTSUPP':
      if (parent === 'Hwpt' && format === undefined)
        return {
          reason: 'a page table on top of another one needs data: its format, and the address of its root',
        };
      return (
        (asked.pasid ? needs('pasid', '6.15', file) : undefined) ??
        (asked.faultQueue && parent === 'Ioas'
          ? needs('faultQueue on a page table of an Ioas', '6.13', file)
          : undefined) ??
        (asked.faultQueue && asked.nestParent
          ? { reason: 'nestParent and faultQueue exclude each other' }
          : undefined) ??
        (asked.dirtyTracking
          ? {
              reason: "the device's IOMMU does not track dirty pages, or not together with the other options",
              hint: 'iommufd.hwInfo(device).capabilities.dirtyTracking tells',
            }
          : undefined) ??
        (asked.nestParent ? { reason: "the device's IOMMU translates in one stage only" } : undefined) ??
        (format !== undefined
          ? {
              reason: `the device's IOMMU takes no page tables of format '${format}'${parent === 'Ioas' ? ' made of an Ioas: parent is a Hwpt made with { nestParent: true }' : ''}`,
              hint: 'iommufd.hwInfo(device).type tells the kind of the IOMMU',
            }
          : { reason: "the device's IOMMU can't do what was asked" })
      );
    case 'EINVAL':
      if (parent === 'Hwpt')
        return {
          reason: `the parent was not made with { nestParent: true } or is another IOMMU's, or the data is not right for '${format}'`,
        };
      if (format !== undefined) return { reason: `the data is not right for '${format}'` };
      return undefined;
    case 'EADDRINUSE':
      return {
        reason: "the Ioas has mappings or allowed ranges outside of what the device's IOMMU translates",
      };
    case 'EFAULT':
      return {
        reason: "memory that is mapped in the Ioas can't be pinned: it is not there, or not writable",
      };
    default:
      return wordsForMissing(error, file);
  }
}

/** Why an attach or a detach with a PASID failed. */
export function wordsForPasid(error: VfioError, file: NativeFile): Words | undefined {
  if (error.code === 'EINVAL' || error.code === 'ENOTTY') return needs('pasid', '6.15', file);
  if (error.code === 'EOPNOTSUPP')
    return {
      reason:
        "the driver of the device's IOMMU attaches no page table with a PASID, or the device is mediated",
    };
  if (error.code === 'EBUSY')
    return {
      reason:
        'the PASID may be in use by the kernel; with PASID 0, the device may be attached without a PASID already',
    };
  return undefined;
}

/** Why a bind with a token failed. */
export function wordsForToken(error: VfioError, file: NativeFile): Words | undefined {
  if (error.code === 'EINVAL') return needs('token', '6.17', file);
  return undefined;
}
