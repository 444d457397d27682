/** PCI devices as sysfs shows them: a live view, nothing is kept. Binding and unbinding of drivers. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NativeHost } from '../addon/native.ts';
import { flag, integer, known, refusal, text, UUID } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { heldOf } from '../handles/holds.ts';
import { withVfio } from './explain/causes.ts';
import { usersOf, wordsForBind, wordsForNumVfs, wordsForUnbind } from './explain/explain.ts';
import { nameOf } from './facts/nodes.ts';
import { usesOf } from './facts/uses.ts';
import { type Held, inTurn, memoryOf } from './turns.ts';

const DRIVERS = '/sys/bus/pci/drivers';

/** Where sysfs has a device, by its PCI address or UUID. */
export const devicePath = (name: string) => `/sys/bus/${UUID.test(name) ? 'mdev' : 'pci'}/devices/${name}`;

/** How long a driver may take to let go or to come up. */
const PATIENCE = 5000;
/** How long a read of an attribute may take, which is done at once unless a driver holds the device's lock. */
const BRIEFLY = 1000;

/** Drivers that have a device for user space, or for nobody, besides those of VFIO: no hardware is theirs by itself. */
const STAND_INS = new Set(['pci-stub', 'uio_pci_generic']);

/**
 * How drivers are changed. Changes of one device, of one group, and of a physical function and its virtual ones come in
 * turn, in the order in which they were asked for, by all hosts and worker threads of this process: one begins when those
 * before it are over, however they ended. Other processes are not waited for.
 */
export interface BindOptions {
  /**
   * Also of a device that is in use now. By the kernel: a mounted disk, a network interface that is up. By this program:
   * the handles that this thread has of it, or of its virtual functions, are disposed first, and so is that of its group,
   * unless it has another device of the group open; what another thread has, or no handle of this package, is EBUSY. By
   * another program: that is asked by the kernel to close it, and the change waits for that and can't be called off. After
   * 5 seconds it is ETIMEDOUT, and goes on, also when this process has ended. Default false: what is in use is EBUSY.
   */
  force?: boolean;
}

/** @internal What becomes of a device's driver. */
export type DriverChange = { driver: string } | 'unbind' | 'restore';

/** @internal The host of a device, for this package's own modules. */
export let hostOf: (device: PciDevice) => NativeHost;

/**
 * @internal Changes several devices, all or none: what was done is undone if one fails. What is in use is refused before
 * anything is touched.
 */
export let together: (devices: readonly PciDevice[], change: DriverChange, o?: BindOptions) => Promise<void>;

/**
 * A PCI device as sysfs shows it: a live view, read anew at each access. A device that has gone is a VfioError ENODEV
 * for its ids, null for the rest. So is a mediated device, which looks like a PCI device to who opens it only.
 */
export class PciDevice {
  /** The PCI address: '0000:00:10.0'. Of a mediated device, its UUID. */
  readonly bdf: string;
  readonly #host: NativeHost;
  readonly #path: string;

  static {
    hostOf = (device) => device.#host;
    together = PciDevice.#together;
  }

  constructor(key: typeof OURS, host: NativeHost, bdf: string) {
    ours(key, 'PciDevice');
    this.#host = host;
    this.bdf = bdf;
    this.#path = devicePath(bdf);
  }

  /**
   * Whether it is a mediated device (Linux 4.10): a share of another device, whose driver confines its DMA. It is with
   * VFIO for as long as it exists.
   */
  get mediated(): boolean {
    return this.#path.startsWith('/sys/bus/mdev/');
  }
  /** Vendor id, 16 bits. */
  get vendor(): number {
    return this.#hex('vendor');
  }
  /** Device id, 16 bits. */
  get device(): number {
    return this.#hex('device');
  }
  /** Subsystem vendor id, 16 bits. */
  get subsystemVendor(): number {
    return this.#hex('subsystem_vendor');
  }
  /** Subsystem id, 16 bits. */
  get subsystemDevice(): number {
    return this.#hex('subsystem_device');
  }
  /** 24 bits: class, subclass, programming interface. */
  get classCode(): number {
    return this.#hex('class');
  }
  /** Revision, 8 bits. */
  get revision(): number {
    return this.#hex('revision');
  }
  /** The driver that holds it. */
  get driver(): string | null {
    return basename(this.#host.readlink(`${this.#path}/driver`));
  }
  /**
   * The only driver that may take it, if one was set (driver_override, Linux 3.16).
   *
   * @throws {VfioError} ETIMEDOUT its driver is changing, and waits for who has the device open.
   */
  get driverOverride(): string | null {
    const value = this.#lockedText('driver_override');
    return value === null || value === '' || value === '(null)' ? null : value;
  }
  /** Its IOMMU group; null: no IOMMU translates it. */
  get group(): number | null {
    const name = basename(this.#host.readlink(`${this.#path}/iommu_group`));
    return name === null ? null : Number(name);
  }
  /** Its VFIO character device ('/dev/vfio/devices/vfio0'), while a VFIO driver holds it (Linux 6.6). */
  get vfioNode(): string | null {
    const name = this.#host.list(`${this.#path}/vfio-dev`)?.[0];
    if (name === undefined || this.#host.readText(`${this.#path}/vfio-dev/${name}/dev`) === null) return null;
    return `/dev/vfio/devices/${name}`;
  }
  /** The NUMA node that it is nearest to; null: unknown. */
  get numaNode(): number | null {
    const node = Number(this.#text('numa_node') ?? -1);
    return node < 0 ? null : node;
  }
  /** The IOMMU that translates it: 'dmar0'. */
  get iommu(): string | null {
    return basename(this.#host.readlink(`${this.#path}/iommu`));
  }
  /** How the kernel can reset it alone, best first: 'flr', 'pm', 'bus' ... (Linux 5.15); none: it can't. */
  get resetMethods(): string[] {
    return (this.#text('reset_method') ?? '').split(' ').filter(Boolean);
  }
  /**
   * What the kernel does with it that would end badly without it: 'disk nvme0n1 is mounted on /srv'. Disks that nothing
   * shows to be in use are opened for a moment, exclusively, where this process may.
   */
  get uses(): string[] {
    return usesOf(this.#host, this.bdf).map((each) => each.reason);
  }
  /**
   * Its virtual functions: how many it can have and has; null: it is no SR-IOV physical function (Linux 3.8).
   *
   * @throws {VfioError} ETIMEDOUT its driver is changing, and waits for who has the device open.
   */
  get sriov(): { totalVfs: number; numVfs: number } | null {
    const total = this.#text('sriov_totalvfs');
    return total === null
      ? null
      : { totalVfs: Number(total), numVfs: Number(this.#lockedText('sriov_numvfs') ?? 0) };
  }
  /** The addresses of its virtual functions, in their order; none: it has none now (Linux 2.6.30). */
  get virtualFunctions(): string[] {
    const links = (this.#host.list(`${this.#path}`) ?? []).filter((name) => /^virtfn\d+$/.test(name));
    const number = (name: string) => Number(name.slice('virtfn'.length));
    return links
      .sort((a, b) => number(a) - number(b))
      .flatMap((name) => basename(this.#host.readlink(`${this.#path}/${name}`)) ?? []);
  }
  /** The address of the physical function that this is a virtual one of; null: it is none (Linux 2.6.30). */
  get physicalFunction(): string | null {
    return basename(this.#host.readlink(`${this.#path}/physfn`));
  }

  /**
   * Makes virtual functions appear, as many as `count` says, or (0) takes all of them away (Linux 3.8). Those of a
   * device with vfio-pci come up on vfio-pci (Linux 5.7), and opening one takes the token of
   * {@link VfioDevice.setVfToken}. vfio-pci makes them only with its module parameter enable_sriov, which is for the
   * whole host: with `enableSriov` it is set first.
   *
   * `force`: they are taken away although one is open, as {@link BindOptions.force} says.
   *
   * @throws {VfioError} ENOENT no driver holds the device, or it can't have virtual functions now, or the device is no
   * physical function; ERANGE more than `sriov.totalVfs`; EBUSY it has another number of them (0 first), or one of them
   * is open; ETIMEDOUT as in {@link bind}; EACCES not root. `reason` says which.
   */
  async setNumVfs(count: number, o?: { enableSriov?: boolean; force?: boolean }): Promise<void> {
    integer(count, 'count', 0, 0xffff);
    const given = known(o, 'options', ['enableSriov', 'force']);
    const enableSriov = flag(given.enableSriov, 'enableSriov', false);
    const force = flag(given.force, 'force', false);
    await inTurn(this.#host, this.#keys(), (own) =>
      new PciDevice(OURS, own, this.bdf).#setNumVfs(count, enableSriov, force),
    );
  }

  async #setNumVfs(count: number, enableSriov: boolean, force: boolean): Promise<void> {
    const path = `${this.#path}/sriov_numvfs`;
    await this.#settled();
    if (count === 0) {
      const functions = functionsOf(this);
      if (!force && functions.some((each) => usersOf(each).length > 0))
        throw this.#failure(16, path, wordsForNumVfs);
      if (force) await letGo(this.#host, functions);
    }
    if (enableSriov) await this.#write('/sys/module/vfio_pci/parameters/enable_sriov', 'Y', wordsForNumVfs);
    await this.#write(path, `${count}`, wordsForNumVfs);
  }

  /**
   * Gives the device to `driver` (default 'vfio-pci') by driver_override; waits until it is there. On failure the
   * driver and override that it had are put back.
   *
   * @throws {VfioError} ENODEV no such driver, or it refused the device; EBUSY the kernel uses it, or something has it
   * open (`force` takes it anyway); ETIMEDOUT the change is not done within 5 seconds and still under way (something
   * holds the device open); EACCES, EPERM not root. ERR_VFIO_DISPOSED its host was disposed before its turn.
   */
  async bind(driver = 'vfio-pci', o?: BindOptions): Promise<void> {
    await together([this], { driver }, o);
  }

  /**
   * Takes the device from its driver. No driver: nothing.
   *
   * @throws {VfioError} EBUSY something has the device open, or the kernel uses it (`force` takes it anyway); ETIMEDOUT
   * as in {@link bind}; EACCES, EPERM not root.
   */
  async unbind(o?: BindOptions): Promise<void> {
    await together([this], 'unbind', o);
  }

  /**
   * Gives the device back to the driver that it had before {@link bind}; one that another process gave to a driver, or
   * took from one, to the driver that the kernel picks: `driver` says whether one took it. A device that a
   * driver of the host has, and that was never bound here, is left alone. On failure it stays with the driver that it has.
   *
   * @throws {VfioError} as {@link bind}.
   */
  async restore(o?: BindOptions): Promise<void> {
    await together([this], 'restore', o);
  }

  static async #together(
    devices: readonly PciDevice[],
    change: DriverChange,
    o?: BindOptions,
  ): Promise<void> {
    const force = flag(known(o, 'options', ['force']).force, 'force', false);
    if (typeof change === 'object') driverName(change.driver);
    if (devices.length === 0) return;
    const [first] = devices as [PciDevice];
    const keys = devices.flatMap((device) => device.#keys());
    await inTurn(first.#host, keys, (own) =>
      PciDevice.#inTurn(
        devices.map(({ bdf }) => new PciDevice(OURS, own, bdf)),
        change,
        force,
      ),
    );
  }

  static async #inTurn(devices: readonly PciDevice[], change: DriverChange, force: boolean): Promise<void> {
    for (const device of devices) await device.#settled();
    const concerned = devices.filter((device) => device.#concerns(change));
    for (const device of concerned) {
      if (typeof change === 'object') device.#mustExist(change.driver);
      device.#refuseUsed(force);
    }
    if (force) {
      const taken = concerned.flatMap((device) => device.#withItsOwn()).filter(withVfio);
      if (taken[0] !== undefined) await letGo(taken[0].#host, taken);
    }
    const begun: { device: PciDevice; had: Held; first: Held | undefined }[] = [];
    let at = 0;
    try {
      for (; at < concerned.length; at++) {
        const device = concerned[at] as PciDevice;
        const had = await device.#held();
        begun.push({ device, had, first: device.#first() });
        await device.#change(change, had);
      }
    } catch (error) {
      const left: string[] = [];
      // What is under way can't be called off, and whatever else is asked of the device waits for it.
      if (isPending(error)) {
        const names = (part: PciDevice[]) => part.map(({ bdf }) => bdf).join(', ');
        if (at > 0) left.push(`changed already: ${names(concerned.slice(0, at))}`);
        if (at + 1 < concerned.length) left.push(`not changed: ${names(concerned.slice(at + 1))}`);
      } else {
        for (const { device, had, first } of begun.reverse())
          await device
            .#become(had, first)
            .catch((second: unknown) => left.push(`not put back: ${device.bdf}: ${String(second)}`));
        if (left.length === 0 && concerned.length > 1) left.push('every device is as it was');
      }
      throw withWords(error, (failed) => ({
        reason: [failed.reason ?? failed.code, ...left].join('; '),
      }));
    }
  }

  /** What its changes take turns by. */
  #keys(): string[] {
    const { group, physicalFunction } = this;
    return [
      this.bdf,
      ...(group === null ? [] : [`group ${group}`]),
      ...(physicalFunction === null ? [] : [physicalFunction]),
    ];
  }

  /** It, and what goes with its driver: its virtual functions and its mediated devices. */
  #withItsOwn(): PciDevice[] {
    return [this, ...functionsOf(this), ...mediatedOf(this)];
  }

  /** A change of this process's that was given up waiting for is waited for once more. */
  async #settled(): Promise<void> {
    const late = memoryOf(this.#host).late.get(this.bdf);
    if (late !== undefined && (await inTime(late)) === 'late')
      throw this.#failure(110, `${this.#path}/driver`, wordsForBind);
  }

  /** What it had before this process first changed it. */
  #first(): Held | undefined {
    const first = memoryOf(this.#host).before.get(this.bdf);
    return first?.life === this.#host.life(this.bdf) ? first : undefined;
  }

  /** Whether there is anything to change. */
  #concerns(change: DriverChange): boolean {
    if (change === 'unbind') return true;
    const { driver } = this;
    if (change !== 'restore') return driver !== change.driver;
    if (this.#first() !== undefined || driver === null || STAND_INS.has(driver) || withVfio(this))
      return true;
    const { driverOverride } = this;
    return driverOverride !== null && driverOverride !== driver;
  }

  async #change(change: DriverChange, had: Held): Promise<void> {
    if (change === 'unbind') {
      this.#remember(had);
      await this.#unbind(had.driver);
    } else if (change === 'restore') {
      const first = this.#first();
      await this.#unbind(had.driver);
      await this.#setOverride(first?.override ?? null);
      if (first === undefined) await this.#write('/sys/bus/pci/drivers_probe', this.bdf);
      else if (first.driver !== null) await this.#write(`${DRIVERS}/${first.driver}/bind`, this.bdf);
      memoryOf(this.#host).before.delete(this.bdf);
    } else {
      this.#remember(had);
      await this.#unbind(had.driver);
      await this.#setOverride(change.driver);
      await this.#probe(change.driver);
    }
  }

  async #held(): Promise<Held> {
    const { driver } = this;
    // vfio-pci that still waits for a program shows no driver any more, and a read of driver_override would wait with
    // it. Asked to let go, it waits too; of a device that it does not have it refuses that at once.
    if (driver === null)
      await this.#write(`${DRIVERS}/vfio-pci/unbind`, this.bdf).catch((error: unknown) => {
        if (isPending(error)) throw error;
      });
    return { driver, override: this.driverOverride };
  }

  #mustExist(driver: string): void {
    if (this.#host.list(`${DRIVERS}/${driver}`) === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: `${DRIVERS}/${driver}`,
        reason: `this kernel has no PCI driver ${driver}`,
        hint: `Load it: "modprobe ${driver}"`,
      });
  }

  #refuseUsed(force: boolean): void {
    if (this.mediated)
      throw new VfioError(22, {
        syscall: 'write',
        path: this.#path,
        reason: `${this.bdf} is a mediated device, which is with VFIO for as long as it exists`,
      });
    if (force) return;
    const refuse = (reason: string, hint: string) =>
      new VfioError(16, { syscall: 'write', path: `${this.#path}/driver/unbind`, reason, hint });
    // Its virtual functions go with its driver, and so do its mediated devices.
    for (const each of this.#withItsOwn()) {
      const what = each.mediated ? 'mediated device' : 'virtual function';
      const name = each === this ? each.bdf : `${each.bdf}, a ${what} of ${this.bdf}`;
      const [use] = usesOf(this.#host, each.bdf);
      if (use) throw refuse(`the kernel uses ${name}: ${use.reason}`, `Run: ${use.command}`);
      // Nobody but VFIO gives a device to programs.
      if (!withVfio(each)) continue;
      const users = usersOf(each);
      const held = heldOf(this.#host, [each]).map((one) => one.name);
      if (users.length === 0 && held.length > 0) users.push(nameOf(process.pid));
      if (users.length > 0)
        throw refuse(
          `${users.join(' and ')} has the device open or its group: ${name}`,
          held.length === 0
            ? 'Close it first'
            : `Dispose it first (${held.join(', ')}), or have that done: { force: true }`,
        );
    }
  }

  /** Back to a driver and override that it had; `first` is what was remembered then. */
  async #become(had: Held, first: Held | undefined): Promise<void> {
    if (this.driver !== had.driver) await this.#unbind(this.driver);
    if (this.driverOverride !== had.override) await this.#setOverride(had.override);
    if (this.driver !== had.driver) await this.#write(`${DRIVERS}/${had.driver}/bind`, this.bdf);
    const { before } = memoryOf(this.#host);
    if (first === undefined) before.delete(this.bdf);
    else before.set(this.bdf, { ...first, life: this.#host.life(this.bdf) });
  }

  /** Keeps what the device had before this process first changed it. */
  #remember(had: Held): void {
    if (this.#first() === undefined)
      memoryOf(this.#host).before.set(this.bdf, { ...had, life: this.#host.life(this.bdf) });
  }

  async #setOverride(override: string | null): Promise<void> {
    await this.#write(`${this.#path}/driver_override`, override ?? '');
  }

  async #unbind(driver: string | null): Promise<void> {
    if (driver !== null) await this.#write(`${DRIVERS}/${driver}/unbind`, this.bdf, wordsForUnbind(this));
  }

  async #probe(driver: string): Promise<void> {
    // Probing tells nothing when a driver refuses, and EINVAL when the driver must wait; binding by name says why.
    const probed = await this.#write('/sys/bus/pci/drivers_probe', this.bdf).catch((error: unknown) => error);
    if (probed !== undefined && !(probed instanceof VfioError && probed.code === 'EINVAL')) throw probed;
    if (this.driver === driver) return;
    await this.#write(`${DRIVERS}/${driver}/bind`, this.bdf);
  }

  /** A sysfs write that may wait for others: off the event loop, and not for ever. */
  async #write(path: string, value: string, words = wordsForBind): Promise<void> {
    const written = new Promise<number>((over) => {
      const write = this.#host.write(path, `${value}\n`, (result) => {
        write.dispose();
        over(result);
      });
    });
    const result = await inTime(written);
    if (result === 'late') {
      const { late } = memoryOf(this.#host);
      const { bdf } = this;
      late.set(bdf, written);
      void written.then(() => late.get(bdf) === written && late.delete(bdf));
      throw this.#failure(110, path, words);
    }
    if (result < 0) throw this.#failure(-result, path, words);
  }

  #failure(errno: number, path: string, words: typeof wordsForBind): VfioError {
    const bare = new VfioError(errno, { syscall: 'write', path });
    return new VfioError(errno, { syscall: 'write', path, ...words(bare, this) });
  }

  #text(attribute: string): string | null {
    return this.#host.readText(`${this.#path}/${attribute}`)?.trim() ?? null;
  }

  /**
   * An attribute that the kernel reads under the device's lock: while a driver lets go of the device, or takes virtual
   * functions away, that waits, and a thread that waits there keeps its process from ending.
   */
  #lockedText(attribute: string): string | null {
    const path = `${this.#path}/${attribute}`;
    try {
      return this.#host.readTextWithin(path, BRIEFLY)?.trim() ?? null;
    } catch (error) {
      throw withWords(error, (failed) =>
        failed.code === 'ETIMEDOUT' ? wordsForBind(failed, this) : undefined,
      );
    }
  }

  #hex(attribute: string): number {
    // Its driver may have files of such names.
    const value = this.mediated ? null : this.#text(attribute);
    if (value === null)
      throw new VfioError(19, {
        syscall: 'open',
        path: this.#path,
        reason:
          this.mediated && this.group !== null
            ? `${this.bdf} is a mediated device: its ids are in its config space`
            : `there is no device ${this.bdf} any more`,
      });
    return Number(value);
  }
}

/** What comes of it, or 'late'. */
async function inTime<T>(awaited: Promise<T>): Promise<T | 'late'> {
  const over = new AbortController();
  return Promise.race([awaited, sleep(PATIENCE, 'late' as const, { signal: over.signal })]).finally(() =>
    over.abort(),
  );
}

/**
 * Disposes what this thread holds of devices, and waits for calls on them that are under way. What this process has open
 * besides can't be closed from here, and the kernel would wait for it.
 */
async function letGo(host: NativeHost, devices: readonly PciDevice[]): Promise<void> {
  const held = heldOf(host, devices);
  for (const { handle } of held) handle[Symbol.dispose]();
  const open = () =>
    devices.flatMap(({ bdf, vfioNode }) =>
      vfioNode === null ? [] : host.descriptors(vfioNode).map((fd) => ({ bdf, vfioNode, fd })),
    );
  for (const end = Date.now() + PATIENCE; held.length > 0 && open().length > 0 && Date.now() < end; )
    await sleep(5);
  const [left] = open();
  if (left !== undefined)
    throw new VfioError(16, {
      syscall: 'write',
      path: left.vfioNode,
      reason: `${nameOf(process.pid)} has ${left.bdf} open by descriptor ${left.fd}, which is not one of this thread's handles, or a call on it is under way`,
      hint: 'Close it first: the kernel would wait for it',
    });
}

/** Is a change under way still? */
const isPending = (error: unknown) => error instanceof VfioError && error.code === 'ETIMEDOUT';

/** The virtual functions of a device. */
const functionsOf = (device: PciDevice) =>
  device.virtualFunctions.map((bdf) => new PciDevice(OURS, hostOf(device), bdf));

/** The mediated devices that its driver makes of a device. */
const mediatedOf = (device: PciDevice) =>
  (hostOf(device).list(devicePath(device.bdf)) ?? [])
    .filter((name) => UUID.test(name))
    .map((uuid) => new PciDevice(OURS, hostOf(device), uuid));

/** A name is part of a path: it must not lead elsewhere. */
function driverName(driver: string): void {
  if (!/^[^/\s\0]{1,255}$/.test(text(driver, 'driver')) || driver === '.' || driver === '..')
    throw refusal("the name of a driver such as 'vfio-pci'", 'driver', driver);
}

export function basename(path: string | null): string | null {
  return path === null ? null : path.slice(path.lastIndexOf('/') + 1);
}
