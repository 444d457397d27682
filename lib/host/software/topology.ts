/**
 * The description of a software host's machine, as docs/topology.md explains it. This file only turns it into text; the
 * software host checks it (native/soft/topology).
 */
import { options, refusal, type U64Like } from '../../base/check.ts';
import { ownOf } from '../../base/own.ts';

/** An IOMMU of a simulated machine. The defaults depend on the kind. */
export interface IommuModel {
  /** Its kind decides the answer of `hwInfo`, and which nested page tables it takes. */
  kind: 'vtd' | 'smmuv3' | 'amd' | 'ppc' | 'virtio' | 'custom';
  /** The I/O virtual addresses that it translates. */
  apertures?: { start: U64Like; last: U64Like }[];
  /** Parts of them that devices can't use: for message interrupts, or reserved by firmware. */
  reserved?: {
    start: U64Like;
    last: U64Like;
    type?: 'direct' | 'direct-relaxable' | 'reserved' | 'msi' | 'software-msi';
  }[];
  /** Page sizes in bytes, powers of two. */
  pageSizes?: U64Like[];
  /** The width of a PASID in bits, 0 to 20; 0: no PASIDs. */
  pasidBits?: number;
  /** How devices request pages that are not mapped; false: they can't. */
  pageRequests?: 'pri' | 'stall' | false;
  /** Formats of nested page tables that it takes. */
  nesting?: ('vtd-s1' | 'arm-smmuv3' | 'amd-guest')[];
  /** Whether it marks pages that devices wrote. */
  dirtyTracking?: boolean;
  /** Whether an SMMUv3 has Tegra241's virtual command queues. */
  commandQueues?: boolean;
  /** Whether it can force accesses of devices to be coherent with the caches. */
  enforcesCoherency?: boolean;
  /** Whether it lets a device raise only its own interrupts. */
  isolatesInterrupts?: boolean;
}

/**
 * A BAR of a passive device. `size`: a power of two, in bytes. `memory`: whether it is plain memory; else it reads as zero.
 * `areas`: the parts that are memory, whole pages; a driver can map these alone. `mappable`: whether a driver can map it.
 */
export interface PassiveBar {
  kind: 'memory32' | 'memory64' | 'io';
  size: U64Like;
  prefetchable?: boolean;
  memory?: boolean;
  areas?: readonly { offset: U64Like; size: U64Like }[];
  mappable?: boolean;
}

/** The virtual functions that a device can have. All are alike and passive, and each can be reset alone. */
export interface SriovModel {
  /** The most that it can have, 1 to 255: all of them must be on the bus of the device. */
  totalVfs: number;
  /** The distance from the device's address to the first one's, in functions; default 1. */
  offset?: number;
  /** The distance from each one's address to the next one's, in functions; default 1. */
  stride?: number;
  /** Their device id; default: that of the device. They have the device's vendor id and class. */
  device?: U64Like;
  /** Their BARs, described as the device's: memory only, and at least 4096 bytes each. */
  bars?: (PassiveBar | null)[];
  /** How many messages of MSI; default 0. */
  msi?: number;
  /** How many vectors of MSI-X; default 0. */
  msix?: number;
}

/** A device of a simulated machine. */
export interface DeviceModel {
  /**
   * 'nvme': an NVMe controller with one namespace; 'virtio-net': a virtio network device; 'upstream-port', 'downstream-port':
   * the two sides of a switch; 'bridge': a bridge to a conventional bus; 'passive': a device with any ids, whose registers read
   * as zero.
   */
  model:
    | 'edu'
    | 'ivshmem'
    | 'nvme'
    | 'virtio-net'
    | 'root-port'
    | 'upstream-port'
    | 'downstream-port'
    | 'bridge'
    | 'host-bridge'
    | 'passive';
  /** Its PCI address. Without `behind` its bus is a root bus. */
  bdf?: string;
  /** The address of the bridge or port that it is behind. */
  behind?: string;
  /** Instead of `bdf`, with `behind`: its slot on the bus behind the bridge, 0 to 31. */
  slot?: number;
  /** With `slot`: its function number, 0 to 7; default 0. */
  function?: number;
  /**
   * Whether it has access control services (ACS), turned on. They keep requests from reaching its neighbours directly, and so
   * decide which devices are in one group. Default: true for root and downstream ports, else false. Conventional devices and
   * bridges have no such capability: `true` says that the kernel takes the device as isolated all the same, by a quirk for its
   * vendor and device id (drivers/pci/quirks.c, pci_dev_acs_enabled).
   */
  acs?: boolean;
  /** The index of the IOMMU that translates its accesses; null: none. Default: as the bridge in front of it, or 0. */
  iommu?: number | null;
  /** The driver that is bound to it at the start; null: none. Default: the driver that matches. */
  driver?: string | null;
  /** The width of its PASIDs in bits; default 0: none. */
  pasidBits?: number;
  /** Whether it can request pages that are not mapped; default false. */
  pageRequests?: boolean;
  /**
   * The number of its group. Default: the next one, in the order in which a kernel finds devices. Devices that are given the
   * same number are in one group (DMA aliases, for example). They must have the same IOMMU.
   */
  group?: number;
  /** Its legacy interrupt line, 0 to 255. */
  irq?: number;
  /** The disk that its host driver makes of it, and where that is mounted. */
  disk?: { name: string; mountedOn?: string };
  /** The network interface that its host driver makes of it. `route`: whether a route uses it. */
  network?: { name: string; up?: boolean; route?: boolean };
  /** The UUIDs of the mediated devices that the driver of this one makes of it. */
  mdevs?: string[];
  /** Whether that driver isolates them from each other. If not, they are in one group. Default true. */
  mdevsIsolated?: boolean;
  /** The addresses of its BARs, by number. Default: one after the other. */
  addresses?: (U64Like | null)[];
  /**
   * 'nvme': the size of its namespace in bytes, a multiple of `blockSize`, at most 2^46. Default: the size of `file`, or 64 MiB.
   * Only what was written takes memory.
   */
  size?: U64Like;
  /** 'nvme': the path of a file that holds its data, made or extended if need be. Default: its data is in memory. */
  file?: string;
  /** 'nvme': the size of a block in bytes: 512, the default, or 4096. */
  blockSize?: number;
  /** 'nvme': bytes from one doorbell to the next, a power of two from 4, the default, to 64. */
  doorbellStride?: number;
  /** 'virtio-net': its MAC address, such as '52:54:00:12:34:56'. Default: one that has its place on the bus. */
  mac?: string;
  /** 'virtio-net': the PCI address of the 'virtio-net' device that receives what it sends. Default: itself. */
  peer?: string;
  /** 'passive': its vendor id, device id and class code: 16, 16 and 24 bits. */
  vendor?: U64Like;
  device?: U64Like;
  classCode?: U64Like;
  /** 'passive': default 0. */
  subsystemVendor?: U64Like;
  subsystemDevice?: U64Like;
  revision?: U64Like;
  /** 'passive': its BARs, up to 6; null: none. After a 'memory64' comes null, since the next register is its upper half. */
  bars?: (PassiveBar | null)[];
  /** 'passive': whether it has an INTx pin. Default false. */
  pin?: boolean;
  /** 'passive': how many messages of MSI; default 0. */
  msi?: number;
  /** 'passive': how many vectors of MSI-X; default 0. */
  msix?: number;
  /** 'passive': whether it has a PCI Express capability. Default true, false behind a conventional bridge. */
  express?: boolean;
  /** 'passive': whether it can be reset alone. Default false. */
  functionReset?: boolean;
  /** 'passive': whether it has a power management capability, with D0 and D3hot. Default false. */
  power?: boolean;
  /** 'passive': its vendor-specific capabilities, at most 8: the bytes of each behind the byte of its length. */
  vendorSpecific?: number[][];
  /** 'passive': the virtual functions (SR-IOV) that it can have. */
  sriov?: SriovModel;
}

/** The kernel around the machine. */
export interface SystemModel {
  /**
   * The kernel's command line. `intel_iommu=off` and `intremap=off` have their effects, and so do parameters of modules
   * (`vfio.enable_unsafe_noiommu_mode=1`).
   */
  commandLine?: string;
  /** The parts that it lacks: a module, or the devices' own nodes (as without CONFIG_VFIO_DEVICE_CDEV). */
  without?: ('iommufd' | 'vfio-pci' | 'device-nodes')[];
  /** The user that the program runs as. Default: permissions of nodes are not checked. */
  user?: number;
}

/** A machine: its IOMMUs (default: one VT-d; empty: none) and the devices on its buses, which decide its groups. */
export interface Topology {
  system?: SystemModel;
  iommus?: IommuModel[];
  devices?: DeviceModel[];
}

/** The JSON that the software host reads. A 64-bit quantity that a JSON number can't hold is written as hexadecimal text. */
export function topologyText(topology: Topology | DeviceModel, name: string): string {
  try {
    return json(options(topology, name)) ?? '';
  } catch (error) {
    if (error instanceof RangeError) throw refusal('what can be written as JSON', name, topology); // it contains itself
    throw error;
  }
}

/**
 * The JSON of a value; undefined: it has none. Not JSON.stringify, which calls toJSON of the value's prototype first: programs
 * add one to bigint, which returns the decimal digits as text.
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
