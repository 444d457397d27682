/** A bonding of a way, made directly, with what a test has to see of it. */
import { closeSync, openSync, readSync } from 'node:fs';
import { vi } from 'vitest';
import type { Ioas, IoPageFault, VfioDevice } from '../../lib/index.ts';
import type { Bonding, BondingRequest, MakeBonding, NoWay } from '../../lib/sva/way.ts';

/** A bonding that was made. */
export interface Bonded extends Disposable {
  readonly bonding: Bonding;
  /** Its address space, which no program gets hold of. */
  readonly ioas: Ioas;
  /** The accesses that failed. */
  readonly faults: IoPageFault[];
  /** Allocates memory as the bond does, and finds out where it is. Valid while a test allocates by this function only. */
  allocate(size: number): { address: bigint; bytes: Uint8Array };
}

/** What a way answers. */
export function asked(make: MakeBonding, device: VfioDevice, o?: Partial<BondingRequest>): Bonding | NoWay {
  const events = { fault: () => {}, exit: () => {} };
  return make({ device, pid: undefined, exclusive: false, events, ...o });
}

/** Makes a bonding that has to be possible. */
export function bonded(make: MakeBonding, device: VfioDevice, o?: Partial<BondingRequest>): Bonded {
  const { iommufd } = device;
  if (iommufd === null) throw new Error('the device is bound to no iommufd');
  const allocate = iommufd.allocIoas.bind(iommufd);
  const spaces: Ioas[] = [];
  const spy = vi.spyOn(iommufd, 'allocIoas').mockImplementation(() => {
    const made = allocate();
    spaces.push(made);
    return made;
  });
  const faults: IoPageFault[] = [];
  const events = { fault: (fault: IoPageFault) => void faults.push(fault), exit: () => {} };
  const bonding = asked(make, device, { events, ...o });
  spy.mockRestore();
  if ('reason' in bonding) throw new Error(`${bonding.code}: ${bonding.reason}`);
  const ioas = spaces.at(-1) as Ioas;
  return {
    bonding,
    ioas,
    faults,
    allocate(size) {
      const bytes = new Uint8Array(bonding.allocate(size));
      return { address: addressOf(ioas, bytes), bytes };
    },
    [Symbol.dispose]: () => bonding.dispose(),
  };
}

/** The address of bytes in one of these mappings: a random mark is searched for, at the start of each page. */
function addressOf(ioas: Ioas, bytes: Uint8Array): bigint {
  const page = 4096n;
  const before = bytes.slice(0, 8);
  const mark = crypto.getRandomValues(new Uint8Array(8));
  bytes.set(mark);
  try {
    for (const { iova, length } of ioas.mappings())
      for (let at = iova; at < iova + length; at += page) if (holds(at, mark)) return at;
  } finally {
    bytes.set(before);
  }
  throw new Error('the memory is nowhere in the address space');
}

/** The bytes at an address of this process. */
export function bytesAt(address: bigint, length: number): Uint8Array {
  const memory = openSync('/proc/self/mem', 'r');
  try {
    const bytes = new Uint8Array(length);
    readSync(memory, bytes, 0, length, address);
    return bytes;
  } finally {
    closeSync(memory);
  }
}

const holds = (address: bigint, mark: Uint8Array): boolean =>
  bytesAt(address, mark.length).every((byte, at) => byte === mark[at]);
