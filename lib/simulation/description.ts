/** What a simulated device says of itself, and the text by which a software host builds it. */
import { array, known, plain, refusal } from '../base/check.ts';
import type { RegisterFile } from '../registers/register-bank.ts';

/** What a device says that it is: its config space. */
export interface DeviceIdentity {
  /** 16 bits each; not 0xffff for the vendor. */
  readonly vendor: number;
  readonly device: number;
  /** 24 bits: class, subclass, interface. */
  readonly classCode: number;
  readonly subsystemVendor?: number;
  readonly subsystemDevice?: number;
  readonly revision?: number;
}

/** A part of a BAR: whole pages of 4096 bytes. */
export interface BarArea {
  /** Bytes from the start of the BAR. */
  readonly offset: number;
  /** Bytes. */
  readonly size: number;
}

/** A BAR of a device. */
export interface SimulatedBar {
  /** Bytes: a power of two, at least 16. */
  readonly size: number;
  /** Default: `memory32`. After a `memory64` BAR the next place must be null. */
  readonly kind?: 'memory32' | 'memory64' | 'io';
  readonly prefetchable?: boolean;
  /** The registers in it. Accesses to no register go to `onRead` and `onWrite`. */
  readonly registers?: RegisterFile;
  /**
   * Whether it is plain memory, which the driver and the model share: the driver's accesses do not reach the model, which has
   * the bytes as `this.memory(bar)`. At most 1 GiB. Default: false.
   */
  readonly memory?: boolean;
  /**
   * The parts that are such memory, at most 8, in order. The driver can map these alone (VFIO_REGION_INFO_CAP_SPARSE_MMAP);
   * accesses to all else reach the model. Default: none.
   */
  readonly areas?: readonly BarArea[];
  /** Whether the driver can map the BAR. Default: true for memory. */
  readonly mmapable?: boolean;
}

/** The virtual functions (SR-IOV) that a device can have. All are alike and passive: their registers read as zero. */
export interface VirtualFunctions {
  /** The most that it can have, 1 to 255: all of them must be on the bus of the device. */
  readonly totalVfs: number;
  /** The distance from the device's address to the first one's, in functions; default 1. */
  readonly offset?: number;
  /** The distance from each one's address to the next one's, in functions; default 1. */
  readonly stride?: number;
  /** Their device id; default: that of the device. They have the device's vendor id and class. */
  readonly device?: number;
  /** Their BARs: memory only, at least 4096 bytes each. */
  readonly bars?: readonly (Omit<SimulatedBar, 'registers'> | null)[];
  /** How many messages of MSI; default 0. */
  readonly msi?: number;
  /** How many vectors of MSI-X; default 0. */
  readonly msix?: number;
}

/** The descriptions that a model has as properties: `SimulatedDevice` says what they mean. */
export interface Described {
  readonly identity: DeviceIdentity;
  readonly bars: readonly (SimulatedBar | null)[];
  readonly msi: number;
  readonly msix: number;
  readonly pin: boolean;
  readonly express: boolean;
  readonly functionReset: boolean;
  readonly power: boolean;
  readonly pasidBits: number;
  readonly pageRequests: boolean;
  readonly vendorSpecific: readonly Uint8Array[];
  readonly sriov: VirtualFunctions | undefined;
}

const IDENTITY = ['vendor', 'device', 'classCode', 'subsystemVendor', 'subsystemDevice', 'revision'] as const;
const BAR = ['size', 'kind', 'prefetchable', 'registers', 'memory', 'areas', 'mmapable'] as const;
const VIRTUAL = ['totalVfs', 'offset', 'stride', 'device', 'bars', 'msi', 'msix'] as const;

/** What is read of a model when it is plugged in. */
export interface Plugged {
  /** As a device of a topology, without its place. The host checks the numbers. */
  readonly device: object;
  /** The registers of each BAR. */
  readonly banks: readonly (RegisterFile | undefined)[];
  /** Whether a BAR has memory. */
  readonly memory: readonly boolean[];
}

/** Reads the descriptions of a model. */
export function describe(model: Described): Plugged {
  const bars = barsOf(model.bars, 'bars');
  const { sriov } = model;
  const vendorSpecific = array(model.vendorSpecific, 'vendorSpecific').map((bytes, index) => {
    if (!(bytes instanceof Uint8Array)) throw refusal('a Uint8Array', `vendorSpecific[${index}]`, bytes);
    return [...bytes];
  });
  const device = {
    model: 'simulated',
    ...known(model.identity, 'identity', IDENTITY),
    bars: bars.map(textOf),
    msi: model.msi,
    msix: model.msix,
    pin: model.pin,
    express: model.express,
    functionReset: model.functionReset,
    power: model.power,
    pasidBits: model.pasidBits,
    pageRequests: model.pageRequests,
    vendorSpecific,
    ...(sriov === undefined ? {} : { sriov: virtualOf(sriov) }),
  };
  return {
    device,
    banks: bars.map((bar) => bar?.registers),
    memory: bars.map((bar) => bar?.memory === true || (bar?.areas?.length ?? 0) > 0),
  };
}

type GivenBar = Partial<SimulatedBar> | null;

function barsOf(bars: readonly (SimulatedBar | null)[], name: string): GivenBar[] {
  return array(bars, name).map((bar, index) => {
    if (bar === null) return null;
    const where = `${name}[${index}]`;
    plain(bar, where);
    const given = known(bar, where, BAR);
    const { registers, areas } = given;
    if (registers !== undefined && !isRegisterFile(registers))
      throw refusal('an object with read, write and reset', `${where}.registers`, registers);
    if (areas !== undefined) array(areas, `${where}.areas`);
    return given;
  });
}

/** A BAR as a topology has it. */
function textOf(bar: GivenBar): object | null {
  if (bar === null) return null;
  const { size, kind = 'memory32', prefetchable = false, memory = false, areas = [], mmapable = true } = bar;
  return { kind, size, prefetchable, memory, areas, mappable: mmapable };
}

function virtualOf(sriov: VirtualFunctions): object {
  const { bars, ...given } = known(sriov, 'sriov', VIRTUAL);
  return bars === undefined ? given : { ...given, bars: barsOf(bars, 'sriov.bars').map(textOf) };
}

function isRegisterFile(value: unknown): value is RegisterFile {
  if (typeof value !== 'object' || value === null) return false;
  const { read, write, reset } = value as Partial<RegisterFile>;
  return [read, write, reset].every((each) => typeof each === 'function');
}
