/** A bonding of a way, made directly, with what a test has to see of it. */
import { closeSync, openSync, readSync } from 'node:fs';
import { vi } from 'vitest';
import { native } from '../../lib/addon/native.ts';
import {
  Host,
  type Ioas,
  type Iommufd,
  type IommuModel,
  type SimulatedDevice,
  type SoftwareHost,
  type SoftwareOptions,
  type VfioDevice,
} from '../../lib/index.ts';
import type { Bonding, BondingRequest, MakeBonding, NoWay, SvaFault } from '../../lib/sva/way.ts';

/** A bonding that was made. */
export interface Bonded extends Disposable {
  readonly bonding: Bonding;
  /** Its address space, which no program gets hold of. */
  readonly ioas: Ioas;
  /** The accesses that failed. */
  readonly faults: SvaFault[];
  /** Allocates memory as the bond does, and finds out where it is. */
  allocate(size: number): { address: bigint; bytes: Uint8Array };
}

/** A device behind this IOMMU, bound to an iommufd and attached to nothing. */
export function plug(
  model: SimulatedDevice,
  bdf: string,
  iommu: Partial<IommuModel> = {},
  kernel?: string,
): { host: SoftwareHost; iommufd: Iommufd; device: VfioDevice } {
  const software: SoftwareOptions = {
    topology: {
      iommus: [{ kind: 'vtd', pasidBits: 8, pageRequests: 'pri', ...iommu }],
      devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
    },
    ...(kernel !== undefined && { kernel }),
  };
  const host = Host.open({ backend: 'software', software });
  host.software.addDevice(bdf, model);
  const iommufd = host.openIommufd();
  const device = host.openDevice(bdf);
  device.bind(iommufd);
  device.config.busMaster = true;
  return { host, iommufd, device };
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
  const faults: SvaFault[] = [];
  const events = { fault: (fault: SvaFault) => void faults.push(fault), exit: () => {} };
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
      const place = native.addressOf(bytes);
      if (place === null) throw new Error('the bytes are nowhere');
      return { address: place.address, bytes };
    },
    [Symbol.dispose]: () => bonding.dispose(),
  };
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
