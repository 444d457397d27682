/**
 * Shared virtual addressing (SVA): a device reads and writes a process's memory by the process's own addresses, with no map
 * call (requirements C1 to C9; docs/sva.md).
 *
 * Of the two forms that the kernel's interface has had, binds are counted as in the merged one: a second bind of one process and
 * one device is a bond of its own, with the same PASID. `exclusive` asks for the first form: EEXIST.
 */
import { constants } from 'node:os';
import { array, flag, integer, known, oneOf, refusal } from '../base/check.ts';
import { errnoOf, explained, VfioError } from '../base/errors.ts';
import { OURS, ours } from '../base/private.ts';
import { alive, childrenOf, fileOf, type Handle, instance } from '../handles/handle.ts';
import { VfioDevice } from '../vfio/device.ts';
import { SvaBond, tellBond } from './bond.ts';
import { fault } from './fault.ts';
import { mirror } from './mirror.ts';
import { bindNative, supportsNative } from './native.ts';
import { bindKnown, type SvaNode } from './nodes.ts';
import type { Bonding, BondingEvents, MakeBonding, SvaWay } from './way.ts';

/** The features of a device that concern SVA. */
export interface SvaFeatures {
  /** Whether it can be enabled for this device, by any way. */
  has(feature: 'sva'): boolean;
  /**
   * Enables it. {@link Sva.bind} fails without.
   *
   * @throws {VfioError} ENODEV the device doesn't have it; EBUSY it is enabled already.
   */
  enable(feature: 'sva'): void;
  /** @throws {VfioError} EINVAL it is not enabled; EBUSY a bond exists. */
  disable(feature: 'sva'): void;
  /** Whether it is enabled. */
  enabled(feature: 'sva'): boolean;
}

/** How to bind. */
export interface SvaBindOptions<T> {
  /** Whose memory: this process's ('self', the default), or another one's. */
  readonly mm?: 'self' | { readonly pid: number };
  /** The program's own data, for {@link SvaBond.data}. */
  readonly data?: T;
  /** EEXIST if the process and the device are bound already. Default false: binds are counted. */
  readonly exclusive?: boolean;
  /** The ways that may be taken, best first. Default: all. */
  readonly ways?: readonly SvaWay[];
  /**
   * The width of the addresses that the device can send, in bits, for a device that sends fewer than its IOMMU takes: memory of
   * {@link SvaBond.allocate} lies below. Only 'iommufd-mirror' looks at it.
   */
  readonly addressBits?: number;
}

const ways: Readonly<Record<Exclude<SvaWay, 'character-device'>, MakeBonding>> = {
  native: bindNative,
  'iommufd-fault': fault,
  'iommufd-mirror': mirror,
};
const names = ['native', 'iommufd-fault', 'iommufd-mirror'] as const;

/** Devices for which the program has enabled SVA, where no call of the host does it. */
const enabledHere = new WeakSet<VfioDevice>();

function checked(device: VfioDevice): VfioDevice {
  alive(instance(device, VfioDevice, 'device'));
  return device;
}

function failure(code: number, reason: string, hint?: string): VfioError {
  return new VfioError(code, {
    syscall: 'ioctl',
    request: 'VFIO_DEVICE_FEATURE_SVA',
    reason,
    ...(hint !== undefined && { hint }),
  });
}

/** Shared virtual addressing. */
export class Sva {
  /** It has static functions only. */
  private constructor(key: typeof OURS) {
    ours(key, 'Sva');
  }

  /** The features of a device. Their state is the device's: it ends when the device is closed. */
  static features(device: VfioDevice): SvaFeatures {
    checked(device);
    const onHost = () => supportsNative(checked(device));
    return {
      has(feature) {
        oneOf(feature, 'feature', ['sva']);
        return onHost() || device.iommufd !== null;
      },
      enable(feature) {
        oneOf(feature, 'feature', ['sva']);
        if (onHost()) {
          explained(
            () => fileOf(device).svaEnable(true),
            (error) => (error.code === 'EBUSY' ? { reason: 'SVA is enabled already' } : undefined),
          );
          return;
        }
        if (device.iommufd === null)
          throw failure(
            constants.errno.ENODEV,
            'the device is bound to no iommufd, and the host has no call that binds a process to it',
            'device.bind(iommufd) makes the other ways possible',
          );
        if (enabledHere.has(device)) throw failure(constants.errno.EBUSY, 'SVA is enabled already');
        enabledHere.add(device);
      },
      disable(feature) {
        oneOf(feature, 'feature', ['sva']);
        if (onHost() && !enabledHere.has(device)) {
          explained(
            () => fileOf(device).svaEnable(false),
            (error) => ({
              reason:
                error.code === 'EBUSY'
                  ? 'a process is bound to the device'
                  : error.code === 'EINVAL'
                    ? 'SVA is not enabled'
                    : undefined,
            }),
          );
          return;
        }
        if (!enabledHere.has(device)) throw failure(constants.errno.EINVAL, 'SVA is not enabled');
        if (childrenOf(device).some((each) => each instanceof SvaBond))
          throw failure(constants.errno.EBUSY, 'a process is bound to the device');
        enabledHere.delete(device);
      },
      enabled(feature) {
        oneOf(feature, 'feature', ['sva']);
        return enabledHere.has(checked(device)) || (onHost() && fileOf(device).svaEnabled());
      },
    };
  }

  /**
   * Binds the address space of a process to a device, by the best way that the host and the device have. {@link SvaBond.way}
   * says which it is, {@link SvaBond.reasons} why no better one.
   *
   * @throws {VfioError} EINVAL SVA is not enabled, or other devices share the device's group; ENODEV no IOMMU; EEXIST bound
   * already (`exclusive`); EOVERFLOW the process's PASID is too large for this device; ENOSPC no PASID is left; EBUSY the PASID
   * is attached to something else; EPERM, ESRCH another process; EOPNOTSUPP no way is left, `reason` says why for each.
   *
   * `device` may also be a node of {@link Host.svaNodes}: it is opened, and its own driver binds this process. Then only `data` of
   * the options counts, and the errors are those of the open.
   */
  static bind<T = undefined>(device: VfioDevice | SvaNode, o?: SvaBindOptions<T>): SvaBond<T> {
    const given = known(o, 'options', [
      'mm',
      'data',
      'exclusive',
      'ways',
      'addressBits',
    ]) as SvaBindOptions<T>;
    const node = bindKnown(device);
    if (node !== undefined) return bonded(node.parent, node.bonding, given.data as T, true, []);
    return Sva.#bindDevice(checked(device as VfioDevice), given);
  }

  static #bindDevice<T>(device: VfioDevice, given: SvaBindOptions<T>): SvaBond<T> {
    const pid = pidOf(given.mm);
    const exclusive = flag(given.exclusive, 'exclusive', false);
    const { addressBits } = given;
    if (addressBits !== undefined) integer(addressBits, 'addressBits', 20, 64);
    const wanted =
      given.ways === undefined
        ? names
        : Array.from(array(given.ways, 'ways'), (way) => oneOf(way, 'ways', names));
    if (wanted.length === 0) throw refusal('at least one way', 'ways', given.ways);
    if (!Sva.features(device).enabled('sva'))
      throw failure(
        constants.errno.EINVAL,
        'SVA is not enabled for the device',
        "Sva.features(device).enable('sva') enables it",
      );
    const here: { bond?: WeakRef<SvaBond<unknown>> } = {};
    const to = (event: Parameters<typeof tellBond>[1]) => {
      const bond = here.bond?.deref();
      if (bond !== undefined && !bond.disposed) tellBond(bond, event);
    };
    const events: BondingEvents = { fault: (fault) => to(fault), exit: () => to('exit') };
    const reasons: string[] = [];
    let code = 'EOPNOTSUPP';
    for (const way of wanted) {
      const made = ways[way]({ device, pid, exclusive, addressBits, events });
      if ('reason' in made) {
        reasons.push(`${way}: ${made.reason}`);
        if (reasons.length === 1) ({ code } = made);
        continue;
      }
      const bond = bonded(device, made, given.data as T, pid === undefined, reasons);
      here.bond = new WeakRef<SvaBond<unknown>>(bond as SvaBond<unknown>);
      return bond;
    }
    throw failure(errnoOf(code) ?? constants.errno.EOPNOTSUPP, reasons.join('; '));
  }
}

function bonded<T>(
  parent: Handle,
  bonding: Bonding,
  data: T,
  self: boolean,
  reasons: readonly string[],
): SvaBond<T> {
  try {
    return new SvaBond<T>(OURS, parent, bonding, data, self, reasons);
  } catch (error) {
    bonding.dispose();
    throw error;
  }
}

function pidOf(mm: SvaBindOptions<unknown>['mm']): number | undefined {
  if (mm === undefined || mm === 'self') return undefined;
  if (typeof mm !== 'object' || mm === null) throw refusal("'self' or { pid }", 'mm', mm);
  const { pid } = known(mm, 'mm', ['pid']);
  return integer(pid, 'mm.pid', 1, 0x7fffffff) === process.pid ? undefined : pid;
}
