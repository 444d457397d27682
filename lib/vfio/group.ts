/**
 * A VFIO group: the older way to a device (requirement A2: the group is opened and joined to a container, and the device opened
 * by the group).
 *
 * Life: Host.openGroup opens it; a group can be open only once on a host. It is disposed before the container or iommufd that
 * it has joined, and its devices before it: the kernel keeps the group in its container until the last of them is closed.
 */

import type { NativeGroup } from '../addon/files.ts';
import { deviceName, known, refusal, text, UUID } from '../base/check.ts';
import { explained } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, fileOf, type Handle, isHandle, join, part } from '../handles/handle.ts';
import { holdGroup } from '../handles/holds.ts';
import { Iommufd } from '../iommufd/iommufd.ts';
import type { GroupFacts } from '../system/facts/group-facts.ts';
import { Container, joinedBy, leftBy } from '../type1/container.ts';
import { type DeviceContext, VfioDevice } from './device.ts';
import { GroupFile } from './group-file.ts';
import { wordsForGroupDevice, wordsForSetContainer } from './group-words.ts';

/** The host's part of a group that was opened through it. */
export interface GroupContext {
  /** The group as sysfs shows it; undefined: it was removed. */
  sysfs(): GroupFacts | undefined;
  /** Records that user space owns the group. Returns the function to call when it no longer does. */
  owned(): () => void;
  /** The host's part of a device that is opened by the group. */
  device(bdf: string): Omit<DeviceContext, 'words' | 'bound'>;
}

/** The groups of each container or iommufd. It keeps them from being collected: with its last group it loses all mappings. */
const joined = new WeakMap<Handle, Set<Group>>();

/** An IOMMU group that this program has opened (/dev/vfio/N, Linux 3.6). */
export class Group extends GroupFile {
  /** Whether it has no IOMMU (/dev/vfio/noiommu-N). UNSAFE: its devices reach all memory. */
  readonly noIommu: boolean;
  readonly #file: NativeGroup;
  readonly #context: GroupContext;
  #joined: Container | Iommufd | undefined;
  #returned: (() => void) | undefined;
  readonly #endHold: () => void;

  constructor(
    key: typeof OURS,
    parent: Handle,
    file: NativeGroup,
    id: number,
    noIommu: boolean,
    context: GroupContext,
  ) {
    ours(key, 'Group');
    super(key, parent, file, id, (self: Group) => self.#release());
    this.noIommu = noIommu;
    this.#file = file;
    this.#context = context;
    this.#endHold = holdGroup(this, id);
  }

  /** The file descriptor. It belongs to this object: don't close it. */
  get fd(): number {
    alive(this);
    return this.#file.fd;
  }

  /**
   * Whether user space can own the group (VFIO_GROUP_GET_STATUS): no member is bound to a driver that does DMA for the
   * kernel, and no other program owns it. With an iommufd this can still change: the DMA is claimed when a device is opened.
   *
   * @throws {VfioError} ENODEV the last VFIO device of the group was removed.
   */
  get viable(): boolean {
    alive(this);
    return this.#file.groupStatus().viable;
  }

  /**
   * Whether it has joined a container or an iommufd (VFIO_GROUP_GET_STATUS). @throws {VfioError} as {@link viable}.
   */
  get containerSet(): boolean {
    alive(this);
    return this.#file.groupStatus().containerSet;
  }

  /** The container or iommufd that it has joined; null: none. */
  get container(): Container | Iommufd | null {
    return this.#joined ?? null;
  }

  /**
   * Joins the group to a container, or to an iommufd instead (VFIO_GROUP_SET_CONTAINER; an iommufd: Linux 6.2). A container
   * claims the group's DMA at once. For an iommufd that has no {@link Iommufd.vfioCompatIoas}, the kernel makes one, which the
   * group's devices use.
   *
   * @throws {VfioError} EPERM the group is not viable or has another owner, or it has no IOMMU while the container's other
   * groups have one, or the other way round; EINVAL it has joined already; EBUSY its devices use page tables of another owner;
   * ENODEV its devices were removed. `reason` says which.
   */
  setContainer(to: Container | Iommufd): void {
    alive(this);
    if (!(to instanceof Container || to instanceof Iommufd) || !isHandle(to))
      throw refusal('a Container or an Iommufd', 'to', to);
    const file = fileOf(to);
    explained(
      () => this.#file.groupSetContainer(file),
      (error) => wordsForSetContainer(error, this.id, this.#context.sysfs()),
    );
    this.#joined = to;
    join(this, to);
    joined.set(to, (joined.get(to) ?? new Set<Group>()).add(this));
    if (to instanceof Container) joinedBy(to, this.#context.sysfs);
    this.#returned = this.#context.owned();
  }

  /**
   * Takes the group out of its container (VFIO_GROUP_UNSET_CONTAINER). With its last group a container loses its IOMMU, and
   * everything in it is unmapped. Devices of an iommufd keep their address space until they are closed.
   *
   * @throws {VfioError} EINVAL it has not joined any; EBUSY it is in a container, and devices of it are open.
   */
  unsetContainer(): void {
    alive(this);
    explained(
      () => this.#file.groupUnsetContainer(),
      (error) => wordsForSetContainer(error, this.id, this.#context.sysfs()),
    );
    this.#leave();
  }

  /**
   * Opens a device of the group (VFIO_GROUP_GET_DEVICE_FD), by PCI address, or a mediated device by its UUID. The device uses
   * the address space of the container: {@link VfioDevice.bind} and {@link VfioDevice.attach} are for devices that were opened
   * by their character devices.
   *
   * `vfToken` (Linux 5.7): for a virtual function, the UUID that was set for its physical function.
   *
   * @throws {VfioError} ENODEV it is not in the group, or not bound to a VFIO driver; EINVAL the group has no address space
   * yet, or the device takes no token; EACCES the token is wrong or missing; EPERM, EBUSY the group has another owner.
   * `reason` says which.
   */
  openDevice(bdf: string, o?: { vfToken?: string }): VfioDevice {
    alive(this);
    const name = deviceName(bdf);
    const { vfToken } = known(o, 'options', ['vfToken']);
    if (vfToken !== undefined && !UUID.test(text(vfToken, 'vfToken')))
      throw refusal("a UUID such as '00112233-4455-6677-8899-aabbccddeeff'", 'vfToken', vfToken);
    alive(this);
    const words: DeviceContext['words'] = (error) =>
      wordsForGroupDevice(error, name, this.id, this.#context.sysfs(), vfToken !== undefined);
    const file = explained(
      () => this.#file.groupDevice(vfToken === undefined ? name : `${name} vf_token=${vfToken}`),
      words,
    );
    return new VfioDevice(OURS, this, file, name, {
      ...this.#context.device(name),
      words,
      groups: () => this.#joinedGroups(),
      space:
        (this.#joined instanceof Container ? this.#joined.iommufd : this.#joined)?.vfioCompatIoas ?? null,
    });
  }

  #release(): void {
    this.#endHold();
    this.#file.dispose();
    this.#leave();
  }

  #leave(): void {
    const from = this.#joined;
    this.#joined = undefined;
    this.#returned?.();
    this.#returned = undefined;
    if (from === undefined) return;
    part(this, from);
    joined.get(from)?.delete(this);
    if (from instanceof Container) leftBy(from, this.#context.sysfs);
  }

  /** The groups that have joined the same container, including this one. */
  #joinedGroups(): Group[] {
    if (this.disposed) return [];
    return this.#joined === undefined ? [this] : [...(joined.get(this.#joined) ?? [])];
  }
}
