/** Faults that a test injects into a software host: calls of the kernel that fail, and devices that misbehave. */
import { inspect } from 'node:util';
import type { DeviceFaultName, NativeFault, NativeHost } from '../../addon/native.ts';
import { deviceName, integer, known, oneOf, options, refusal, text } from '../../base/check.ts';
import { errnoOf, stackOf } from '../../base/errors.ts';

/** When a fault strikes, of the times that it could. Default: each time. */
export interface FaultOccurrence {
  /** Only the nth time, counted from 1 at the injection. Not with `probability`. */
  nth?: number;
  /** Each time with this probability, 0 to 1. It follows from the host's seed: {@link SoftwareOptions.seed}. */
  probability?: number;
}

/** System calls that fail with nothing done, as if the kernel had run out of something. */
export interface CallFault extends FaultOccurrence {
  /**
   * The name of a system call ('open', 'ioctl', 'mmap', 'pread', 'eventfd' ...) or of an ioctl's request ('IOMMU_IOAS_MAP'
   * ...), as a {@link VfioError} has them. Default: each call that can fail so. Those that clean up can't: `close`, `munmap`,
   * IOMMU_DESTROY, and the requests that unmap or detach; of these, requests fail when they are named.
   */
  request?: string;
  /** The name of the error: 'ENOMEM'. null: the calls do not fail, and are only listed in `strikes`. */
  code: string | null;
}

/**
 * Messages of a device (MSI, MSI-X) that go wrong. INTx is a level, and stays as the device drives it. 'reordered': the message
 * comes after the device's next one; if there is none, after the delay.
 */
export type InterruptFault = FaultOccurrence & { device?: string } & (
    | { interrupt: 'lost' | 'doubled' }
    /** `delay`: in milliseconds, default 1. */
    | { interrupt: 'delayed' | 'reordered'; delay?: number }
  );

/**
 * DMA of a device that goes wrong. 'dropped': a write is lost, and the device takes it for done; a read is answered with ones,
 * and fails. 'corrupted': one bit is wrong, and nobody is told. 'delayed': writes come later than the device takes them for
 * done, unless the model waits for them; a read whose bytes the model wants at once ({@link SimulatedDevice}) is not delayed.
 */
export type TransferFault = FaultOccurrence & { device?: string } & (
    | { dma: 'dropped' | 'corrupted' }
    /** `delay`: in milliseconds, default 1. */
    | { dma: 'delayed'; delay?: number }
  );

/** Page requests of a device that nobody gets: the device waits until it is reset. */
export interface PageRequestFault extends FaultOccurrence {
  pageRequest: 'silent';
  device?: string;
}

/** Something that an injected fault has struck. */
export interface FaultStrike {
  /** The name of the call (of its request, for an ioctl), or 'interrupt', 'dma', 'page request'. */
  readonly what: string;
  /** Where the program made the call; null: on another thread, or no call was struck. */
  readonly stack: string | null;
}

/** An injected fault. It ends when it is disposed, or collected. */
export interface InjectedFault extends Disposable {
  /** What it has struck so far, oldest first; at most 65,536. */
  readonly strikes: readonly FaultStrike[];
}

/** An injected fault that was not disposed yet. */
export interface OpenFault {
  /** What was injected, in words. */
  readonly fault: string;
  /** The stack of the call that injected it; null: not known. */
  readonly injected: string | null;
}

/** Fault injection of a software host. */
export interface FaultInjection {
  /**
   * Lets calls of this host fail, or its devices misbehave, until what is returned is disposed. Several faults can be injected
   * at a time: the one that was injected first strikes. `device`: the address of the device that misbehaves; default: each.
   *
   * @throws {TypeError} no call or error has that name.
   */
  injectFault(o: CallFault | InterruptFault | TransferFault | PageRequestFault): InjectedFault;
  /** The injected faults that nobody has disposed, oldest first; those that were collected too. */
  openFaults(): OpenFault[];
}

/** The longest delay, in milliseconds: a day. */
const LONGEST = 86_400_000;

type Given = CallFault & InterruptFault & TransferFault & PageRequestFault & { delay?: number };
type Kind = 'code' | 'interrupt' | 'dma' | 'pageRequest';

/** @internal */
export function faultInjection(host: NativeHost): FaultInjection {
  const open = new Set<OpenFault>();
  return {
    injectFault(o) {
      const stack = stackOf(new Error())?.split('\n').slice(2).join('\n');
      const entry = { fault: inspect(o, { breakLength: Number.POSITIVE_INFINITY }), injected: stack ?? null };
      const made = inject(host, o, () => open.delete(entry));
      open.add(entry);
      return made;
    },
    openFaults: () => [...open],
  };
}

function inject(
  host: NativeHost,
  o: CallFault | InterruptFault | TransferFault | PageRequestFault,
  ended: () => void,
): InjectedFault {
  if (o === undefined) throw refusal('a plain object', 'fault', o);
  const given = options<Given>(o as Given, 'fault');
  const kinds = (['code', 'interrupt', 'dma', 'pageRequest'] as const).filter(
    (each) => given[each] !== undefined,
  );
  const [kind] = kinds;
  if (kind === undefined || kinds.length > 1)
    throw refusal("one of 'code', 'interrupt', 'dma' and 'pageRequest'", 'fault', o);
  const when = occurrence(given);
  if (kind === 'code')
    return callFault(host, known(given, 'fault', ['code', 'request', 'nth', 'probability']), when, ended);
  const [what, delayed] = misbehaviour(kind, given);
  known(given, 'fault', [kind, 'device', 'nth', 'probability', ...(delayed ? (['delay'] as const) : [])]);
  const device = given.device === undefined ? '' : deviceName(given.device, 'device');
  const delay = delayed ? integer(given.delay === undefined ? 1 : given.delay, 'delay', 0, LONGEST) : 0;
  return handle(host.injectDeviceFault(what, device, ...when, delay), [], ended);
}

/** Which fault of the addon's it is, and whether it has a delay. */
function misbehaviour(
  kind: Exclude<Kind, 'code'>,
  given: Partial<Given>,
): [what: DeviceFaultName, delayed: boolean] {
  switch (kind) {
    case 'interrupt': {
      const how = oneOf(given.interrupt, 'interrupt', ['lost', 'delayed', 'doubled', 'reordered']);
      return [`interrupt ${how}`, how === 'delayed' || how === 'reordered'];
    }
    case 'dma': {
      const how = oneOf(given.dma, 'dma', ['delayed', 'dropped', 'corrupted']);
      return [`dma ${how}`, how === 'delayed'];
    }
    case 'pageRequest':
      return [`page request ${oneOf(given.pageRequest, 'pageRequest', ['silent'])}`, false];
  }
}

function callFault(
  host: NativeHost,
  { request, code }: Partial<CallFault>,
  when: [number, number],
  ended: () => void,
): InjectedFault {
  const name = request === undefined ? '' : text(request, 'request');
  if (name === '' && request !== undefined) throw refusal('the name of a call', 'request', request);
  const number = code === null ? 0 : errnoOf(text(code, 'code'));
  if (number === undefined) throw refusal("the name of an error such as 'ENOMEM'", 'code', code);
  const stacks: string[] = [];
  // Called in the middle of the call, which it does not change: it must not throw.
  const onStrike = () => void stacks.push(stackOf(new Error())?.split('\n').slice(2).join('\n') ?? '');
  return handle(host.injectCallFault(name, number, ...when, onStrike), stacks, ended);
}

function occurrence({ nth, probability }: FaultOccurrence): [nth: number, probability: number] {
  if (nth !== undefined && probability !== undefined)
    throw refusal("not both 'nth' and 'probability'", 'fault', { nth, probability });
  if (probability !== undefined && !(typeof probability === 'number' && probability >= 0 && probability <= 1))
    throw refusal('a number from 0 to 1', 'probability', probability);
  return [nth === undefined ? 0 : integer(nth, 'nth', 1, Number.MAX_SAFE_INTEGER), probability ?? 1];
}

/** `stacks`: where the calls were made that this thread made, in their order. `ended` is called when it is disposed. */
function handle(fault: NativeFault, stacks: readonly string[], ended: () => void): InjectedFault {
  return {
    get strikes() {
      let next = 0;
      return fault
        .struck()
        .map(({ what, here }) => ({ what, stack: here ? (stacks[next++] ?? null) : null }));
    },
    [Symbol.dispose]() {
      ended();
      fault.dispose();
    },
  };
}
