/**
 * The devices and groups that this thread has open, with their handles. A call that unbinds a device's driver must know them,
 * since the kernel's unbind waits until the device is closed.
 *
 * Life: an entry is made with its handle, and deleted when the handle is disposed or was collected.
 */

import type { NativeHost } from '../addon/native.ts';
import { type FileHandle, fileOf, type Handle } from './handle.ts';

/** A handle, and the device or the group that it has open. */
interface Hold {
  readonly handle: WeakRef<FileHandle>;
  /** In words: 'VfioDevice 0000:00:10.0'. */
  readonly name: string;
  /** The device: its address if that is known, and the group that it was opened by. */
  readonly device?: { readonly bdf: string | null; readonly group: WeakRef<Handle> | undefined };
  /** The number of the group. */
  readonly group?: number;
}

/** A handle that must be disposed before the driver can be unbound. */
export interface Held {
  readonly handle: Handle;
  readonly name: string;
}

/** A device whose handles are searched for. */
export interface Wanted {
  readonly bdf: string;
  readonly group: number | null;
  readonly vfioNode: string | null;
}

const holds = new Set<Hold>();

/** @internal Records that a device was opened, perhaps by its group. Returns the function to call when it is closed. */
export function holdDevice(handle: FileHandle, bdf: string | null, group: Handle | undefined): () => void {
  const by = group === undefined ? undefined : new WeakRef(group);
  return hold({ handle: new WeakRef(handle), name: `VfioDevice ${bdf ?? ''}`, device: { bdf, group: by } });
}

/** @internal Records that a group was opened. Returns the function to call when it is closed. */
export function holdGroup(handle: FileHandle, group: number): () => void {
  return hold({ handle: new WeakRef(handle), name: `Group ${group}`, group });
}

function hold(added: Hold): () => void {
  for (const each of holds) if (each.handle.deref() === undefined) holds.delete(each);
  holds.add(added);
  return () => holds.delete(added);
}

/**
 * @internal The handles by which this thread keeps these devices of a host open: those of the devices, and those of their
 * groups unless another device was opened by the group.
 */
export function heldOf(host: NativeHost, wanted: readonly Wanted[]): Held[] {
  const living = [...holds].flatMap((each) => {
    const handle = each.handle.deref();
    return handle === undefined || handle.disposed || !host.has(fileOf(handle)) ? [] : { ...each, handle };
  });
  const nodes = new Set(
    wanted.flatMap(({ vfioNode }) => (vfioNode === null ? [] : host.descriptors(vfioNode))),
  );
  const addresses = new Set<string | null>(wanted.map(({ bdf }) => bdf));
  const groups = new Set<number | null | undefined>(wanted.map(({ group }) => group));
  // The address of a device that was opened by a descriptor or a path is unknown: its file tells which device it is.
  const isOne = ({ handle, device }: (typeof living)[number]) =>
    device !== undefined &&
    (addresses.has(device.bdf) || (device.bdf === null && nodes.has(fileOf(handle).fd)));
  const devices = living.filter(isOne);
  const others = living.filter((each) => each.device !== undefined && !isOne(each));
  return [
    ...devices,
    ...living.filter(
      ({ handle, group }) =>
        group !== undefined &&
        groups.has(group) &&
        !others.some((each) => each.device?.group?.deref() === handle),
    ),
  ].map(({ handle, name }) => ({ handle, name: name.trim() }));
}
