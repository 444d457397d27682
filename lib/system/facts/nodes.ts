/** Device nodes: who may open them, and who has them open. */
import { readFileSync } from 'node:fs';
import type { NativeHost } from '../../addon/native.ts';
import { shown } from '../../base/shell.ts';

/** May this process open the node for reading and writing? A missing node: true, since permission is not what it lacks. */
export function mayOpen(host: NativeHost, path: string): boolean {
  const owned = host.ownership(path);
  const user = host.user();
  if (owned === null || user === 0) return true;
  const groups =
    user === process.geteuid?.() ? [process.getegid?.(), ...(process.getgroups?.() ?? [])] : [user];
  const shift = owned.uid === user ? 6 : groups.includes(owned.gid) ? 3 : 0;
  return ((owned.mode >> shift) & 6) === 6;
}

/** Has VFIO made the group up, for a device without an IOMMU? (The name in sysfs is that of mediated devices' too.) */
export function isMadeUp(host: NativeHost, group: number): boolean {
  return host.list(`/sys/class/vfio/noiommu-${group}`) !== null;
}

/** The node of a group: /dev/vfio/7, /dev/vfio/noiommu-7. */
export function groupNode(host: NativeHost, group: number): string {
  return `/dev/vfio/${isMadeUp(host, group) ? 'noiommu-' : ''}${group}`;
}

/** In words: "mode 0600, owner 0, group 0; this process runs as 65534". */
export function describeOwnership(host: NativeHost, path: string): string {
  const owned = host.ownership(path);
  if (owned === null) return 'is not there';
  return `has mode ${owned.mode.toString(8).padStart(4, '0')}, owner ${owned.uid}, group ${owned.gid}; this process runs as ${host.user()}`;
}

/** A process that has a node open. */
export interface Opener {
  pid: number;
  /** As {@link nameOf} has it: 'process 4711 (qemu-system-x86)'. */
  name: string;
}

/** Who has the node open, as far as this process may see it: root sees all, others their own. */
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
    return ''; // it has just ended
  }
}
