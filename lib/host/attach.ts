/**
 * Opens a device with an address space, by whichever way the host offers (requirement A3: one flow for programs that do not
 * care about groups).
 *
 * Life: the handles that are opened on the way are disposed together, when the UserDevice is disposed or when a step fails.
 */
import { constants } from 'node:os';
import { flag, known, oneOf, text } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import type { Iommufd } from '../iommufd/iommufd.ts';
import type { DmaSpace } from '../memory/dma-space.ts';
import { wordsWithoutGroup } from '../system/explain/host-words.ts';
import type { Container } from '../type1/container.ts';
import type { VfioDevice } from '../vfio/device.ts';
import type { Opener } from './opener.ts';

const ways = ['cdev', 'group-iommufd', 'group-type1', 'noiommu'] as const;

/**
 * The way by which a device was opened: its character device and an iommufd (Linux 6.6); its group and an iommufd (6.2); its
 * group and a container of type1; or UNSAFE: without an IOMMU.
 */
export type AttachedBy = (typeof ways)[number];

/** The options of {@link Host.attach}. */
export interface AttachOptions {
  /** This way only. Default: the first that works. */
  via?: AttachedBy;
  /**
   * Use the device without an IOMMU, if no other way works. UNSAFE: nothing confines the device to the memory of this
   * program. Default false.
   */
  unsafeNoIommu?: boolean;
  /** For a virtual function: the UUID that was set for its physical function. By character device it needs Linux 6.17. */
  vfToken?: string;
}

/** A device and its address space, by whichever way they were opened. Disposing it disposes both. */
export interface UserDevice extends Disposable {
  readonly device: VfioDevice;
  /**
   * The address space that the device uses: an Ioas, or a Container of type1. Without an IOMMU, a Container in which
   * nothing can be mapped: ENOTTY.
   */
  readonly dma: DmaSpace & { mappings(): { iova: bigint; length: bigint; writable: boolean }[] };
  /** The way by which it was opened. */
  readonly via: AttachedBy;
}

type Opened = Omit<UserDevice, 'via' | typeof Symbol.dispose>;

/** The arguments of a way. `keep` registers a handle to be disposed at the end, newest first. */
interface Way {
  readonly host: Opener;
  readonly bdf: string;
  readonly token: string | undefined;
  keep<T extends Disposable>(opened: T): T;
}

const open: Record<AttachedBy, (way: Way) => Opened> = {
  cdev({ host, bdf, token, keep }) {
    if (withoutIommu(host, bdf))
      throw notThere(
        `${bdf} has no IOMMU: it reaches all memory`,
        'If that is acceptable: { unsafeNoIommu: true }',
      );
    return byCharacterDevice({ host, bdf, token, keep });
  },
  'group-iommufd'({ host, bdf, token, keep }) {
    const group = groupOf(host, bdf);
    const iommufd = keep(host.openIommufd());
    const joined = keep(host.openGroup(group));
    joined.setContainer(iommufd);
    const device = keep(joined.openDevice(bdf, tokenOf(token)));
    // The kernel made it when the group joined.
    const dma = iommufd.vfioCompatIoas;
    if (dma === null) throw notThere('the iommufd has no compatibility IOAS');
    return { device, dma };
  },
  'group-type1': (way) => byContainer(way, 'type1v2'),
  noiommu(way) {
    // From Linux 7.3 on, devices without an IOMMU have character devices too.
    return nodeWithoutIommu(way.host, way.bdf) ? byCharacterDevice(way) : byContainer(way, 'noiommu');
  },
};

const LACKING: ReadonlySet<string> = new Set(['ENOMEM', 'EMFILE', 'ENFILE', 'EAGAIN']);

/** Opens `bdf` by the first way that works. */
export function attach(host: Opener, bdf: string, o: AttachOptions | undefined): UserDevice {
  const { via, unsafeNoIommu, vfToken } = known(o, 'options', ['via', 'unsafeNoIommu', 'vfToken']);
  const unsafe = flag(unsafeNoIommu, 'unsafeNoIommu', false);
  const token = vfToken === undefined ? undefined : text(vfToken, 'vfToken');
  const only = via === undefined ? undefined : oneOf(via, 'via', ways);
  if (unsafe && (only === undefined || only === 'noiommu')) needsGroup(host, bdf);
  const tried: { way: AttachedBy; error: VfioError }[] = [];
  for (const way of ways) {
    if (only === undefined ? way === 'noiommu' && !unsafe : way !== only) continue;
    if (way === 'noiommu' && !unsafe)
      throw new VfioError(constants.errno.EPERM, {
        syscall: 'open',
        reason: `without an IOMMU nothing confines ${bdf} to the memory of this program`,
        hint: 'If that is acceptable: { unsafeNoIommu: true }',
      });
    const opened: Disposable[] = [];
    const close = () => {
      for (const each of opened.splice(0).reverse()) each[Symbol.dispose]();
    };
    const keep = <T extends Disposable>(each: T): T => {
      opened.push(each);
      return each;
    };
    try {
      return { ...open[way]({ host, bdf, token, keep }), via: way, [Symbol.dispose]: close };
    } catch (error) {
      close();
      // If this program has run out of memory or descriptors, another way would not help.
      if (!(error instanceof VfioError) || LACKING.has(error.code)) throw error;
      tried.push({ way, error });
    }
  }
  throw summary(tried);
}

function byCharacterDevice({ host, bdf, token, keep }: Way): Opened {
  const device = host.openDevice(bdf);
  let iommufd: Iommufd;
  try {
    iommufd = keep(host.openIommufd());
  } finally {
    // The device is registered last, so that it is disposed first: its address space can be destroyed only after it is detached.
    keep(device);
  }
  device.bind(iommufd, token === undefined ? undefined : { token });
  const dma = iommufd.allocIoas();
  device.attach(dma);
  return { device, dma };
}

function byContainer({ host, bdf, token, keep }: Way, type: 'type1v2' | 'noiommu'): Opened {
  const group = groupOf(host, bdf);
  const container: Container = keep(host.openContainer());
  const joined = keep(host.openGroup(group, { unsafeNoIommu: type === 'noiommu' }));
  if (type === 'noiommu' && !joined.noIommu) throw notThere(`${bdf} has an IOMMU`);
  joined.setContainer(container);
  container.setIommu(type);
  return { device: keep(joined.openDevice(bdf, tokenOf(token))), dma: container };
}

const tokenOf = (vfToken: string | undefined) => (vfToken === undefined ? undefined : { vfToken });

function groupOf(host: Opener, bdf: string): number {
  const { group } = host.device(bdf);
  if (group === null) throw notThere(`${bdf} has no IOMMU group: the IOMMU is off, or does not translate it`);
  return group;
}

/** Without an IOMMU a device is used through what VFIO makes for it: a group, or from Linux 7.3 on its own node. */
function needsGroup(host: Opener, bdf: string): void {
  const device = host.device(bdf);
  if (device.group !== null || device.vfioNode !== null) return;
  const { reason, hint } = wordsWithoutGroup(device);
  throw notThere(reason, hint);
}

/** Whether VFIO has made its group because it has no IOMMU. */
function withoutIommu(host: Opener, bdf: string): boolean {
  const { group } = host.device(bdf);
  return group !== null && host.group(group).noIommu;
}

/** Whether its character device is one of a device without an IOMMU (Linux 7.3). */
function nodeWithoutIommu(host: Opener, bdf: string): boolean {
  return host.device(bdf).vfioNode?.includes('/noiommu-') ?? false;
}

function notThere(reason: string | undefined, hint?: string): VfioError {
  return new VfioError(constants.errno.ENODEV, { syscall: 'open', reason, hint });
}

/** The error of the first way that the host offers. The errors of the others are added to its reason, if their codes differ. */
function summary(tried: readonly { way: AttachedBy; error: VfioError }[]): unknown {
  const missing = ({ error }: { error: VfioError }) =>
    error.syscall === 'open' && /^(ENOENT|ENODEV|ENXIO)$/.test(error.code);
  const main = tried.find((each) => !missing(each)) ?? tried[0];
  if (main === undefined || tried.length === 1) return main?.error;
  const others = tried.filter((each) => !missing(each) && each.error.code !== main.error.code);
  const cause = new AggregateError(
    tried.map((each) => each.error),
    `tried: ${tried.map(({ way, error }) => `${way}: ${error.code}`).join(', ')}`,
  );
  const news = others.map(
    ({ way, error }) => `and by ${way}: ${error.code}, ${error.reason ?? 'no reason known'}`,
  );
  return withWords(main.error, ({ reason }) => {
    const said = [...(reason === undefined ? [] : [reason]), ...news].join('; ');
    return said === '' ? { cause } : { reason: said, cause };
  });
}
