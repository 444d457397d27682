/**
 * An open /dev/iommu: the home of I/O address spaces and of the devices bound to it.
 *
 * Life: made by Host.openIommufd or fromFd. Disposing it disposes its address spaces; devices that are still bound
 * keep the kernel's side of it until they are closed.
 */
import { integer, oneOf } from './check.ts';
import { Handle, keepFile } from './handle.ts';
import { Ioas } from './ioas.ts';
import { type NativeFile, native } from './native.ts';

/** An open /dev/iommu (Linux 6.2). */
export class Iommufd extends Handle {
  readonly #file: NativeFile;
  readonly #adopted: boolean;
  readonly #spaces = new Map<number, WeakRef<Ioas>>();

  /** @internal */
  constructor(parent: Handle | undefined, file: NativeFile) {
    super('Iommufd', parent, [file]);
    this.#file = file;
    keepFile(this, 'Iommufd', file);
    this.#adopted = parent === undefined;
  }

  /**
   * An iommufd from a descriptor: another process's, another thread's. The descriptor is duplicated; the caller's
   * stays open.
   *
   * @throws {VfioError} EBADF no such descriptor.
   */
  static fromFd(fd: number): Iommufd {
    return new Iommufd(undefined, native.adopt(fd));
  }

  /** The file descriptor. Belongs to this object: don't close it. */
  get fd(): number {
    this.alive();
    return this.#file.fd;
  }

  /** @internal Surely another than `other`? One from a descriptor may be the same, and nobody can tell. */
  differs(other: Iommufd): boolean {
    return other !== this && !this.#adopted && !other.#adopted;
  }

  /** Makes an I/O address space (IOMMU_IOAS_ALLOC, Linux 6.2). */
  allocIoas(): Ioas {
    this.alive();
    const id = this.#file.ioasAlloc();
    const space = new Ioas(this, this.#file, id);
    this.#spaces.set(id, new WeakRef(space));
    return space;
  }

  /**
   * Who is charged for pinned memory (IOMMU_OPTION_RLIMIT_MODE, Linux 6.2): the user, over all processes (default), or
   * this process (visible as VmLck). Set it before the first object is made.
   *
   * @throws {VfioError} EPERM without CAP_SYS_RESOURCE; EBUSY an object exists.
   */
  get rlimitMode(): 'user' | 'process' {
    this.alive();
    return this.#file.getOption('RLIMIT_MODE', 0) === 0n ? 'user' : 'process';
  }

  set rlimitMode(mode: 'user' | 'process') {
    this.alive();
    this.#file.setOption('RLIMIT_MODE', 0, oneOf(mode, 'rlimitMode', ['user', 'process']) === 'user' ? 0 : 1);
  }

  /**
   * Destroys any object by its id (IOMMU_DESTROY, Linux 6.2). Objects of this package do it when they are disposed; the
   * handle of one that is destroyed this way is disposed with it.
   *
   * @throws {VfioError} ENOENT no such object; EBUSY something uses it.
   */
  destroy(id: number): void {
    this.alive();
    this.#file.destroy(integer(id, 'id', 0, 0xffffffff));
    // Its id will be another's: the handle is over too.
    this.#spaces.get(id)?.deref()?.[Symbol.dispose]();
    this.#spaces.delete(id);
  }

  protected release(): void {
    this.#file.dispose();
  }
}
