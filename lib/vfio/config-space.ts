/** Typed access to a device's PCI config space as VFIO shows it: VFIO passes some bits through and virtualises others. */
import { refusal } from '../base/check.ts';
import { type OURS, ours } from '../base/private.ts';
import type { Region } from './region.ts';

/** An entry of the capability list. */
export interface PciCapability {
  /** Capability id; see `name`. */
  id: number;
  /** The name that `lspci` prints for it, or 'unknown'. */
  name: string;
  /** The offset of its first byte in config space. */
  offset: number;
}

/** An entry of the extended capability list. */
export interface PciExtendedCapability extends PciCapability {
  version: number;
}

const capabilityNames: Record<number, string> = {
  1: 'Power Management',
  3: 'VPD',
  4: 'Slot ID',
  5: 'MSI',
  9: 'Vendor Specific',
  10: 'Debug port',
  13: 'Subsystem',
  16: 'Express',
  17: 'MSI-X',
  18: 'SATA',
  19: 'AF',
  20: 'EA',
};

const extendedNames: Record<number, string> = {
  1: 'AER',
  2: 'VC',
  3: 'Serial Number',
  4: 'Power Budgeting',
  11: 'Vendor Specific',
  13: 'ACS',
  14: 'ARI',
  15: 'ATS',
  16: 'SR-IOV',
  19: 'PRI',
  21: 'Resizable BAR',
  24: 'LTR',
  25: 'Secondary PCI Express',
  27: 'PASID',
  29: 'DPC',
  30: 'L1 PM Substates',
  31: 'PTM',
  35: 'DVSEC',
  37: 'Data Link Feature',
};

const COMMAND = 0x04;
const MEMORY = 1 << 1;
const BUS_MASTER = 1 << 2;
const STATUS = 0x06;
const HAS_CAPABILITIES = 1 << 4;
const CAPABILITY_POINTER = 0x34;
const EXTENDED = 0x100;

/**
 * A device's PCI config space. Offsets are bytes and multiples of the width; each access is one `pread` or `pwrite`.
 * VFIO virtualises BARs, interrupt registers and the command register's decoding: writing a BAR does not move it.
 */
export class PciConfig {
  readonly #region: Region;

  constructor(key: typeof OURS, region: Region) {
    ours(key, 'PciConfig');
    this.#region = region;
  }

  /** Length in bytes: 256, or 4096 for PCI Express. */
  get size(): number {
    return Number(this.#region.size);
  }

  /** Reads 8 bits. */
  read8(o: number): number {
    return this.#region.read8(o);
  }
  /** Reads 16 bits; `o` a multiple of 2. */
  read16(o: number): number {
    return this.#region.read16(aligned(o, 2));
  }
  /** Reads 32 bits; `o` a multiple of 4. */
  read32(o: number): number {
    return this.#region.read32(aligned(o, 4));
  }
  /** Writes 8 bits. VFIO ignores bits that it does not let programs change. */
  write8(o: number, v: number): void {
    this.#region.write8(o, v);
  }
  /** Writes 16 bits; `o` a multiple of 2. */
  write16(o: number, v: number): void {
    this.#region.write16(aligned(o, 2), v);
  }
  /** Writes 32 bits; `o` a multiple of 4. */
  write32(o: number, v: number): void {
    this.#region.write32(aligned(o, 4), v);
  }

  /** Vendor id. */
  get vendor(): number {
    return this.read16(0);
  }
  /** Device id. */
  get device(): number {
    return this.read16(2);
  }

  /** Whether the device may do DMA and send MSIs. VFIO opens a device with this off; a driver switches it on. */
  get busMaster(): boolean {
    return (this.read16(COMMAND) & BUS_MASTER) !== 0;
  }
  set busMaster(on: boolean) {
    this.#command(BUS_MASTER, on);
  }

  /** Whether the device answers accesses to its memory BARs. While it is off, an access to a mapped BAR raises SIGBUS. */
  get memory(): boolean {
    return (this.read16(COMMAND) & MEMORY) !== 0;
  }
  set memory(on: boolean) {
    this.#command(MEMORY, on);
  }

  /** The capability list, in the device's order. */
  capabilities(): PciCapability[] {
    if ((this.read16(STATUS) & HAS_CAPABILITIES) === 0) return [];
    const found: PciCapability[] = [];
    const seen = new Set<number>();
    // The pointer's low two bits are reserved. If a list contains a loop, reading ends there.
    for (
      let at = this.read8(CAPABILITY_POINTER) & 0xfc;
      at >= 0x40 && !seen.has(at);
      at = this.read8(at + 1) & 0xfc
    ) {
      seen.add(at);
      const id = this.read8(at);
      found.push({ id, name: capabilityNames[id] ?? 'unknown', offset: at });
    }
    return found;
  }

  /** The extended capability list (PCI Express only), in the device's order. */
  extendedCapabilities(): PciExtendedCapability[] {
    if (this.size <= EXTENDED) return [];
    const found: PciExtendedCapability[] = [];
    const seen = new Set<number>();
    for (let at = EXTENDED; at >= EXTENDED && at + 4 <= this.size && !seen.has(at); ) {
      seen.add(at);
      const header = this.read32(at);
      // If the first entry is all zeroes or all ones, there are no extended capabilities.
      if (header === 0 || header === 0xffffffff) break;
      const id = header & 0xffff;
      // VFIO hides the first capability by setting its id to 0, and leaves its link to the next.
      if (id !== 0)
        found.push({ id, name: extendedNames[id] ?? 'unknown', version: (header >>> 16) & 0xf, offset: at });
      at = (header >>> 20) & 0xffc;
    }
    return found;
  }

  #command(bit: number, on: boolean): void {
    if (typeof on !== 'boolean') throw refusal('a boolean', 'value', on);
    const now = this.read16(COMMAND);
    this.write16(COMMAND, on ? now | bit : now & ~bit);
  }
}

function aligned(offset: number, width: number): number {
  if (typeof offset === 'number' && offset % width !== 0)
    throw refusal(`a multiple of ${width}`, 'offset', offset);
  return offset;
}
