/**
 * Changes the drivers of devices, and the number of their virtual functions. Changes of one device run one after the other,
 * and each is done whole or not at all.
 *
 * Life: a ChangingDevice lives for one change. It has its own reference to the host, so that the change is done whole even if
 * the caller's host is disposed meanwhile.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NativeHost } from '../addon/native.ts';
import { flag, known, refusal, text, UUID } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import { OURS } from '../base/private.ts';
import { heldOf } from '../handles/holds.ts';
import { wordsForBind, wordsForNumVfs, wordsForUnbind } from './explain/host-words.ts';
import { nameOf } from './facts/nodes.ts';
import { devicePath, hostOf, PciFacts, usersOf, usesVfioDriver } from './facts/pci-facts.ts';
import { usesOf } from './facts/uses.ts';
import { type DriverState, inTurn, memoryOf } from './turns.ts';

const DRIVERS = '/sys/bus/pci/drivers';

/** How long a driver may take to release a device or to probe it, in milliseconds. */
const CHANGE_TIMEOUT = 5000;
/**
 * Placeholder drivers, besides those of VFIO: they claim a device only for user space, or so that no other driver claims it.
 * The kernel never chooses them by itself.
 */
const PLACEHOLDERS = new Set(['pci-stub', 'uio_pci_generic']);

/**
 * How drivers are changed. Changes of one device, of one group, and of a physical function and its virtual ones run one after
 * the other, in the order of the calls, for all hosts and worker threads of this process: a change begins when the earlier ones
 * have ended, also if they failed. It does not wait for changes by other processes.
 */
export interface BindOptions {
  /**
   * Change the driver also of a device that is in use now:
   * - by the kernel: a mounted disk, a network interface that is up;
   * - by this program: the handles that this thread has of the device or its virtual functions are disposed first, and so is
   *   the handle of its group, unless another device of the group was opened by it. If another thread has the device open, or
   *   a descriptor that no handle of this package owns, the call fails with EBUSY;
   * - by another program: the kernel asks that to close the device, and the change waits for it and can't be cancelled. After
   *   5 seconds the call fails with ETIMEDOUT, but the change goes on, also after this process has ended.
   *
   * Default false: the call fails with EBUSY if the device is in use.
   */
  force?: boolean;
}

/** @internal A change of a device's driver. */
export type DriverChange = { driver: string } | 'unbind' | 'restore';

/**
 * @internal Changes several devices, all or none: if one fails, the changes of the others are undone. A device that is in use
 * is refused before any device is changed.
 */
export async function changeTogether(
  devices: readonly PciFacts[],
  change: DriverChange,
  o?: BindOptions,
): Promise<void> {
  const force = flag(known(o, 'options', ['force']).force, 'force', false);
  if (typeof change === 'object') driverName(change.driver);
  if (devices.length === 0) return;
  await inTurn(hostOf(devices[0] as PciFacts), devices.flatMap(keysOf), (own) =>
    changeAll(
      devices.map(({ bdf }) => new ChangingDevice(OURS, own, bdf)),
      change,
      force,
    ),
  );
}

/** @internal Makes virtual functions of a device, or removes all of them (0). */
export async function changeNumVfs(
  device: PciFacts,
  count: number,
  enableSriov: boolean,
  force: boolean,
): Promise<void> {
  await inTurn(hostOf(device), keysOf(device), (own) =>
    numVfsOf(new ChangingDevice(OURS, own, device.bdf), count, enableSriov, force),
  );
}

let changeAll: (devices: readonly ChangingDevice[], change: DriverChange, force: boolean) => Promise<void>;
let numVfsOf: (device: ChangingDevice, count: number, enableSriov: boolean, force: boolean) => Promise<void>;

/** A device that is being changed. */
class ChangingDevice extends PciFacts {
  readonly #path = devicePath(this.bdf);

  // Written out: the default constructor passes its arguments on by an iterator, which a program may have replaced.
  constructor(key: typeof OURS, host: NativeHost, bdf: string) {
    super(key, host, bdf);
  }

  static {
    changeAll = ChangingDevice.#changeAll;
    numVfsOf = (device, count, enableSriov, force) => device.#changeNumVfs(count, enableSriov, force);
  }

  async #changeNumVfs(count: number, enableSriov: boolean, force: boolean): Promise<void> {
    const path = `${this.#path}/sriov_numvfs`;
    await this.#settled();
    if (count === 0) {
      const functions = functionsOf(this);
      if (!force && functions.some((each) => usersOf(each).length > 0))
        throw this.#failure(16, path, wordsForNumVfs);
      if (force) await disposeHandles(hostOf(this), functions);
    }
    if (enableSriov) await this.#write('/sys/module/vfio_pci/parameters/enable_sriov', 'Y', wordsForNumVfs);
    await this.#write(path, `${count}`, wordsForNumVfs);
  }

  static async #changeAll(
    devices: readonly ChangingDevice[],
    change: DriverChange,
    force: boolean,
  ): Promise<void> {
    for (const device of devices) await device.#settled();
    const concerned = devices.filter((device) => device.#concerns(change));
    for (const device of concerned) {
      if (typeof change === 'object') device.#mustExist(change.driver);
      device.#refuseUsed(force);
    }
    if (force) {
      const taken = concerned.flatMap((device) => device.#withItsOwn()).filter(usesVfioDriver);
      if (taken[0] !== undefined) await disposeHandles(hostOf(taken[0]), taken);
    }
    const begun: { device: ChangingDevice; had: DriverState; first: DriverState | undefined }[] = [];
    let at = 0;
    try {
      for (; at < concerned.length; at++) {
        const device = concerned[at] as ChangingDevice;
        const had = await device.#driverState();
        begun.push({ device, had, first: device.#first() });
        await device.#change(change, had);
      }
    } catch (error) {
      const left: string[] = [];
      // A change that is under way can't be cancelled, and every other change of the device waits for it.
      if (isPending(error)) {
        const names = (part: ChangingDevice[]) => part.map(({ bdf }) => bdf).join(', ');
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

  /** This device, and the devices that vanish when its driver is unbound: its virtual functions and mediated devices. */
  #withItsOwn(): ChangingDevice[] {
    return [this, ...functionsOf(this), ...mediatedOf(this)];
  }

  /** If an earlier change by this process timed out and is still under way, waits for it once more. */
  async #settled(): Promise<void> {
    const late = memoryOf(hostOf(this)).late.get(this.bdf);
    if (late !== undefined && (await inTime(late)) === 'late')
      throw this.#failure(110, `${this.#path}/driver`, wordsForBind);
  }

  /** The driver and override that it had before this process first changed it. */
  #first(): DriverState | undefined {
    const first = memoryOf(hostOf(this)).before.get(this.bdf);
    return first?.life === hostOf(this).life(this.bdf) ? first : undefined;
  }

  /** Whether the change would change anything. */
  #concerns(change: DriverChange): boolean {
    if (change === 'unbind') return true;
    const { driver } = this;
    if (change !== 'restore') return driver !== change.driver;
    if (this.#first() !== undefined || driver === null || PLACEHOLDERS.has(driver) || usesVfioDriver(this))
      return true;
    const { driverOverride } = this;
    return driverOverride !== null && driverOverride !== driver;
  }

  async #change(change: DriverChange, had: DriverState): Promise<void> {
    if (change === 'unbind') {
      this.#remember(had);
      await this.#unbind(had.driver);
    } else if (change === 'restore') {
      const first = this.#first();
      await this.#unbind(had.driver);
      await this.#setOverride(first?.override ?? null);
      if (first === undefined) await this.#write('/sys/bus/pci/drivers_probe', this.bdf);
      else if (first.driver !== null) await this.#write(`${DRIVERS}/${first.driver}/bind`, this.bdf);
      memoryOf(hostOf(this)).before.delete(this.bdf);
    } else {
      this.#remember(had);
      await this.#unbind(had.driver);
      await this.#setOverride(change.driver);
      await this.#probe(change.driver);
    }
  }

  async #driverState(): Promise<DriverState> {
    const { driver } = this;
    // While vfio-pci's unbind waits for a program, sysfs shows no driver any more, and a read of driver_override would wait
    // too. A second unbind waits as well, but times out; for a device that vfio-pci does not drive it is refused at once.
    if (driver === null)
      await this.#write(`${DRIVERS}/vfio-pci/unbind`, this.bdf).catch((error: unknown) => {
        if (isPending(error)) throw error;
      });
    return { driver, override: this.driverOverride };
  }

  #mustExist(driver: string): void {
    if (hostOf(this).list(`${DRIVERS}/${driver}`) === null)
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
        reason: `${this.bdf} is a mediated device, which is bound to a VFIO driver for as long as it exists`,
      });
    if (force) return;
    const refuse = (reason: string, hint: string) =>
      new VfioError(16, { syscall: 'write', path: `${this.#path}/driver/unbind`, reason, hint });
    // Its virtual functions and mediated devices vanish when its driver is unbound.
    for (const each of this.#withItsOwn()) {
      const what = each.mediated ? 'mediated device' : 'virtual function';
      const name = each === this ? each.bdf : `${each.bdf}, a ${what} of ${this.bdf}`;
      const [use] = usesOf(hostOf(this), each.bdf);
      if (use) throw refuse(`the kernel uses ${name}: ${use.reason}`, `Run: ${use.command}`);
      // Programs can have a device open only if it is bound to a VFIO driver.
      if (!usesVfioDriver(each)) continue;
      const users = usersOf(each);
      const held = heldOf(hostOf(this), [each]).map((one) => one.name);
      if (users.length === 0 && held.length > 0) users.push(nameOf(process.pid));
      if (users.length > 0)
        throw refuse(
          `${users.join(' and ')} has the device or its group open: ${name}`,
          held.length === 0
            ? 'Close it first'
            : `Dispose it first (${held.join(', ')}), or let this call do so: { force: true }`,
        );
    }
  }

  /** Puts back the driver and override that it had before the change; `first` is what was remembered then. */
  async #become(had: DriverState, first: DriverState | undefined): Promise<void> {
    if (this.driver !== had.driver) await this.#unbind(this.driver);
    if (this.driverOverride !== had.override) await this.#setOverride(had.override);
    if (this.driver !== had.driver) await this.#write(`${DRIVERS}/${had.driver}/bind`, this.bdf);
    const { before } = memoryOf(hostOf(this));
    if (first === undefined) before.delete(this.bdf);
    else before.set(this.bdf, { ...first, life: hostOf(this).life(this.bdf) });
  }

  /** Remembers the driver and override that the device had before this process first changed it. */
  #remember(had: DriverState): void {
    if (this.#first() === undefined)
      memoryOf(hostOf(this)).before.set(this.bdf, { ...had, life: hostOf(this).life(this.bdf) });
  }

  async #setOverride(override: string | null): Promise<void> {
    await this.#write(`${this.#path}/driver_override`, override ?? '');
  }

  async #unbind(driver: string | null): Promise<void> {
    if (driver !== null) await this.#write(`${DRIVERS}/${driver}/unbind`, this.bdf, wordsForUnbind(this));
  }

  async #probe(driver: string): Promise<void> {
    // drivers_probe reports no error when a driver refuses the device, and EINVAL when the driver must wait for another device.
    // A bind by the driver's name returns the reason.
    const probed = await this.#write('/sys/bus/pci/drivers_probe', this.bdf).catch((error: unknown) => error);
    if (probed !== undefined && !(probed instanceof VfioError && probed.code === 'EINVAL')) throw probed;
    if (this.driver === driver) return;
    await this.#write(`${DRIVERS}/${driver}/bind`, this.bdf);
  }

  /** Writes to sysfs, which may wait for other programs: off the event loop, and with a timeout. */
  async #write(path: string, value: string, words = wordsForBind): Promise<void> {
    const written = new Promise<number>((over) => {
      const write = hostOf(this).write(path, `${value}\n`, (result) => {
        write.dispose();
        over(result);
      });
    });
    const result = await inTime(written);
    if (result === 'late') {
      const { late } = memoryOf(hostOf(this));
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
}

/** The keys of a device: changes that share a key run one after the other. */
function keysOf({ bdf, group, physicalFunction }: PciFacts): string[] {
  return [
    bdf,
    ...(group === null ? [] : [`group ${group}`]),
    ...(physicalFunction === null ? [] : [physicalFunction]),
  ];
}

/** The result of a promise, or 'late' if it takes too long. */
async function inTime<T>(awaited: Promise<T>): Promise<T | 'late'> {
  const over = new AbortController();
  return Promise.race([awaited, sleep(CHANGE_TIMEOUT, 'late' as const, { signal: over.signal })]).finally(
    () => over.abort(),
  );
}

/**
 * Disposes the handles that keep devices open in this thread, and waits for calls on them that are under way. Throws if this
 * process still has one open by another descriptor: that can't be closed from here, and the kernel would wait for it.
 */
async function disposeHandles(host: NativeHost, devices: readonly PciFacts[]): Promise<void> {
  const held = heldOf(host, devices);
  for (const { handle } of held) handle[Symbol.dispose]();
  const open = () =>
    devices.flatMap(({ bdf, vfioNode }) =>
      vfioNode === null ? [] : host.descriptors(vfioNode).map((fd) => ({ bdf, vfioNode, fd })),
    );
  for (const end = Date.now() + CHANGE_TIMEOUT; held.length > 0 && open().length > 0 && Date.now() < end; )
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

/** Whether an error says that a change is still under way. */
const isPending = (error: unknown) => error instanceof VfioError && error.code === 'ETIMEDOUT';

/** The virtual functions of a device. */
const functionsOf = (device: PciFacts) =>
  device.virtualFunctions.map((bdf) => new ChangingDevice(OURS, hostOf(device), bdf));

/** The mediated devices that a device's driver has made of it. */
const mediatedOf = (device: PciFacts) =>
  (hostOf(device).list(devicePath(device.bdf)) ?? [])
    .filter((name) => UUID.test(name))
    .map((uuid) => new ChangingDevice(OURS, hostOf(device), uuid));

/** Checks the name of a driver: it becomes part of a path, and must not lead to another folder. */
function driverName(driver: string): void {
  if (!/^[^/\s\0]{1,255}$/.test(text(driver, 'driver')) || driver === '.' || driver === '..')
    throw refusal("the name of a driver such as 'vfio-pci'", 'driver', driver);
}
