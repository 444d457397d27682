/**
 * How the kernel uses a device: disks that are mounted, that are part of a volume, or that are claimed by a user that can't be
 * seen; network interfaces that are up.
 */

import type { NativeHost } from '../../addon/native.ts';
import { VfioError } from '../../base/errors.ts';
import { decoded, isPlain, quoted, shown } from '../../base/shell.ts';
import { nameOf, openersOf } from './nodes.ts';

/** A use of a device by the kernel: taking the device away would do harm. */
export interface Use {
  /** The use in words: 'disk nvme0n1 is mounted on /srv'. */
  reason: string;
  /** The command that ends it. */
  command: string;
}

/** The uses of the device at `bdf` and, if it is a bridge, of the devices behind it. */
export function usesOf(host: NativeHost, bdf: string): Use[] {
  return [...diskUses(host, bdf), ...networkUses(host, bdf)];
}

/** The names in a class of sysfs that belong to the device: the paths of their links contain its address. */
function namesOf(host: NativeHost, kind: string, bdf: string): string[] {
  return (host.list(`/sys/class/${kind}`) ?? []).filter((name) =>
    host.readlink(`/sys/class/${kind}/${name}`)?.includes(`/${bdf}/`),
  );
}

const lines = (host: NativeHost, path: string) =>
  (host.readText(path) ?? '').split('\n').map((line) => line.split(/[ \t]+/));

/** The node of a disk. In sysfs a '!' stands for a slash of the name. */
const nodeOf = (name: string) => `/dev/${name.replaceAll('!', '/')}`;

function diskUses(host: NativeHost, bdf: string): Use[] {
  const uses = new Map(disksOf(host, bdf).map((name) => [name, tableUses(host, name)]));
  const used = (name = '') => (uses.get(name) ?? []).length > 0;
  const whole = (name: string) =>
    host.readText(`/sys/class/block/${name}/partition`) === null
      ? name
      : host.readlink(`/sys/class/block/${name}`)?.split('/').at(-2);
  const names = [...uses.keys()];
  const partitions = names.filter((name) => whole(name) !== name);
  const disks = names.filter((name) => whole(name) === name);
  // A claim on a partition makes the disk claimed too, and a claim on the disk its partitions: it is reported once.
  for (const name of partitions) if (!used(name) && !used(whole(name))) uses.set(name, claimsOf(host, name));
  for (const name of disks)
    if (!used(name) && !partitions.some((each) => whole(each) === name && used(each)))
      uses.set(name, claimsOf(host, name));
  return [...uses.values()].flat();
}

/** The uses of a disk or a partition that the kernel's tables show. */
function tableUses(host: NativeHost, name: string): Use[] {
  const node = nodeOf(name);
  const disk = `disk ${shown(name)}`;
  const uses = mountsOf(host, name, 'self').map((where) => ({
    reason: `${disk} is mounted on ${shown(where)}`,
    command: umount(where, node),
  }));
  for (const [file] of lines(host, '/proc/swaps'))
    if (decoded(file ?? '') === node)
      uses.push({ reason: `${disk} is swap space`, command: `swapoff ${quoted(node)}` });
  for (const holder of host.list(`/sys/class/block/${name}/holders`) ?? [])
    uses.push({
      reason: `${disk} is a part of ${shown(holder)}`,
      command: `lsblk ${quoted(node)} # shows what to stop`,
    });
  return uses;
}

/** The paths on which the disk is mounted, in the mount namespace of a process. */
function mountsOf(host: NativeHost, name: string, pid: string): string[] {
  const number = host.readText(`/sys/class/block/${name}/dev`)?.trim();
  return lines(host, `/proc/${pid}/mountinfo`).flatMap((fields) => {
    // id, parent, device number, root, where, options ..., -, type, source
    const source = fields[fields.indexOf('-') + 2];
    if (fields[4] === undefined || (fields[2] !== number && decoded(source ?? '') !== nodeOf(name)))
      return [];
    return decoded(fields[4]);
  });
}

/** The command to unmount a disk. A path that can't be copied from a terminal is replaced by the disk's node. */
const umount = (where: string, node: string) => `umount ${quoted(isPlain(where) ? where : node)}`;

/**
 * The uses of a disk that is claimed, though no table of this process shows it: a mount in another mount namespace, the second
 * disk of a file system, a volume of a driver that has no such table, or a program that has opened it exclusively.
 */
function claimsOf(host: NativeHost, name: string): Use[] {
  const node = nodeOf(name);
  if (!host.claimed(node)) return [];
  const disk = `disk ${shown(name)}`;
  const mounts = namespacesOf(host).flatMap((pid) =>
    (tried(() => mountsOf(host, name, pid)) ?? []).map((where) => ({
      reason: `${disk} is mounted on ${shown(where)} in the mount namespace of ${nameOf(Number(pid))}`,
      command: `nsenter --target ${pid} --mount --root ${umount(where, node)}`,
    })),
  );
  if (mounts.length > 0) return mounts;
  const openers = openersOf(host, node).map((each) => each.name);
  return [
    {
      reason: `${disk} is claimed: by a file system or volume whose mount this process can't see, or by a program that has opened it exclusively${openers.length > 0 ? ` (it is open in ${openers.join(' and ')})` : ''}`,
      command: `lsblk --fs ${quoted(node)} # shows what is on it`,
    },
  ];
}

/** One process of each mount namespace that this process may see: the one with the lowest number. */
function namespacesOf(host: NativeHost): string[] {
  const first = new Map<string, string>();
  const pids = (host.list('/proc') ?? []).filter((name) => /^\d+$/.test(name));
  for (const pid of pids.sort((a, b) => Number(a) - Number(b))) {
    const namespace = tried(() => host.readlink(`/proc/${pid}/ns/mnt`));
    if (namespace !== null && !first.has(namespace)) first.set(namespace, pid);
  }
  return [...first.values()];
}

/** What `look` returns; null if the process has ended or belongs to another user. */
function tried<T>(look: () => T): T | null {
  try {
    return look();
  } catch (error) {
    if (!(error instanceof VfioError)) throw error;
    return null;
  }
}

/**
 * The disks and partitions on the device. An NVMe namespace that several controllers can reach has one disk for all of them,
 * nvme0n1, which sysfs lists under none of them; under each controller is a hidden path to it, nvme0c1n1.
 */
function disksOf(host: NativeHost, bdf: string): string[] {
  const own = namesOf(host, 'block', bdf);
  const heads = own.flatMap((name) => {
    const [, subsystem, namespace] = /^(nvme\d+)c\d+(n\d+)$/.exec(name) ?? [];
    return subsystem === undefined ? [] : `${subsystem}${namespace}`;
  });
  const shared = (host.list('/sys/class/block') ?? []).filter((name) =>
    host
      .readlink(`/sys/class/block/${name}`)
      ?.split('/')
      .some((part) => heads.includes(part)),
  );
  return [...new Set([...own, ...shared])];
}

function networkUses(host: NativeHost, bdf: string): Use[] {
  return namesOf(host, 'net', bdf).flatMap((name) => {
    if (host.readText(`/sys/class/net/${name}/operstate`)?.trim() === 'down') return [];
    return {
      reason: `network interface ${shown(name)} is up${purposeOf(host, name)}`,
      command: `ip link set dev ${quoted(name)} down`,
    };
  });
}

/** What an interface that is up is used for, if that can be seen. Its routes can also be in other tables or namespaces. */
function purposeOf(host: NativeHost, name: string): string {
  const path = `/sys/class/net/${name}`;
  const master = host.readlink(`${path}/master`)?.split('/').at(-1);
  if (master !== undefined) return ` and a port of ${shown(master)}`;
  // An upper interface, of a VLAN for example, has the routes.
  const upper = (host.list(path) ?? []).find((entry) => entry.startsWith('upper_'));
  if (upper !== undefined) return ` and carries ${shown(upper.slice('upper_'.length))}`;
  const routed =
    lines(host, '/proc/net/route').some(([interface_]) => interface_ === name) ||
    // Without the routes that every interface has (link-local, multicast).
    lines(host, '/proc/net/ipv6_route').some(
      (fields) => fields.at(-1) === name && !/^f[ef]/.test(fields[0] ?? ''),
    );
  return routed ? ' and has a route' : '';
}
