/** What the kernel does with a device: disks that are mounted, network interfaces that carry a route. */
import type { NativeHost } from './native.ts';

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
  (host.readText(path) ?? '').split('\n').map((line) => line.split(/\s+/));

function diskUses(host: NativeHost, bdf: string): Use[] {
  const uses: Use[] = [];
  for (const name of namesOf(host, 'block', bdf)) {
    const number = host.readText(`/sys/class/block/${name}/dev`)?.trim();
    for (const fields of lines(host, '/proc/self/mountinfo')) {
      // id, parent, device number, root, where, options ..., -, type, source
      const source = fields[fields.indexOf('-') + 2];
      if (fields[4] !== undefined && (fields[2] === number || source === `/dev/${name}`))
        uses.push({ reason: `disk ${name} is mounted on ${fields[4]}`, command: `umount ${fields[4]}` });
    }
    for (const [file] of lines(host, '/proc/swaps'))
      if (file === `/dev/${name}`)
        uses.push({ reason: `disk ${name} is swap space`, command: `swapoff /dev/${name}` });
    for (const holder of host.list(`/sys/class/block/${name}/holders`) ?? [])
      uses.push({
        reason: `disk ${name} is a part of ${holder}`,
        command: `lsblk /dev/${name} # shows what to stop`,
      });
  }
  return uses;
}

function networkUses(host: NativeHost, bdf: string): Use[] {
  const uses: Use[] = [];
  for (const name of namesOf(host, 'net', bdf)) {
    if (host.readText(`/sys/class/net/${name}/operstate`)?.trim() === 'down') continue;
    const routed =
      lines(host, '/proc/net/route').some(([interface_]) => interface_ === name) ||
      // What is left aside: the addresses that every interface has (link-local, multicast).
      lines(host, '/proc/net/ipv6_route').some(
        (fields) => fields.at(-1) === name && !/^f[ef]/.test(fields[0] ?? ''),
      );
    if (routed)
      uses.push({
        reason: `network interface ${name} is up and has a route`,
        command: `ip link set ${name} down`,
      });
  }
  return uses;
}
