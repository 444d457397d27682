/**
 * IOMMU groups as sysfs shows them: a live view. Group restrictions are limits of the hardware: shown, never hidden. What can
 * be done with a group is in groups.ts.
 */
import type { NativeHost } from '../../addon/native.ts';
import type { IovaRange } from '../../addon/records.ts';
import { UUID } from '../../base/check.ts';
import { VfioError } from '../../base/errors.ts';
import { type OURS, ours, remembered } from '../../base/private.ts';
import { groupNode, isMadeUp, openersOf } from './nodes.ts';
import { type PciFacts, withVfio } from './pci-facts.ts';

const GROUPS = '/sys/kernel/iommu_groups';

/** Drivers that leave a group's DMA to user space, as the kernel counts them, besides those of VFIO. */
const HARMLESS = new Set(['pci-stub', 'pcieport']);

/** A device that keeps its group from user space. */
export interface Blocker {
  /** Its PCI address. */
  bdf: string;
  /** The driver that holds it. */
  driver: string | null;
  /** The same in words. */
  reason: string;
}

/** Who owns the DMA of a group (B1). */
export interface DmaOwnership {
  /** 'kernel': a member has a driver that does DMA for the kernel; 'user': a program has it. */
  readonly owner: 'none' | 'kernel' | 'user';
  /** How many claims it has: drivers of the kernel's, or devices that the program has. null: not known. */
  readonly count: number | null;
  /** A descriptor of the file that owns it for a program: an iommufd, a container. null: none, or not known. */
  readonly fd: number | null;
  /**
   * A kernel tells nobody. There it is inferred from the members' drivers and from what this process has bound: a
   * group that another program uses shows as 'none'. A software host knows.
   */
  readonly inferred: boolean;
}

/** A group as far as it can be read; its members are what `member` makes of their addresses. */
export class GroupFacts<Device extends PciFacts = PciFacts> {
  /** The number in /sys/kernel/iommu_groups and /dev/vfio. */
  readonly id: number;
  readonly #host: NativeHost;
  readonly #member: (host: NativeHost, bdf: string) => Device;

  constructor(
    key: typeof OURS,
    host: NativeHost,
    id: number,
    member: (host: NativeHost, bdf: string) => Device,
  ) {
    ours(key, 'IommuGroup');
    this.#host = host;
    this.id = id;
    this.#member = member;
  }

  /** The default domain's type: 'DMA', 'DMA-FQ', 'identity' ... */
  get type(): string {
    return this.#host.readText(`${GROUPS}/${this.id}/type`)?.trim() ?? 'unknown';
  }

  /**
   * Whether it is one that VFIO made up for a device without an IOMMU (unsafe no-IOMMU mode): nothing confines that.
   */
  get noIommu(): boolean {
    return isMadeUp(this.#host, this.id);
  }

  /** The devices in it: PCI devices, bridges included, or mediated devices. */
  get devices(): Device[] {
    const names = this.#host.list(`${GROUPS}/${this.id}/devices`);
    if (names === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: `${GROUPS}/${this.id}`,
        reason: `there is no group ${this.id} any more`,
      });
    return names
      .filter((name) => name.includes(':') || UUID.test(name))
      .sort()
      .map((bdf) => this.#member(this.#host, bdf));
  }

  /** Addresses that can't be mapped for its devices, or that are mapped already. */
  get reservedRegions(): (IovaRange & { type: string })[] {
    const lines = this.#host.readText(`${GROUPS}/${this.id}/reserved_regions`) ?? '';
    return lines
      .split('\n')
      .filter(Boolean)
      .map((line) => {
        const [start = '0', last = '0', type = ''] = line.split(' ');
        return { start: BigInt(start), last: BigInt(last), type };
      });
  }

  /** Who owns the DMA of the group (B1): see {@link DmaOwnership}, of which this is the first half. */
  get dmaOwner(): 'none' | 'kernel' | 'user' {
    return this.dmaOwnership.owner;
  }

  /** Who owns the DMA of the group, how often, by which file, and whether that is known or inferred (B1). */
  get dmaOwnership(): DmaOwnership {
    const known = this.#host.dmaOwner(this.id);
    if (known !== null) return { ...known, inferred: false };
    const drivers = this.viability().blockers.length;
    if (drivers > 0) return { owner: 'kernel', count: drivers, fd: null, inferred: true };
    const members = this.devices;
    const nodes = [groupNode(this.#host, this.id), ...members.flatMap(({ vfioNode }) => vfioNode ?? [])];
    // Of this process it is known what is bound; of others, as far as they can be seen, what they have open.
    const used =
      members.some(({ bdf }) => inUse.get(this.#host)?.has(bdf)) ||
      nodes.some((path) => openersOf(this.#host, path).some(({ pid }) => pid !== process.pid));
    return { owner: used ? 'user' : 'none', count: used ? null : 0, fd: null, inferred: true };
  }

  /** Whether user space may have the group now and, if not, which devices stand in the way. */
  viability(): { viable: boolean; blockers: Blocker[] } {
    const blockers: Blocker[] = [];
    for (const device of this.devices) {
      const { bdf, driver } = device;
      if (driver !== null && !HARMLESS.has(driver) && !withVfio(device))
        blockers.push({ bdf, driver, reason: `${bdf} is in use by driver ${driver}` });
    }
    return { viable: blockers.length === 0, blockers };
  }

  /** The members that drivers can be changed of: not bridges of any kind (class 06), which stay with the kernel. */
  get endpoints(): Device[] {
    return this.devices.filter((each) => !each.mediated && each.classCode >> 16 !== 0x06);
  }

  /** The same in a sentence. */
  explain(): string {
    const members = this.devices.map(({ bdf, driver }) => `${bdf} (${driver ?? 'no driver'})`).join(', ');
    const { viable, blockers } = this.viability();
    return viable
      ? `Group ${this.id} can be used from user space. Members: ${members}.`
      : `Group ${this.id} can't be used from user space: ${blockers.map((each) => each.reason).join('; ')}. Members: ${members}.`;
  }
}

/** The devices that this process has bound, by host: for {@link IommuGroup.dmaOwner}. */
const inUse = remembered<Set<string>>();

/** @internal A device was bound; returns what to call when it is closed. */
export function markInUse(host: NativeHost, bdf: string): () => void {
  const bound = inUse.get(host) ?? new Set();
  inUse.set(host, bound);
  bound.add(bdf);
  return () => bound.delete(bdf);
}
