/**
 * A VFIO group: the legacy way to a device. Requirement A2.
 *
 * Life: opened by Host.openGroup, one at a time on a host. Joined to a container or an iommufd it is disposed before
 * that, and its devices before it: the kernel keeps the group in its container until the last of them is closed.
 */

import type { NativeGroup } from '../addon/files.ts';
import { deviceName, known, refusal, text, UUID } from '../base/check.ts';
import { explained } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, fileOf, type Handle, join, made, part } from '../handles/handle.ts';
import { holdGroup } from '../handles/holds.ts';
import { Iommufd } from '../iommufd/iommufd.ts';
import type { GroupFacts } from '../system/facts/group-facts.ts';
import { Container, joinedBy, leftBy } from '../type1/container.ts';
import { type DeviceContext, VfioDevice } from './device.ts';
import { GroupFile } from './group-file.ts';
import { wordsForGroupDevice, wordsForSetContainer } from './group-words.ts';

/** What the host knows of a group that was opened through it. */
export interface GroupContext {
  /** The group as sysfs shows it; undefined: it is gone. */
  sysfs(): GroupFacts | undefined;
  /** The group passes to user space; returns what to call when it comes back. */
  owned(): () => void;
  /** What a device needs that is opened through it. */
  device(bdf: string): Omit<DeviceContext, 'words' | 'bound'>;
}

/** The groups of each container or iommufd: it keeps them, since with the last one it loses what is mapped. */
const joined = new WeakMap<Handle, Set<Group>>();

/** An IOMMU group in the hands of this program (/dev/vfio/N, Linux 3.6). */
export class Group extends GroupFile {
  /** Whether it has no IOMMU (/dev/vfio/noiommu-N). UNSAFE: its devices reach all memory. */
  readonly noIommu: boolean;
  readonly #file: NativeGroup;
  readonly #context: GroupContext;
  #joined: Container | Iommufd | undefined;
  #returned: (() => void) | undefined;
  readonly #letGo: () => void;

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
    this.#letGo = holdGroup(this, id);
  }

  /** The file descriptor. Belongs to this object: don't close it. */
  get fd(): number {
    alive(this);
    return this.#file.fd;
  }

  /**
   * Whether user space may have the group (VFIO_GROUP_GET_STATUS): no member is with a driver that does DMA for the
   * kernel, and nobody else has it. With an iommufd it is no promise: the DMA is claimed when a device is opened.
   *
   * @throws {VfioError} ENODEV the last VFIO device of the group is gone.
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

  /** What it was joined to. */
  get container(): Container | Iommufd | null {
    return this.#joined ?? null;
  }

  /**
   * Joins the group to a container, or to an iommufd in its place (VFIO_GROUP_SET_CONTAINER; an iommufd Linux 6.2). A
   * container takes the group's DMA at once. An iommufd gets an address space for its devices if it has none:
   * {@link Iommufd.vfioCompatIoas}.
   *
   * @throws {VfioError} EPERM the group is not viable or has another owner, or it has no IOMMU and the others of the
   * container have, or the other way round; EINVAL it has joined already; EBUSY its devices use page tables of
   * another owner; ENODEV its devices are gone. `reason` says which.
   */
  setContainer(to: Container | Iommufd): void {
    alive(this);
    if (!(to instanceof Container || to instanceof Iommufd) || !made(to))
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
   * Takes the group out again (VFIO_GROUP_UNSET_CONTAINER). A container's last group takes its IOMMU along:
   * everything in it is unmapped. Devices of an iommufd keep their address space until they are closed.
   *
   * @throws {VfioError} EINVAL it is in none; EBUSY devices of it are open, in a container.
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
   * Opens a device of the group (VFIO_GROUP_GET_DEVICE_FD), by PCI address, or a mediated one by its UUID. It has the
   * address space of the container: {@link VfioDevice.bind} and {@link VfioDevice.attach} are for devices that were
   * opened otherwise.
   *
   * `vfToken` (Linux 5.7): the UUID that the physical function of a virtual one was given.
   *
   * @throws {VfioError} ENODEV it is not in the group, or not with a VFIO driver; EINVAL the group has no address
   * space yet, or the token is superfluous; EACCES the token is wrong or missing; EPERM, EBUSY the group has another
   * owner. `reason` says which.
   */
  openDevice(bdf: string, o?: { vfToken?: string }): VfioDevice {
    alive(this);
    const name = deviceName(bdf);
    const { vfToken } = known(o, 'options', ['vfToken']);
    if (vfToken !== undefined && !UUID.test(text(vfToken, 'vfToken')))
      throw refusal("a UUID such as '00112233-4455-6677-8899-aabbccddeeff'", 'vfToken', vfToken);
    alive(this);
    const words: DeviceContext['words'] = (error) =>
      wordsForGroupDevice(error, name, this.id, this.#context.sysfs());
    const file = explained(
      () => this.#file.groupDevice(vfToken === undefined ? name : `${name} vf_token=${vfToken}`),
      words,
    );
    return new VfioDevice(OURS, this, file, name, {
      ...this.#context.device(name),
      words,
      groups: () => this.#together(),
      space:
        (this.#joined instanceof Container ? this.#joined.iommufd : this.#joined)?.vfioCompatIoas ?? null,
    });
  }

  #release(): void {
    this.#letGo();
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

  /** The groups that have joined the same container, this one among them. */
  #together(): Group[] {
    if (this.disposed) return [];
    return this.#joined === undefined ? [this] : [...(joined.get(this.#joined) ?? [])];
  }
}
