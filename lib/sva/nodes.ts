/**
 * The way 'character-device': devices whose own driver binds the process that opens their node. Linux has two kinds: queues of
 * accelerators (uacce, Linux 5.7), and work queues of Intel's DSA and IAA (idxd, Linux 5.11).
 *
 * The bond belongs to the open file: another process that inherits the descriptor is refused by the driver. What is done with
 * the file (its ioctls, its mmap) is the driver's own interface, and the program's business: `fd` is for that.
 *
 * Life: `nodesOf` reads what sysfs shows at that time. `bindNode` opens a node; `dispose` closes it, and the driver ends the
 * bond when the last duplicate of the descriptor is closed.
 */
import { constants } from 'node:os';
import type { NativeFile } from '../addon/files.ts';
import type { NativeHost } from '../addon/native.ts';
import { VfioError, type Words, withWords } from '../base/errors.ts';
import { alive, disposedError, type Handle } from '../handles/handle.ts';
import { DmaBuffer } from '../memory/dma-buffer.ts';
import { describeOwnership } from '../system/facts/nodes.ts';
import type { Bonding } from './way.ts';

/** A character device that can bind the process that opens it. */
export interface SvaNode {
  /** '/dev/hisi_zip-0', '/dev/dsa/wq0.0'. */
  readonly path: string;
  /** The part of the kernel that it belongs to. */
  readonly kind: 'uacce' | 'idxd';
  /** The PCI address of its device; null: it is no PCI device, or unknown. */
  readonly bdf: string | null;
  /** The driver of that device; null: unknown. */
  readonly driver: string | null;
  /** What it can be used for, as its driver names it: 'zlib', 'gzip'; for idxd 'dsa' or 'iax'. */
  readonly algorithms: readonly string[];
  /** The version of the driver's own interface, such as 'hisi_qm_v2'; null: the driver names none. */
  readonly api: string | null;
  /** Whether only one process at a time can have it open (a dedicated work queue of idxd). */
  readonly dedicated: boolean;
  /** Whether the driver has set the device aside because of its errors (uacce, Linux 6.3); null: the driver does not say. */
  readonly isolated: boolean | null;
  /** Whether opening it binds the process. False: the IOMMU, the kernel or its settings have no SVA for the device. */
  readonly sva: boolean;
}

/** The calls of a host that finding nodes takes. */
export type NodeFiles = Pick<NativeHost, 'list' | 'readText' | 'readlink'>;
/** And those that opening one takes. */
export type NodeHost = NodeFiles &
  Pick<NativeHost, 'ownership' | 'user'> & {
    open(path: string, kind: 'other', checked: boolean): NativeFile;
  };

/** A bonding by an open node. */
export interface NodeBonding extends Bonding {
  /** The descriptor of the open node, for the driver's own calls. It belongs to the bonding: don't close it. */
  readonly fd: number;
}

/** The nodes that were found, with the host of each. */
const found = new WeakMap<object, { readonly parent: Handle; readonly host: NodeHost }>();

/** The nodes of a host, which {@link Sva.bind} can open. */
export function nodesFor(parent: Handle, host: NodeHost): SvaNode[] {
  const nodes = nodesOf(host);
  // The host opens what it has found, not what a program has written over it.
  for (const node of nodes) found.set(Object.freeze(node), { parent, host });
  return nodes;
}

/** Opens a node that {@link nodesFor} has found; undefined: it is none. */
export function bindKnown(value: object): { parent: Handle; bonding: NodeBonding } | undefined {
  const of = typeof value === 'object' && value !== null ? found.get(value) : undefined;
  if (of === undefined) return undefined;
  alive(of.parent);
  return { parent: of.parent, bonding: bindNode(of.host, value as SvaNode) };
}

const UACCE = '/sys/class/uacce';
const DSA = '/sys/bus/dsa/devices';
/** UACCE_DEV_SVA: the driver takes it away when it registers the device, if the device's IOMMU has no SVA. */
const UACCE_SVA = 1;
const BDF = /[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]/g;

/** The nodes of this host, by path. None is opened. */
export function nodesOf(host: NodeFiles): SvaNode[] {
  const found = [...uacceNodes(host), ...idxdNodes(host)];
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function uacceNodes(host: NodeFiles): SvaNode[] {
  return (host.list(UACCE) ?? []).map((name) => {
    const attribute = (which: string) => attributeOf(host, `${UACCE}/${name}/${which}`);
    const isolate = attribute('isolate');
    return {
      path: `/dev/${name}`,
      kind: 'uacce',
      bdf: bdfIn(host.readlink(`${UACCE}/${name}/device`)),
      driver: lastOf(host.readlink(`${UACCE}/${name}/device/driver`)),
      algorithms: wordsOf(attribute('algorithms')),
      api: attribute('api'),
      dedicated: false,
      isolated: isolate === null ? null : isolate !== '0',
      sva: (Number(attribute('flags') ?? 0) & UACCE_SVA) !== 0,
    };
  });
}

function idxdNodes(host: NodeFiles): SvaNode[] {
  return (host.list(DSA) ?? []).flatMap((queue) => {
    const [, number] = /^wq(\d+)\.\d+$/.exec(queue) ?? [];
    if (number === undefined) return [];
    // A queue has a node while it is enabled for users: sysfs then has 'dsa!wq0.0' in it, for the node /dev/dsa/wq0.0.
    const node = (host.list(`${DSA}/${queue}`) ?? []).find((entry) => entry.endsWith(`!${queue}`));
    if (node === undefined) return [];
    const type = node.slice(0, node.indexOf('!'));
    const device = `${DSA}/${type}${number}`;
    const bdf = bdfIn(host.readlink(device));
    return [
      {
        path: `/dev/${type}/${queue}`,
        kind: 'idxd',
        bdf,
        driver: bdf === null ? null : lastOf(host.readlink(`/sys/bus/pci/devices/${bdf}/driver`)),
        algorithms: [type],
        api: attributeOf(host, `${device}/version`),
        dedicated: attributeOf(host, `${DSA}/${queue}/mode`) === 'dedicated',
        isolated: null,
        sva: attributeOf(host, `${device}/pasid_enabled`) === '1',
      } satisfies SvaNode,
    ];
  });
}

/**
 * Opens a node, which binds this process.
 *
 * @throws {VfioError} EOPNOTSUPP the node binds nobody (`sva` is false), or the kernel refuses to bind; EBUSY its queue takes one
 * process at a time, and has one; EACCES: `reason` says who may; ENOENT, ENODEV, ENXIO the device has gone; others: those of the
 * kernel's bind. `reason` says which, where it is known.
 */
export function bindNode(host: NodeHost, node: SvaNode): NodeBonding {
  if (!node.sva)
    throw new VfioError(constants.errno.EOPNOTSUPP, {
      syscall: 'open',
      path: node.path,
      reason:
        'its driver has no shared addresses for the device, as the IOMMU or the kernel offers none: opening the node would bind nothing',
    });
  let file: NativeFile;
  try {
    file = host.open(node.path, 'other', false);
  } catch (error) {
    throw withWords(error, (failed) => wordsForOpen(host, node, failed));
  }
  let open = true;
  return {
    way: 'character-device',
    get fd() {
      if (!open) throw disposedError('bond');
      return file.fd;
    },
    // The driver gives the PASID to the device, and to the processor for ENQCMD; it tells it to no program.
    pasid: () => null,
    ended: () => false,
    reach() {}, // every byte of the process
    allocate: (size) => DmaBuffer.alloc(size).buffer,
    adopt() {},
    dispose() {
      open = false;
      file.dispose();
    },
  };
}

function wordsForOpen(host: NodeHost, node: SvaNode, { code }: VfioError): Words | undefined {
  switch (code) {
    case 'EACCES':
      return { reason: `${node.path} ${describeOwnership(host, node.path)}` };
    case 'EBUSY':
      return node.dedicated
        ? { reason: 'the queue takes one process at a time, and one has it open' }
        : { reason: 'possibly the process has another PASID on this device already' };
    case 'EOPNOTSUPP':
      return {
        reason:
          'the kernel binds no process to this device; possibly it is one of the stable kernels in which that is switched off on x86',
      };
    default:
      return undefined;
  }
}

/** The text of an attribute; null: it is not there, or the driver has no answer. */
function attributeOf(host: NodeFiles, path: string): string | null {
  try {
    return host.readText(path)?.trim() ?? null;
  } catch (error) {
    if (!(error instanceof VfioError)) throw error;
    return null; // the driver leaves the attribute out, or the device is just being removed
  }
}

const wordsOf = (text: string | null): string[] => text?.split(/\s+/).filter((word) => word !== '') ?? [];
const lastOf = (link: string | null): string | null => link?.split('/').at(-1) ?? null;
const bdfIn = (link: string | null): string | null => link?.match(BDF)?.at(-1) ?? null;
