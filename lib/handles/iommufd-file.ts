/**
 * The part of an iommufd that its objects and devices use, and the part of a device that its iommufd uses.
 *
 * Life: an IommufdFile refers weakly to the devices that were bound to it, and to the handles of its objects, by id. Iommufd
 * is the only class that extends IommufdFile, and VfioDevice the only one that extends IommufdDevice.
 */
import type { NativeDevice, NativeIommufd } from '../addon/files.ts';
import { refusal } from '../base/check.ts';
import type { OURS } from '../base/private.ts';
import { FileHandle, fileOf, type Handle, isHandle, livingChildren } from './handle.ts';

/**
 * The types of classes in higher folders that getters in lower folders return. Each class adds itself, in its own file. So
 * `ioas.iommufd` is typed Iommufd, though ioas.ts does not import that class.
 */
// biome-ignore lint/suspicious/noEmptyInterface: the classes add themselves.
export interface HandleClasses {}

/** A handle of an object, by its id. */
type ObjectHandle = Handle & { readonly id: number };

/** Whether the two refer to different open files of the kernel. */
export function differs(one: IommufdFile, other: IommufdFile): boolean {
  return one !== other && !fileOf(one).same(fileOf(other));
}

/** The file with the type that programs know: every IommufdFile is an Iommufd. */
export const iommufdOf = (file: IommufdFile) => file as HandleClasses['Iommufd'];

/** Remembers the handle of an object by its id. */
export let keepIn: <T extends ObjectHandle>(iommufd: IommufdFile, handle: T) => T;
/** The handle of the object that has this id now. */
export let handleIn: (iommufd: IommufdFile, id: number) => ObjectHandle | undefined;
/** Forgets the handle of the object that had this id: it was destroyed. */
export let forgetIn: (iommufd: IommufdFile, id: number) => void;
/** The devices and objects that are known to use the object with this id, in words. */
export let usersOf: (iommufd: IommufdFile, id: number, handle: Handle | undefined) => string[];

let enter: (iommufd: IommufdFile, device: IommufdDevice) => void;

/** The open file of an iommufd. */
export abstract class IommufdFile extends FileHandle<NativeIommufd> {
  readonly #objects = new Map<number, WeakRef<ObjectHandle>>();
  readonly #devices = new Set<WeakRef<IommufdDevice>>();

  // Written out: the default constructor passes its arguments on by an iterator, which a program may have replaced.
  protected constructor(
    key: typeof OURS,
    kind: string,
    parent: Handle | undefined,
    file: NativeIommufd,
    release: (self: never) => void,
  ) {
    super(key, kind, parent, file, [file], release);
  }

  static {
    keepIn = (iommufd, handle) => {
      iommufd.#objects.set(handle.id, new WeakRef<ObjectHandle>(handle));
      return handle;
    };
    handleIn = (iommufd, id) => iommufd.#handleOf(id);
    forgetIn = (iommufd, id) => void iommufd.#objects.delete(id);
    usersOf = (iommufd, id, handle) => iommufd.#usersOf(id, handle);
    enter = (iommufd, device) => {
      for (const each of iommufd.#devices) if (each.deref() === undefined) iommufd.#devices.delete(each);
      iommufd.#devices.add(new WeakRef(device));
    };
  }

  #handleOf(id: number): ObjectHandle | undefined {
    const handle = this.#objects.get(id)?.deref();
    if (handle === undefined || handle.disposed) return undefined;
    try {
      return handle.id === id ? handle : undefined;
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ERR_VFIO_DISPOSED') throw error;
      return undefined; // the kernel has destroyed the object, and another one may have its id
    }
  }

  #usersOf(id: number, handle: Handle | undefined): string[] {
    const devices = [...this.#devices].flatMap((each) => each.deref() ?? []).filter((each) => !each.disposed);
    const states = devices.map(bindingOf);
    const self = states.find((each) => each.id === id);
    return [
      ...(self
        ? [
            `it is ${self.bdf === null ? 'a device' : `device ${self.bdf}`}, and is destroyed when that is closed`,
          ]
        : []),
      ...states
        .filter(({ spaces }) => handle !== undefined && [...spaces.values()].includes(handle))
        .map((each) => `device ${each.bdf ?? each.id} is attached to it`),
      ...(handle === undefined ? [] : livingChildren(handle).map((kind) => `a ${kind} was made of it`)),
    ];
  }
}

/** The iommufd that a device is bound to, and its attachments. */
interface Binding {
  /** Its PCI address, where it is known. */
  readonly bdf: string | null;
  /** The iommufd that it is bound to, and its id there. */
  iommufd: IommufdFile | undefined;
  id: number | null;
  /** What it is attached to, by PASID. These handles are referred to here, so that none is collected while a device uses it. */
  readonly spaces: Map<number | undefined, Handle>;
}

/** The binding of a device. */
export let bindingOf: (device: IommufdDevice) => Binding;
/** Records that a device was bound to an iommufd, with this id. */
export let bound: (device: IommufdDevice, iommufd: IommufdFile, id: number) => void;

/** A device that can be bound to an iommufd. */
export abstract class IommufdDevice extends FileHandle<NativeDevice> {
  readonly #binding: Binding;

  static {
    bindingOf = (device) => device.#binding;
    bound = (device, iommufd, id) => {
      device.#binding.iommufd = iommufd;
      device.#binding.id = id;
      enter(iommufd, device);
    };
  }

  protected constructor(
    key: typeof OURS,
    kind: string,
    parent: Handle | undefined,
    file: NativeDevice,
    bdf: string | null,
    release: (self: never) => void,
  ) {
    super(key, kind, parent, file, [file], release);
    this.#binding = { bdf, iommufd: undefined, id: null, spaces: new Map() };
  }
}

/** Checks that a device is bound to this iommufd; returns it and its id there. */
export function ownDevice(iommufd: IommufdFile, device: unknown): { device: IommufdDevice; id: number } {
  if (!(device instanceof IommufdDevice) || !isHandle(device))
    throw refusal('a VfioDevice', 'device', device);
  fileOf(device); // throws if it is disposed
  const { id, iommufd: its } = bindingOf(device);
  if (id === null || its === undefined || differs(its, iommufd))
    throw refusal('a device that is bound to this iommufd', 'device', device);
  return { device, id };
}
