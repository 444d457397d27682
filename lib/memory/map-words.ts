/** The reasons and hints of failed calls on address spaces: which range, which limit, which memory. */

import type { IovaRange } from '../addon/records.ts';
import type { U64Like } from '../base/check.ts';
import type { VfioError, Words } from '../base/errors.ts';
import { hex, span } from '../base/hex.ts';
import { lastingLockLimit, lockedBytes, lockLimit, raiseLockLimit } from '../base/memlock.ts';

/** The arguments of a map that failed. */
export interface MapRequest {
  iova: U64Like | undefined;
  size: number;
  /** Undefined for a copy, whose memory is the source's. */
  address: bigint | undefined;
}

/** The state of the address space into which the memory was to be mapped. */
export interface SpaceState {
  ranges: IovaRange[];
  alignment: bigint;
  mappings: { iova: bigint; length: bigint }[];
  /** Bytes of this process that are pinned for devices. */
  pinned: number;
  /** How many more mappings type1 takes in this container; undefined: no such limit, or the kernel does not tell. */
  entriesLeft: number | undefined;
}

const mebibytes = (bytes: number) => `${(bytes / 1048576).toFixed(bytes < 10485760 ? 2 : 0)} MiB`;

/** Why IOMMU_IOAS_MAP or IOMMU_IOAS_COPY failed. */
export function wordsForMap(error: VfioError, request: MapRequest, space: SpaceState): Words | undefined {
  const size = BigInt(request.size);
  const iova = request.iova === undefined ? undefined : BigInt(request.iova);
  const last = iova === undefined ? undefined : iova + size - 1n;
  switch (error.code) {
    case 'EEXIST': {
      if (iova === undefined || last === undefined) return undefined;
      const other = space.mappings.find((each) => each.iova <= last && each.iova + each.length - 1n >= iova);
      return (
        other && {
          reason: `${span(iova, last)} overlaps the mapping ${span(other.iova, other.iova + other.length - 1n)}`,
        }
      );
    }
    case 'EINVAL': {
      for (const [name, value] of [
        ['iova', iova],
        ['length', size],
        ['address', request.address],
      ] as const)
        if (value !== undefined && value % space.alignment !== 0n)
          return {
            reason: `${name} ${hex(value)} is not a multiple of the alignment ${hex(space.alignment)}`,
          };
      if (iova === undefined || last === undefined) return undefined;
      const reserved = reservedWithin(iova, last, space.ranges);
      return (
        reserved && {
          reason: `${span(iova, last)} touches the reserved range ${span(reserved.start, reserved.last)}`,
          hint: `Usable: ${space.ranges.map((each) => span(each.start, each.last)).join(', ')}`,
        }
      );
    }
    case 'ENOSPC':
      if (space.entriesLeft === 0)
        return {
          reason: `the container has ${space.mappings.length} mappings, as many as type1 takes (dma_entry_limit, for each container)`,
          hint: 'Map larger ranges, or as root raise the limit before the container is opened: echo NUMBER > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit',
        };
      return {
        reason: `no free range of ${hex(size)} bytes in ${space.ranges.map((each) => span(each.start, each.last)).join(', ')} or what allowIovas left of it`,
      };
    case 'ENOMEM':
      return wordsForMemlock(request.size, space.pinned);
    case 'EFAULT':
      if (request.address === undefined) return { reason: 'the source memory can no longer be pinned' };
      return {
        reason: `the memory at ${span(request.address, request.address + size - 1n)} can't be pinned for the device: not mapped, read-only where the device may write, or a device's own registers`,
      };
    case 'EPERM':
      return { reason: 'the source was mapped without write', hint: 'Copy with { write: false }' };
    default:
      return undefined;
  }
}

/** ENOMEM from pinning: says by how much it is over the locked-memory limit, if there is one. */
export function wordsForMemlock(need: number, pinned: number): Words | undefined {
  const limit = lockLimit();
  if (limit === undefined) return undefined; // no limit applies: the cause is another
  const held = pinned + lockedBytes();
  return {
    reason: `pinning ${mebibytes(need)} more goes over the locked-memory limit (RLIMIT_MEMLOCK) of ${mebibytes(limit.soft)}; this process has ${mebibytes(held)} pinned or locked, and the limit may be shared with the user's other processes`,
    hint: `Raise it and start the program again: ${raiseLockLimit(held + need, limit)}. For good: a line "${lastingLockLimit('USER')}" in /etc/security/limits.conf`,
  };
}

/** The first reserved range, between the usable ones, that [start, last] overlaps; undefined: it overlaps none. */
function reservedWithin(start: bigint, last: bigint, ranges: IovaRange[]): IovaRange | undefined {
  let below = 0n;
  for (const range of ranges) {
    if (below < range.start && start < range.start && last >= below)
      return { start: below, last: range.start - 1n };
    below = range.last + 1n;
  }
  return last >= below ? { start: below, last: 2n ** 64n - 1n } : undefined;
}
