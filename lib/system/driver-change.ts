/**
 * Changing the drivers of devices, and the number of their virtual functions: each change in its turn, whole or not at all.
 *
 * Life: a ChangingDevice lives for one change, on a host of its own, so that the change is done whole even if the caller's
 * host is disposed meanwhile.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NativeHost } from '../addon/native.ts';
import { flag, known, refusal, text, UUID } from '../base/check.ts';
import { VfioError, withWords } from '../base/errors.ts';
import { OURS } from '../base/private.ts';
import { heldOf } from '../handles/holds.ts';
import { wordsForBind, wordsForNumVfs, wordsForUnbind } from './explain/host-words.ts';
import { nameOf } from './facts/nodes.ts';
import { devicePath, hostOf, PciFacts, usersOf, withVfio } from './facts/pci-facts.ts';
import { usesOf } from './facts/uses.ts';
import { type Held, inTurn, memoryOf } from './turns.ts';

const DRIVERS = '/sys/bus/pci/drivers';

/** How long a driver may take to let go or to come up. */
const PATIENCE = 5000;
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

/**
 * @internal Changes several devices, all or none: what was done is undone if one fails. What is in use is refused before
 * anything is touched.
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

/** @internal Makes virtual functions of a device appear, or takes them all away (0). */
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

/** A device whose change has its turn. */
class ChangingDevice extends PciFacts {
  readonly #path = devicePath(this.bdf);

  // Written out: a constructor that the engine adds passes its arguments on by an iterator, which anybody may replace.
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
      if (force) await letGo(hostOf(this), functions);
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
      const taken = concerned.flatMap((device) => device.#withItsOwn()).filter(withVfio);
      if (taken[0] !== undefined) await letGo(hostOf(taken[0]), taken);
    }
    const begun: { device: ChangingDevice; had: Held; first: Held | undefined }[] = [];
    let at = 0;
    try {
      for (; at < concerned.length; at++) {
        const device = concerned[at] as ChangingDevice;
        const had = await device.#held();
        begun.push({ device, had, first: device.#first() });
        await device.#change(change, had);
      }
    } catch (error) {
      const left: string[] = [];
      // What is under way can't be called off, and whatever else is asked of the device waits for it.
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

  /** It, and what goes with its driver: its virtual functions and its mediated devices. */
  #withItsOwn(): ChangingDevice[] {
    return [this, ...functionsOf(this), ...mediatedOf(this)];
  }

  /** A change of this process's that was given up waiting for is waited for once more. */
  async #settled(): Promise<void> {
    const late = memoryOf(hostOf(this)).late.get(this.bdf);
    if (late !== undefined && (await inTime(late)) === 'late')
      throw this.#failure(110, `${this.#path}/driver`, wordsForBind);
  }

  /** What it had before this process first changed it. */
  #first(): Held | undefined {
    const first = memoryOf(hostOf(this)).before.get(this.bdf);
    return first?.life === hostOf(this).life(this.bdf) ? first : undefined;
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
      memoryOf(hostOf(this)).before.delete(this.bdf);
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
        reason: `${this.bdf} is a mediated device, which is with VFIO for as long as it exists`,
      });
    if (force) return;
    const refuse = (reason: string, hint: string) =>
      new VfioError(16, { syscall: 'write', path: `${this.#path}/driver/unbind`, reason, hint });
    // Its virtual functions go with its driver, and so do its mediated devices.
    for (const each of this.#withItsOwn()) {
      const what = each.mediated ? 'mediated device' : 'virtual function';
      const name = each === this ? each.bdf : `${each.bdf}, a ${what} of ${this.bdf}`;
      const [use] = usesOf(hostOf(this), each.bdf);
      if (use) throw refuse(`the kernel uses ${name}: ${use.reason}`, `Run: ${use.command}`);
      // Nobody but VFIO gives a device to programs.
      if (!withVfio(each)) continue;
      const users = usersOf(each);
      const held = heldOf(hostOf(this), [each]).map((one) => one.name);
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
    const { before } = memoryOf(hostOf(this));
    if (first === undefined) before.delete(this.bdf);
    else before.set(this.bdf, { ...first, life: hostOf(this).life(this.bdf) });
  }

  /** Keeps what the device had before this process first changed it. */
  #remember(had: Held): void {
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
    // Probing tells nothing when a driver refuses, and EINVAL when the driver must wait; binding by name says why.
    const probed = await this.#write('/sys/bus/pci/drivers_probe', this.bdf).catch((error: unknown) => error);
    if (probed !== undefined && !(probed instanceof VfioError && probed.code === 'EINVAL')) throw probed;
    if (this.driver === driver) return;
    await this.#write(`${DRIVERS}/${driver}/bind`, this.bdf);
  }

  /** A sysfs write that may wait for others: off the event loop, and not for ever. */
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

/** What the changes of a device take turns by. */
function keysOf({ bdf, group, physicalFunction }: PciFacts): string[] {
  return [
    bdf,
    ...(group === null ? [] : [`group ${group}`]),
    ...(physicalFunction === null ? [] : [physicalFunction]),
  ];
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
async function letGo(host: NativeHost, devices: readonly PciFacts[]): Promise<void> {
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
const functionsOf = (device: PciFacts) =>
  device.virtualFunctions.map((bdf) => new ChangingDevice(OURS, hostOf(device), bdf));

/** The mediated devices that its driver makes of a device. */
const mediatedOf = (device: PciFacts) =>
  (hostOf(device).list(devicePath(device.bdf)) ?? [])
    .filter((name) => UUID.test(name))
    .map((uuid) => new ChangingDevice(OURS, hostOf(device), uuid));

/** A name is part of a path: it must not lead elsewhere. */
function driverName(driver: string): void {
  if (!/^[^/\s\0]{1,255}$/.test(text(driver, 'driver')) || driver === '.' || driver === '..')
    throw refusal("the name of a driver such as 'vfio-pci'", 'driver', driver);
}
