/**
 * IOMMU groups as sysfs shows them: a live view. A group is a limit of the hardware: this package shows it and never hides it.
 * The calls that change a group are in groups.ts.
 */
import type { NativeHost } from '../../addon/native.ts';
import type { IovaRange } from '../../addon/records.ts';
import { UUID } from '../../base/check.ts';
import { VfioError } from '../../base/errors.ts';
import { type OURS, ours, remembered } from '../../base/private.ts';
import { groupNode, isNoIommuGroup, openersOf } from './nodes.ts';
import { type PciFacts, usesVfioDriver } from './pci-facts.ts';

const GROUPS = '/sys/kernel/iommu_groups';

/** Drivers besides those of VFIO that leave the DMA of their group to user space: the kernel marks them driver_managed_dma. */
const HARMLESS = new Set(['pci-stub', 'pcieport']);

/** A device because of which user space can't use its group. */
export interface Blocker {
  /** Its PCI address. */
  bdf: string;
  /** The driver that holds it. */
  driver: string | null;
  /** A sentence that says so. */
  reason: string;
}

/** The owner of a group's DMA (requirement B1: nobody, the kernel, or a user). */
export interface DmaOwnership {
  /** 'kernel': a member is bound to a driver that does DMA for the kernel; 'user': a program owns it. */
  readonly owner: 'none' | 'kernel' | 'user';
  /** How many claims there are: by kernel drivers, or by devices that the program uses. null: not known. */
  readonly count: number | null;
  /** A descriptor of the file by which a program owns it: an iommufd or a container. null: none, or not known. */
  readonly fd: number | null;
  /**
   * Whether the answer is inferred. The kernel does not show the owner: it is inferred from the members' drivers, the devices
   * that this process has bound, and the nodes that other processes have open, as far as this one can see them. If it can't,
   * a group that another program uses shows as 'none'. A software host knows the owner.
   */
  readonly inferred: boolean;
}

/** The readable state of a group. `member` makes the objects of its devices from their addresses. */
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
   * Whether VFIO has made the group for a device without an IOMMU (unsafe no-IOMMU mode): that device reaches all memory.
   */
  get noIommu(): boolean {
    return isNoIommuGroup(this.#host, this.id);
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

  /** The I/O virtual addresses that can't be mapped for its devices, or that the kernel has mapped already. */
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

  /** Who owns the DMA of the group: {@link DmaOwnership.owner}. */
  get dmaOwner(): 'none' | 'kernel' | 'user' {
    return this.dmaOwnership.owner;
  }

  /** Who owns the DMA of the group, by how many claims, by which file, and whether that is known or inferred. */
  get dmaOwnership(): DmaOwnership {
    const known = this.#host.dmaOwner(this.id);
    if (known !== null) return { ...known, inferred: false };
    const drivers = this.viability().blockers.length;
    if (drivers > 0) return { owner: 'kernel', count: drivers, fd: null, inferred: true };
    const members = this.devices;
    const nodes = [groupNode(this.#host, this.id), ...members.flatMap(({ vfioNode }) => vfioNode ?? [])];
    // Which devices this process has bound is known. Of other processes, /proc shows the nodes that they have open.
    const used =
      members.some(({ bdf }) => inUse.get(this.#host)?.has(bdf)) ||
      nodes.some((path) => openersOf(this.#host, path).some(({ pid }) => pid !== process.pid));
    return { owner: used ? 'user' : 'none', count: used ? null : 0, fd: null, inferred: true };
  }

  /** Whether user space can own the group now and, if not, because of which devices. */
  viability(): { viable: boolean; blockers: Blocker[] } {
    const blockers: Blocker[] = [];
    for (const device of this.devices) {
      const { bdf, driver } = device;
      if (driver !== null && !HARMLESS.has(driver) && !usesVfioDriver(device))
        blockers.push({ bdf, driver, reason: `${bdf} is in use by driver ${driver}` });
    }
    return { viable: blockers.length === 0, blockers };
  }

  /** The members whose drivers can be changed: all but bridges of any kind (class 06) and mediated devices. */
  get endpoints(): Device[] {
    return this.devices.filter((each) => !each.mediated && each.classCode >> 16 !== 0x06);
  }

  /** The members and the viability in a sentence. */
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

/** @internal Records that a device was bound. Returns the function to call when it is closed. */
export function markInUse(host: NativeHost, bdf: string): () => void {
  const bound = inUse.get(host) ?? new Set();
  inUse.set(host, bound);
  bound.add(bdf);
  return () => bound.delete(bdf);
}
