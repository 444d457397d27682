/**
 * An address space of its own for a bond, to which the device is attached: with a PASID where device and kernel have them, so
 * that the device keeps the address space of its accesses without a PASID; else as the only address space of the device.
 *
 * Life: `attach` makes the IOAS, the page table and the attachment; `detach` ends them all. Until then the device's handle
 * refers to what it is attached to.
 */
import { VfioError, type Words, withWords } from '../base/errors.ts';
import { ownOf } from '../base/own.ts';
import { bindingOf } from '../handles/iommufd-file.ts';
import type { FaultQueue } from '../iommufd/fault-queue.ts';
import type { Hwpt } from '../iommufd/hwpt.ts';
import { Ioas } from '../iommufd/ioas.ts';
import type { Iommufd } from '../iommufd/iommufd.ts';
import type { VfioDevice } from '../vfio/device.ts';
import type { BondingRequest, NoWay } from './way.ts';

/** The address space of a bond. */
export interface Attachment {
  readonly ioas: Ioas;
  /** The PASID that the device has to send; null: it reaches the IOAS by accesses without a PASID. */
  readonly pasid: number | null;
  /** Ends it: the device reaches nothing by it any more. Can't fail; a second call does nothing. */
  detach(): void;
}

/** The other ways to say it: the error of a step that failed is the reason. Errors that are no VfioError end the bind. */
export function noWay(error: unknown, step: string): NoWay {
  if (!(error instanceof VfioError)) throw error;
  return { code: error.code, reason: `${step}: ${error.reason ?? error.message}` };
}

/** Whether a way has made something, or says why not. */
export const isNoWay = (value: object): value is NoWay => 'reason' in value;

/** Why a bond over the device's own iommufd can't be made, whatever the way. */
export function unsuited({ device, pid }: BondingRequest): NoWay | undefined {
  if (pid !== undefined)
    return {
      code: 'EOPNOTSUPP',
      reason: `only the memory of this process can be mapped for the device, and process ${pid} is another`,
    };
  if (device.iommufd === null)
    return {
      code: 'EINVAL',
      reason: `${nameOf(device)} is not bound to an iommufd: open it by its character device (Linux 6.6) and call device.bind(iommufd); a device that was opened by its group has the address space of the group's container`,
    };
  return undefined;
}

/** Attaches the device to a new address space, which reports page faults to `queue` if one is given. */
export function attach(device: VfioDevice, queue?: FaultQueue): Attachment | NoWay {
  const iommufd = device.iommufd as Iommufd;
  const attached = withPasid(device, iommufd, queue);
  if (!isNoWay(attached)) return attached;
  const taken = bindingOf(device).spaces.get(undefined);
  if (taken !== undefined) {
    const space = `${taken instanceof Ioas ? 'IOAS' : 'page table'} ${(taken as Ioas | Hwpt).id}`;
    return {
      code: 'EBUSY',
      reason: `${nameOf(device)} is attached to ${space}: detach it first (device.detach()), as it can't be attached with a PASID besides (${attached.reason})`,
    };
  }
  return made(device, iommufd, queue, []);
}

const nameOf = (device: VfioDevice) => device.bdf ?? 'the device';

/** How many PASIDs are tried: a kernel driver of the device may have given some of them to processes. */
const TRIES = 64;

/**
 * The lowest PASIDs from 1 on that this handle of the device has not attached. Those that another handle of the same open file
 * has attached are not known: an attach would replace them.
 */
function freePasids(device: VfioDevice, count: number): number[] {
  const { spaces } = bindingOf(device);
  const found: number[] = [];
  for (let pasid = 1; pasid < count && found.length < TRIES; pasid++)
    if (!spaces.has(pasid)) found.push(pasid);
  return found;
}

function withPasid(device: VfioDevice, iommufd: Iommufd, queue: FaultQueue | undefined): Attachment | NoWay {
  let width: number;
  try {
    width = iommufd.hwInfo(device).maxPasidLog2;
  } catch (error) {
    return noWay(error, 'the width of its PASIDs is unknown');
  }
  if (width === 0)
    return {
      code: 'EOPNOTSUPP',
      reason: 'the device, its IOMMU or the kernel (before Linux 6.15) has no PASIDs',
    };
  const pasids = freePasids(device, 2 ** width);
  if (pasids.length === 0) return { code: 'ENOSPC', reason: `all ${2 ** width - 1} PASIDs are in use` };
  const attached = made(device, iommufd, queue, pasids);
  // The kernel says EINVAL, and not why. It is known for an IOAS: the page table that it is attached by never is for PASIDs.
  if (isNoWay(attached) && attached.code === 'EINVAL') {
    const own = bindingOf(device).spaces.get(undefined);
    if (own !== undefined)
      return {
        code: 'EINVAL',
        reason: `its own page table ${own instanceof Ioas ? 'was' : 'was possibly'} not made for PASIDs: iommufd.allocHwpt({ device, parent: ioas, pasid: true }) makes one that is`,
      };
  }
  return attached;
}

function made(
  device: VfioDevice,
  iommufd: Iommufd,
  queue: FaultQueue | undefined,
  pasids: readonly number[],
): Attachment | NoWay {
  const ioas = iommufd.allocIoas();
  let table: Hwpt | undefined;
  let pasid: number | undefined;
  try {
    if (queue !== undefined || pasids.length > 0)
      table = iommufd.allocHwpt({
        device,
        parent: ioas,
        ...(pasids.length === 0 ? {} : { pasid: true }),
        ...(queue === undefined ? {} : { faultQueue: queue }),
      });
    pasid = attachTo(device, table ?? ioas, pasids);
  } catch (error) {
    table?.[Symbol.dispose]();
    ioas[Symbol.dispose]();
    return noWay(
      queue === undefined ? error : withWords(error, (failed) => wordsForRequests(failed)),
      pasids.length === 0 ? 'no attach' : 'no attach with a PASID',
    );
  }
  const to = table ?? ioas;
  return {
    ioas,
    pasid: pasid ?? null,
    detach() {
      // The program may have disposed the device, or attached it to something else in the meantime.
      if (!device.disposed && bindingOf(device).spaces.get(pasid) === to)
        attempt(() => device.detach(pasid === undefined ? {} : { pasid }), device);
      if (table !== undefined) attempt(() => table?.[Symbol.dispose](), device);
      // Whatever failed above: this unmaps everything, and what is not known to be unmapped is kept.
      ioas[Symbol.dispose]();
    },
  };
}

/** Attaches with the first of these PASIDs that nobody uses, and returns it; with none of them if the list is empty. */
function attachTo(device: VfioDevice, to: Ioas | Hwpt, pasids: readonly number[]): number | undefined {
  if (pasids.length === 0) {
    device.attach(to);
    return undefined;
  }
  for (const [at, pasid] of pasids.entries()) {
    try {
      device.attach(to, { pasid });
      return pasid;
    } catch (error) {
      const used = error instanceof VfioError && error.code === 'EBUSY'; // the kernel has given it to a process
      if (!used || at === pasids.length - 1) throw error;
    }
  }
  return undefined;
}

/** No IOMMU says that it is for want of page requests: VT-d answers ENODEV, SMMUv3 EINVAL, others EOPNOTSUPP. */
function wordsForRequests({ code, reason }: VfioError): Words | undefined {
  if (reason !== undefined || !/^(ENODEV|EINVAL|EOPNOTSUPP)$/.test(code)) return undefined;
  return { reason: 'possibly the device or its IOMMU has no page requests (ATS with PRI, or stalls)' };
}

/** A step of an end that can't fail. What it leaves behind lives until the iommufd is closed: the program is told. */
function attempt(step: () => void, device: VfioDevice): void {
  try {
    step();
  } catch (error) {
    process.emitWarning(
      `The bond with ${nameOf(device)} has ended, but an object of its iommufd is left until that is closed: ${error instanceof Error ? error.message : String(error)}`,
      ownOf({ type: 'VfioSvaWarning', code: 'VFIO_SVA_LEFT' }),
    );
  }
}
