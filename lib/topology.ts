/**
 * The machine of a software host, as docs/topology.md describes it. What is right and wrong about one is the software
 * host's to say; here it only becomes text.
 */
import { options, refusal, type U64Like } from './check.ts';

/** An IOMMU of a simulated machine. */
export interface IommuModel {
  /** Whose: what `hwInfo` tells of it, and which page tables of one's own it takes. */
  kind: 'vtd' | 'smmuv3' | 'amd' | 'ppc' | 'virtio' | 'custom';
  /** The I/O virtual addresses that it translates. */
  apertures?: { start: U64Like; last: U64Like }[];
  /** Parts of them that devices can't use: message interrupts, what firmware keeps. */
  reserved?: { start: U64Like; last: U64Like; type?: string }[];
  /** Page sizes in bytes, powers of two. */
  pageSizes?: U64Like[];
  /** Bits of a PASID; 0: none. */
  pasidBits?: number;
  /** How devices ask for pages that are not there. */
  pageRequests?: 'pri' | 'stall' | false;
  /** Formats of nested page tables: 'vtd-s1', 'arm-smmuv3', 'amd-guest'. */
  nesting?: string[];
  /** Whether it marks pages that devices wrote. */
  dirtyTracking?: boolean;
}

/** A device of a simulated machine: docs/topology.md says which models there are and what each takes. */
export interface DeviceModel {
  /** 'edu', 'ivshmem', 'root-port' ... */
  model: string;
  readonly [property: string]: unknown;
}

/** A machine: its IOMMUs and what is on its buses. Groups follow from it. */
export interface Topology {
  iommus?: IommuModel[];
  devices: DeviceModel[];
}

/** As JSON, which the software host reads. 64-bit quantities that JSON's numbers can't hold go as hexadecimal text. */
export function topologyText(topology: Topology, name: string): string {
  options(topology, name);
  try {
    return JSON.stringify(topology, (_, value: unknown) =>
      typeof value !== 'bigint'
        ? value
        : value <= Number.MAX_SAFE_INTEGER && value >= Number.MIN_SAFE_INTEGER
          ? Number(value)
          : `0x${value.toString(16)}`,
    );
  } catch {
    throw refusal('what can be written as JSON', name, topology); // it contains itself
  }
}
