/**
 * The machine of a software host, as docs/topology.md describes it. What is right and wrong about one is the software
 * host's to say; here it only becomes text.
 */
import { options, refusal, type U64Like } from '../../base/check.ts';
import { ownOf } from '../../base/own.ts';

/** An IOMMU of a simulated machine. What is not said follows from the kind. */
export interface IommuModel {
  /** Whose: what `hwInfo` tells of it, and which page tables of one's own it takes. */
  kind: 'vtd' | 'smmuv3' | 'amd' | 'ppc' | 'virtio' | 'custom';
  /** The I/O virtual addresses that it translates. */
  apertures?: { start: U64Like; last: U64Like }[];
  /** Parts of them that devices can't use: message interrupts, what firmware keeps. */
  reserved?: {
    start: U64Like;
    last: U64Like;
    type?: 'direct' | 'direct-relaxable' | 'reserved' | 'msi' | 'software-msi';
  }[];
  /** Page sizes in bytes, powers of two. */
  pageSizes?: U64Like[];
  /** Bits of a PASID, 0 to 20; 0: none. */
  pasidBits?: number;
  /** How devices ask for pages that are not there. */
  pageRequests?: 'pri' | 'stall' | false;
  /** Formats of nested page tables that it takes. */
  nesting?: ('vtd-s1' | 'arm-smmuv3' | 'amd-guest')[];
  /** Whether it marks pages that devices wrote. */
  dirtyTracking?: boolean;
  /** Whether an SMMUv3 has Tegra241's virtual command queues. */
  commandQueues?: boolean;
  /** Whether accesses of devices always see caches as they are. */
  enforcesCoherency?: boolean;
  /** Whether a device can raise its own interrupts only. */
  isolatesInterrupts?: boolean;
}

/** A BAR of a device that does nothing: `size` is a power of two; `memory`: plain memory is behind it. */
export interface PassiveBar {
  kind: 'memory32' | 'memory64' | 'io';
  size: U64Like;
  prefetchable?: boolean;
  memory?: boolean;
}

/** The virtual functions that a device can have: they are all alike, do nothing, and can be reset alone. */
export interface SriovModel {
  /** How many at most, 1 to 255: all of them on the bus of the device. */
  totalVfs: number;
  /** How far behind the device the first one is, in functions; default 1. */
  offset?: number;
  /** From each one to the next; default 1. */
  stride?: number;
  /** Their device id; default: that of the device. Vendor and class are the device's. */
  device?: U64Like;
  /** As the device's, of memory only, and of at least 4096 bytes each. */
  bars?: (PassiveBar | null)[];
  /** How many messages of MSI; default 0. */
  msi?: number;
  /** How many vectors of MSI-X; default 0. */
  msix?: number;
}

/** A device of a simulated machine. */
export interface DeviceModel {
  /**
   * 'upstream-port', 'downstream-port': the two sides of a switch; 'bridge': to a conventional bus; 'passive': registers
   * that read as zero, of any identity.
   */
  model:
    | 'edu'
    | 'ivshmem'
    | 'root-port'
    | 'upstream-port'
    | 'downstream-port'
    | 'bridge'
    | 'host-bridge'
    | 'passive';
  /** Its PCI address. Without `behind` its bus is a root bus. */
  bdf?: string;
  /** Address of the bridge or port that it is behind. */
  behind?: string;
  /** With `behind`, instead of `bdf`: 0 to 31; the bus number is the bridge's. */
  slot?: number;
  /** With `slot`: 0 to 7; default 0. */
  function?: number;
  /**
   * Has it access control services (ACS), turned on? They keep its requests from its neighbours, and so decide about
   * groups. Default: true for root and downstream ports, else false. Conventional devices have none.
   */
  acs?: boolean;
  /** Which IOMMU translates it, by index; null: none. Default: as the bridge in front of it, or 0. */
  iommu?: number | null;
  /** The driver that it starts on; null: none. Default: the one that matches. */
  driver?: string | null;
  /** How many PASID bits it has; default 0. */
  pasidBits?: number;
  /** Whether it can ask for pages; default false. */
  pageRequests?: boolean;
  /** The number of its group. Default: the next one, in the order in which a kernel finds devices. */
  group?: number;
  /** Its legacy interrupt line, 0 to 255. */
  irq?: number;
  /** The disk that its host driver makes of it, and where that is mounted. */
  disk?: { name: string; mountedOn?: string };
  /** The network interface that its host driver makes of it; `route`: traffic leaves by it. */
  network?: { name: string; up?: boolean; route?: boolean };
  /** The UUIDs of the mediated devices that the driver of this one makes of it. */
  mdevs?: string[];
  /** Whether that driver keeps them apart. If not, they share one group. Default true. */
  mdevsIsolated?: boolean;
  /** Where its BARs are, by BAR. Default: one after the other. */
  addresses?: (U64Like | null)[];
  /** 'passive': what it says that it is, 16, 16 and 24 bits. */
  vendor?: U64Like;
  device?: U64Like;
  classCode?: U64Like;
  /** 'passive': default 0. */
  subsystemVendor?: U64Like;
  subsystemDevice?: U64Like;
  revision?: U64Like;
  /** 'passive': up to 6; null: not there. The place after a 'memory64' is its upper half, and null. */
  bars?: (PassiveBar | null)[];
  /** 'passive': has it an INTx pin? Default false. */
  pin?: boolean;
  /** 'passive': how many messages of MSI; default 0. */
  msi?: number;
  /** 'passive': how many vectors of MSI-X; default 0. */
  msix?: number;
  /** 'passive': has it a PCI Express capability? Default true, false behind a conventional bridge. */
  express?: boolean;
  /** 'passive': can it be reset alone? Default false. */
  functionReset?: boolean;
  /** 'passive': the virtual functions (SR-IOV) that it can have. */
  sriov?: SriovModel;
}

/** The kernel around the machine. */
export interface SystemModel {
  /**
   * What it was started with: `intel_iommu=off` and `intremap=off` do what they say, and so do parameters of modules
   * (`vfio.enable_unsafe_noiommu_mode=1`).
   */
  commandLine?: string;
  /** What it lacks: modules, or (CONFIG_VFIO_DEVICE_CDEV) nodes for single devices. */
  without?: ('iommufd' | 'vfio-pci' | 'device-nodes')[];
  /** The user that the program is. Default: whoever it is, nodes have no permissions. */
  user?: number;
}

/** A machine: its IOMMUs (default: one VT-d; empty: none) and what is on its buses. Groups follow from it. */
export interface Topology {
  system?: SystemModel;
  iommus?: IommuModel[];
  devices?: DeviceModel[];
}

/** As JSON, which the software host reads. 64-bit quantities that JSON's numbers can't hold go as hexadecimal text. */
export function topologyText(topology: Topology | DeviceModel, name: string): string {
  try {
    return json(options(topology, name)) ?? '';
  } catch (error) {
    if (error instanceof RangeError) throw refusal('what can be written as JSON', name, topology); // it contains itself
    throw error;
  }
}

/**
 * JSON.stringify asks the value's prototype for toJSON first, and programs give bigint one (its decimal digits as text).
 * Undefined: there is no text for it.
 */
function json(value: unknown): string | undefined {
  if (typeof value === 'bigint')
    return value <= Number.MAX_SAFE_INTEGER && value >= Number.MIN_SAFE_INTEGER
      ? `${value}`
      : `"0x${value.toString(16)}"`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${Array.from(value, (each) => json(each) ?? 'null').join(',')}]`;
  const members = Object.entries(ownOf(value)).flatMap(([key, each]) => {
    const text = json(each);
    return text === undefined ? [] : `${JSON.stringify(key)}:${text}`;
  });
  return `{${members.join(',')}}`;
}
