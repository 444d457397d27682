/**
 * What the kernel does with a device: disks that are mounted, a part of something or claimed by what does not show, network
 * interfaces that are up.
 */

import type { NativeHost } from '../../addon/native.ts';
import { VfioError } from '../../base/errors.ts';
import { decoded, isPlain, quoted, shown } from '../../base/shell.ts';
import { nameOf, openersOf } from './nodes.ts';

/** A use that would end badly if the device were taken away. */
export interface Use {
  /** In words: 'disk nvme0n1 is mounted on /srv'. */
  reason: string;
  /** The command that ends it. */
  command: string;
}

/** The uses of the device at `bdf`, and of what is behind it if it is a bridge. */
export function usesOf(host: NativeHost, bdf: string): Use[] {
  return [...diskUses(host, bdf), ...networkUses(host, bdf)];
}

/** The names of a class that belong to the device: their links go through it. */
function namesOf(host: NativeHost, kind: string, bdf: string): string[] {
  return (host.list(`/sys/class/${kind}`) ?? []).filter((name) =>
    host.readlink(`/sys/class/${kind}/${name}`)?.includes(`/${bdf}/`),
  );
}

const lines = (host: NativeHost, path: string) =>
  (host.readText(path) ?? '').split('\n').map((line) => line.split(/[ \t]+/));

/** The node of a disk: sysfs has '!' where its name has a slash. */
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
  // Who has a partition keeps others from the disk, and who has the disk from its partitions: that is said once.
  for (const name of partitions) if (!used(name) && !used(whole(name))) uses.set(name, claimsOf(host, name));
  for (const name of disks)
    if (!used(name) && !partitions.some((each) => whole(each) === name && used(each)))
      uses.set(name, claimsOf(host, name));
  return [...uses.values()].flat();
}

/** What the kernel's tables say of a disk or a partition. */
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

/** Where a process sees the disk mounted. */
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

/** What can't be copied from a terminal is named by its disk. */
const umount = (where: string, node: string) => `umount ${quoted(isPlain(where) ? where : node)}`;

/**
 * What has a disk that is in none of this process's tables: a mount in another mount namespace, the second disk of a
 * file system, a volume of a driver that tells nobody, a program that has it open alone.
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
      reason: `${disk} is claimed: by a file system or volume of which this process sees no mount, or by a program that has it open alone${openers.length > 0 ? ` (it is open in ${openers.join(' and ')})` : ''}`,
      command: `lsblk --fs ${quoted(node)} # shows what is on it`,
    },
  ];
}

/** A process for each mount namespace, as far as this process may see them: the first one in it. */
function namespacesOf(host: NativeHost): string[] {
  const first = new Map<string, string>();
  const pids = (host.list('/proc') ?? []).filter((name) => /^\d+$/.test(name));
  for (const pid of pids.sort((a, b) => Number(a) - Number(b))) {
    const namespace = tried(() => host.readlink(`/proc/${pid}/ns/mnt`));
    if (namespace !== null && !first.has(namespace)) first.set(namespace, pid);
  }
  return [...first.values()];
}

/** null for a process that is gone, or another user's. */
function tried<T>(look: () => T): T | null {
  try {
    return look();
  } catch (error) {
    if (!(error instanceof VfioError)) throw error;
    return null;
  }
}

/**
 * The disks and partitions on the device. An NVMe namespace that several controllers may reach has one disk for all of
 * them, nvme0n1, that is below none; below each is a hidden path to it, nvme0c1n1.
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

/** What an interface that is up is for, where that shows. Its routes may be in other tables or another namespace. */
function purposeOf(host: NativeHost, name: string): string {
  const path = `/sys/class/net/${name}`;
  const master = host.readlink(`${path}/master`)?.split('/').at(-1);
  if (master !== undefined) return ` and a port of ${shown(master)}`;
  // Interfaces of VLANs and the like, which have the routes.
  const upper = (host.list(path) ?? []).find((entry) => entry.startsWith('upper_'));
  if (upper !== undefined) return ` and carries ${shown(upper.slice('upper_'.length))}`;
  const routed =
    lines(host, '/proc/net/route').some(([interface_]) => interface_ === name) ||
    // What is left aside: the addresses that every interface has (link-local, multicast).
    lines(host, '/proc/net/ipv6_route').some(
      (fields) => fields.at(-1) === name && !/^f[ef]/.test(fields[0] ?? ''),
    );
  return routed ? ' and has a route' : '';
}
