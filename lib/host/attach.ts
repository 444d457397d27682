/**
 * One flow, any host (requirement A3): a device and an address space for it, by whichever way the host offers.
 *
 * Life: what a way opens is disposed together, by UserDevice's disposal or when a step of it fails.
 */
import { constants } from 'node:os';
import { flag, known, oneOf, text } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import type { Iommufd } from '../iommufd/iommufd.ts';
import type { DmaSpace } from '../memory/dma-space.ts';
import type { Container } from '../type1/container.ts';
import type { VfioDevice } from '../vfio/device.ts';
import type { Opener } from './opener.ts';

const ways = ['cdev', 'group-iommufd', 'group-type1', 'noiommu'] as const;

/**
 * Which way a device was opened: by its character device and an iommufd (Linux 6.6), by its group and an iommufd
 * (6.2), by its group and a container of type1, or UNSAFE: without an IOMMU.
 */
export type AttachedBy = (typeof ways)[number];

/** How {@link Host.attach} goes about it. */
export interface AttachOptions {
  /** This way only. Default: the first that works. */
  via?: AttachedBy;
  /**
   * Also without an IOMMU, if nothing else works. UNSAFE: nothing confines the device to the memory of this program.
   * Default false.
   */
  unsafeNoIommu?: boolean;
  /** The UUID that the physical function of a virtual one was given. By character device it needs Linux 6.17. */
  vfToken?: string;
}

/** Device and address space together, whichever path made them. Disposing it gives both back. */
export interface UserDevice extends Disposable {
  readonly device: VfioDevice;
  /**
   * The address space that the device uses: an Ioas, or a Container of type1. Without an IOMMU, a Container in which
   * nothing can be mapped: ENOTTY.
   */
  readonly dma: DmaSpace & { mappings(): { iova: bigint; length: bigint; writable: boolean }[] };
  /** Which way it was opened. */
  readonly via: AttachedBy;
}

type Opened = Omit<UserDevice, 'via' | typeof Symbol.dispose>;

/** What a way needs: `keep` has it disposed in the end, newest first. */
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
    // Joining made it.
    const dma = iommufd.vfioCompatIoas;
    if (dma === null) throw notThere('the iommufd has no compatibility IOAS');
    return { device, dma };
  },
  'group-type1': (way) => byContainer(way, 'type1v2'),
  noiommu(way) {
    // Linux 7.3 has character devices for them too.
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
      // What this program has run out of is no reason for another way.
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
    // The device goes first at the end, so that its address space is free to go.
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

/** Is its group one that VFIO made up? */
function withoutIommu(host: Opener, bdf: string): boolean {
  const { group } = host.device(bdf);
  return group !== null && host.group(group).noIommu;
}

/** Is its character device one that confines nothing (Linux 7.3)? */
function nodeWithoutIommu(host: Opener, bdf: string): boolean {
  return host.device(bdf).vfioNode?.includes('/noiommu-') ?? false;
}

function notThere(reason: string, hint?: string): VfioError {
  return new VfioError(constants.errno.ENODEV, { syscall: 'open', reason, hint });
}

/** The error of the first way that the host offers; what the others say otherwise is added to its reason. */
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
