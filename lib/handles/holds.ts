/**
 * What this thread holds of the host's devices: handles on devices, and on the groups that devices are opened by. Who takes
 * a device from its driver must know of them, since the kernel waits until a device is closed.
 *
 * Life: a hold is noted when its handle is made, and forgotten with it.
 */

import type { NativeHost } from '../addon/native.ts';
import { type FileHandle, fileOf, type Handle } from './handle.ts';

/** A handle, and what it is on. */
interface Hold {
  readonly handle: WeakRef<FileHandle>;
  /** In words: 'VfioDevice 0000:00:10.0'. */
  readonly name: string;
  /** A device, by its address if that is known. */
  readonly device?: { readonly bdf: string | null; readonly group: WeakRef<Handle> | undefined };
  /** A group. */
  readonly group?: number;
}

/** A handle that must go first. */
export interface Held {
  readonly handle: Handle;
  readonly name: string;
}

/** A device that is looked for. */
export interface Wanted {
  readonly bdf: string;
  readonly group: number | null;
  readonly vfioNode: string | null;
}

const holds = new Set<Hold>();

/** @internal A device was opened, by its group or not. Returns what to call when it is closed. */
export function holdDevice(handle: FileHandle, bdf: string | null, group: Handle | undefined): () => void {
  const by = group === undefined ? undefined : new WeakRef(group);
  return hold({ handle: new WeakRef(handle), name: `VfioDevice ${bdf ?? ''}`, device: { bdf, group: by } });
}

/** @internal A group was opened. Returns what to call when it is closed. */
export function holdGroup(handle: FileHandle, group: number): () => void {
  return hold({ handle: new WeakRef(handle), name: `Group ${group}`, group });
}

function hold(added: Hold): () => void {
  for (const each of holds) if (each.handle.deref() === undefined) holds.delete(each);
  holds.add(added);
  return () => holds.delete(added);
}

/**
 * @internal What this thread holds of these devices of a host: the devices, and their groups' files unless another device
 * is open by them.
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
  // Of one that was made of a descriptor or a path, the file tells which it is.
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
