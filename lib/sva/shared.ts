/**
 * Binds are counted: several bonds of this process and one device are one attachment, with one PASID. The ways over iommufd are
 * wrapped by `shared`, as the kernel counts by itself only where it binds.
 *
 * Life: what a way has made is kept with the device from the first bond on it until the last one is disposed.
 */
import { constants } from 'node:os';
import { VfioError } from '../base/errors.ts';
import type { VfioDevice } from '../vfio/device.ts';
import { ALREADY_BOUND, type Bonding, type BondingEvents, type MakeBonding } from './way.ts';

/** What a way has made for a device, and those that are told of its events. */
interface Shared {
  readonly bonding: Bonding;
  readonly addressBits: number | undefined;
  readonly told: Set<BondingEvents>;
}

/**
 * A way whose bondings are counted for each device. A fault is told to every bond. @throws {VfioError} EEXIST `exclusive`, and a
 * bond of this way exists.
 */
export function shared(make: MakeBonding): MakeBonding {
  const made = new WeakMap<VfioDevice, Shared>();
  return (request) => {
    const { device, pid, exclusive, addressBits } = request;
    const there = pid === undefined ? made.get(device) : undefined;
    if (there === undefined) {
      const told = new Set<BondingEvents>();
      const bonding = make({ ...request, events: toAll(told) });
      if ('reason' in bonding) return bonding;
      const first = { bonding, addressBits, told };
      made.set(device, first);
      return holdOf(first, request.events, () => made.delete(device));
    }
    if (exclusive)
      throw new VfioError(constants.errno.EEXIST, {
        syscall: 'ioctl',
        reason: ALREADY_BOUND,
      });
    if (addressBits !== there.addressBits)
      return {
        code: 'EINVAL',
        reason: `the device is bound already, with ${bitsOf(there.addressBits)}, and not with ${bitsOf(addressBits)}`,
      };
    return holdOf(there, request.events, () => made.delete(device));
  };
}

const bitsOf = (bits: number | undefined) => (bits === undefined ? 'no addressBits' : `addressBits ${bits}`);

const toAll = (told: ReadonlySet<BondingEvents>): BondingEvents => ({
  fault: (fault) => {
    for (const each of [...told]) if (told.has(each)) each.fault(fault);
  },
  exit: () => {
    for (const each of [...told]) if (told.has(each)) each.exit();
  },
});

/** One bond's share. `last` is called when no share is left. */
function holdOf({ bonding, told }: Shared, events: BondingEvents, last: () => void): Bonding {
  const own: BondingEvents = { fault: (fault) => events.fault(fault), exit: () => events.exit() };
  told.add(own);
  return {
    way: bonding.way,
    pasid: () => bonding.pasid(),
    ended: () => bonding.ended(),
    reach: (address, length) => bonding.reach(address, length),
    allocate: (size) => bonding.allocate(size),
    adopt: (address, length, owner) => bonding.adopt(address, length, owner),
    dispose() {
      if (!told.delete(own) || told.size > 0) return;
      last();
      bonding.dispose();
    },
  };
}
