/** Device nodes: which users may open them, and which processes have them open. */
import { readFileSync } from 'node:fs';
import type { NativeHost } from '../../addon/native.ts';
import { shown } from '../../base/shell.ts';

/** Whether this process may open the node for reading and writing. True if there is no node: it is not for want of permission. */
export function mayOpen(host: NativeHost, path: string): boolean {
  const owned = host.ownership(path);
  const user = host.user();
  if (owned === null || user === 0) return true;
  const groups =
    user === process.geteuid?.() ? [process.getegid?.(), ...(process.getgroups?.() ?? [])] : [user];
  const shift = owned.uid === user ? 6 : groups.includes(owned.gid) ? 3 : 0;
  return ((owned.mode >> shift) & 6) === 6;
}

/**
 * Whether VFIO has made the group for a device without an IOMMU. Its class entry tells; the group's name in sysfs does not,
 * since groups of mediated devices have the same.
 */
export function isNoIommuGroup(host: NativeHost, group: number): boolean {
  return host.list(`/sys/class/vfio/noiommu-${group}`) !== null;
}

/** The node of a group: /dev/vfio/7, /dev/vfio/noiommu-7. */
export function groupNode(host: NativeHost, group: number): string {
  return `/dev/vfio/${isNoIommuGroup(host, group) ? 'noiommu-' : ''}${group}`;
}

/** The permissions of a node in words: "has mode 0600, owner 0, group 0; this process runs as 65534". */
export function describeOwnership(host: Pick<NativeHost, 'ownership' | 'user'>, path: string): string {
  const owned = host.ownership(path);
  if (owned === null) return 'is not there';
  return `has mode ${owned.mode.toString(8).padStart(4, '0')}, owner ${owned.uid}, group ${owned.gid}; this process runs as ${host.user()}`;
}

/** A process that has a node open. */
export interface Opener {
  pid: number;
  /** As {@link nameOf} returns it: 'process 4711 (qemu-system-x86)'. */
  name: string;
}

/** The processes that have the node open, as far as this process may see them: root sees all, other users their own. */
export function openersOf(host: NativeHost, path: string): Opener[] {
  return host.openers(path).map((pid) => ({
    pid,
    name: nameOf(pid),
  }));
}

/** A process in words: 'process 4711 (qemu-system-x86)' or 'this process (4711)'. */
export const nameOf = (pid: number) =>
  pid === process.pid ? `this process (${pid})` : `process ${pid}${commandOf(pid)}`;

function commandOf(pid: number): string {
  try {
    return ` (${shown(readFileSync(`/proc/${pid}/comm`, 'utf8').trim())})`;
  } catch {
    return ''; // the process has just ended
  }
}
