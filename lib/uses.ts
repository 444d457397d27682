/** What the kernel does with a device: disks that are mounted or a part of something, network interfaces that are up. */
import type { NativeHost } from './native.ts';
import { decoded, isPlain, quoted, shown } from './shell.ts';

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
  const uses: Use[] = [];
  for (const name of disksOf(host, bdf)) {
    const number = host.readText(`/sys/class/block/${name}/dev`)?.trim();
    const node = nodeOf(name);
    const disk = `disk ${shown(name)}`;
    for (const fields of lines(host, '/proc/self/mountinfo')) {
      // id, parent, device number, root, where, options ..., -, type, source
      const source = fields[fields.indexOf('-') + 2];
      if (fields[4] === undefined || (fields[2] !== number && decoded(source ?? '') !== node)) continue;
      const where = decoded(fields[4]);
      uses.push({
        reason: `${disk} is mounted on ${shown(where)}`,
        // What can't be copied from a terminal is named by its disk.
        command: `umount ${quoted(isPlain(where) ? where : node)}`,
      });
    }
    for (const [file] of lines(host, '/proc/swaps'))
      if (decoded(file ?? '') === node)
        uses.push({ reason: `${disk} is swap space`, command: `swapoff ${quoted(node)}` });
    for (const holder of host.list(`/sys/class/block/${name}/holders`) ?? [])
      uses.push({
        reason: `${disk} is a part of ${shown(holder)}`,
        command: `lsblk ${quoted(node)} # shows what to stop`,
      });
  }
  return uses;
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
