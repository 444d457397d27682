/**
 * A host and a device for one test, and the checks of what the test leaves.
 *
 * Life: made before the test and ended after it. It opens its device when the test asks for it. Its own handles are no leaks of
 * the test: they are known by `countedBy`, to the assertions too.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { bdf as checkBdf, flag, known, options, refusal } from '../base/check.ts';
import { ownOf } from '../base/own.ts';
import {
  DmaError,
  Host,
  type OpenHandle,
  SimulatedDevice,
  type SoftwareHost,
  type SoftwareOptions,
  type UserDevice,
  type VfioDevice,
} from '../index.ts';
import { faultsText, findingsText, handlesText, mappingsText, modelErrorsText } from './words.ts';

/** What is checked after a test. All are by default. */
export interface Checks {
  /** No handle is left open that the test opened. */
  handles?: boolean;
  /** The DMA sanitizer has found nothing ({@link SoftwareControls.report}), and no mapping is left. */
  dma?: boolean;
  /** No injected fault is left. */
  faults?: boolean;
  /** The model has thrown nothing but a {@link DmaError}, which the sanitizer explains. */
  model?: boolean;
}

/** The host and the device of a test. */
export interface BenchOptions<M extends SimulatedDevice = SimulatedDevice> {
  /** Makes the simulated device, for each test a new one. A real device must have the same vendor and device id. */
  model?: () => M;
  /**
   * The address at which the model is plugged in; default '0000:00:1c.0'. Without a model: the device of the software host to
   * use, which is bound to vfio-pci.
   */
  bdf?: string;
  /** The options of the software host. */
  software?: SoftwareOptions;
  /** What is checked after the test. */
  checks?: Checks;
}

/** What a test works with. */
export interface Bench<M extends SimulatedDevice = SimulatedDevice> {
  /** The host: a software host of this test, or the machine's if VFIO_TEST_DEVICE is set. */
  readonly host: Host;
  /** The address of the device. A driver that opens its device itself needs no more than this and `host`. */
  readonly bdf: string;
  /** The device, opened and attached to an address space of its own at the first use; closed after the test. */
  readonly device: VfioDevice;
  /** The address space of `device`. */
  readonly dma: UserDevice['dma'];
  /** `host`, if it is a software host. @throws {Error} it is not: {@link notSimulated}. */
  readonly simulatedHost: SoftwareHost;
  /** The model, if the device is simulated by one. @throws {Error} it is not: {@link notSimulated}. */
  readonly model: M;
}

/** How long devices may work on after a test, in milliseconds. */
const QUIET = 1000;
/** Where a model is plugged in. */
const SLOT = '0000:00:1c.0';
const VARIABLE = 'VFIO_TEST_DEVICE';

/**
 * Why this run has no simulated host: the environment variable VFIO_TEST_DEVICE has the address of a real device, on which
 * the tests run then. false: it has one. As the option `skip` of node:test it skips a test with this reason.
 */
export function notSimulated(): string | false {
  const real = realDevice();
  return real === null ? false : `needs a simulated host, and ${VARIABLE} names the real device ${real}`;
}

function realDevice(): string | null {
  const value = process.env[VARIABLE];
  return value === undefined || value === '' ? null : checkBdf(value, VARIABLE);
}

/** The handles that benches have opened themselves, by host. */
const own = new WeakMap<Host, OpenHandle[]>();

/** The handles of a host that are open, without those of its bench. */
export function leftOpen(host: Host): OpenHandle[] {
  return without(host.openHandles(), own.get(host) ?? []);
}

function without(all: readonly OpenHandle[], others: readonly OpenHandle[]): OpenHandle[] {
  const key = ({ kind, opened }: OpenHandle) => `${kind}\n${opened}`;
  const left = others.map(key);
  return all.filter((each) => {
    const at = left.indexOf(key(each));
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
}

/** Options that were checked, but for what only a model or a host can tell. */
export interface CheckedOptions<M extends SimulatedDevice> {
  readonly model: (() => M) | undefined;
  readonly bdf: string | undefined;
  readonly software: SoftwareOptions;
  readonly checks: Required<Checks>;
}

/** @throws {TypeError} an option is none. Those of the host are checked when it is made. */
export function checkedOptions<M extends SimulatedDevice>(o: BenchOptions<M> | undefined): CheckedOptions<M> {
  const { model, bdf, software, checks } = known(o, 'options', ['model', 'bdf', 'software', 'checks']);
  if (model !== undefined && typeof model !== 'function') throw refusal('a function', 'model', model);
  return {
    model,
    bdf: bdf === undefined ? undefined : checkBdf(bdf),
    software: options<SoftwareOptions>(software, 'software'),
    checks: checksOf(checks),
  };
}

/** A bench, and its end. */
export class TestBench<M extends SimulatedDevice> implements Bench<M> {
  readonly host: Host;
  readonly #bdf: string | undefined;
  readonly #model: M | undefined;
  readonly #checks: Required<Checks>;
  #user: UserDevice | undefined;

  private constructor(host: Host, bdf: string | undefined, model: M | undefined, checks: Required<Checks>) {
    this.host = host;
    this.#bdf = bdf;
    this.#model = model;
    this.#checks = checks;
  }

  static async open<M extends SimulatedDevice>(o: CheckedOptions<M>): Promise<TestBench<M>> {
    const model = o.model?.();
    if (o.model !== undefined && !((model as unknown) instanceof SimulatedDevice))
      throw refusal('a SimulatedDevice', 'what model returns', model);
    const real = realDevice();
    if (real !== null) return new TestBench<M>(openReal(real, model), real, undefined, o.checks);
    const host = Host.open({ backend: 'software', software: o.software });
    const bdf = o.bdf ?? (model === undefined ? undefined : SLOT);
    try {
      if (bdf !== undefined && model !== undefined) host.software.addDevice(bdf, model);
      else if (bdf !== undefined) await host.device(bdf).bind();
    } catch (error) {
      host[Symbol.dispose]();
      throw error;
    }
    return new TestBench(host, bdf, model, o.checks);
  }

  get bdf(): string {
    if (this.#bdf === undefined)
      throw new Error('Expected the options to name a device, by model or bdf, but they name none');
    return this.#bdf;
  }

  get device(): VfioDevice {
    return this.#attached().device;
  }

  get dma(): UserDevice['dma'] {
    return this.#attached().dma;
  }

  get simulatedHost(): SoftwareHost {
    const reason = notSimulated();
    if (reason !== false) throw new Error(reason);
    return this.host as SoftwareHost;
  }

  get model(): M {
    const reason = notSimulated();
    if (reason !== false) throw new Error(reason);
    if (this.#model === undefined) throw new Error('Expected a model in the options but there is none');
    return this.#model;
  }

  /**
   * Closes all and returns what the test has left, in words; '' if nothing. Of a test that has failed, which could not clean up,
   * only the mistakes with DMA.
   */
  async end(failed: boolean): Promise<string> {
    const { host } = this;
    if (!failed) await quiet(host);
    const { handles, dma, faults, model } = this.#checks;
    const complaints: string[] = [];
    const report = host.software?.report;
    const before = report?.findings.length ?? 0;
    if (!failed) {
      if (handles) complaints.push(handlesText(leftOpen(host)));
      if (faults) complaints.push(faultsText(host.software?.openFaults() ?? []));
      if (model) complaints.push(modelErrorsText(errorsOf(this.#model)));
      // Where no sanitizer does, which knows who made them.
      if (dma && !report?.enabled && this.#user !== undefined && !this.#user.device.disposed)
        complaints.push(mappingsText(this.#user.dma.mappings()));
    }
    this.#user?.[Symbol.dispose]();
    host[Symbol.dispose]();
    if (dma && report !== undefined) {
      // What the disposals above have found is what was left. The handles among it are told already.
      const found = report.findings.filter((each, at) => at < before || (!failed && 'iova' in each));
      complaints.push(findingsText(found, report.dropped));
    }
    return complaints.filter((each) => each !== '').join('\n\n');
  }

  #attached(): UserDevice {
    if (this.#user === undefined) {
      const before = this.host.openHandles();
      this.#user = this.host.attach(this.bdf);
      own.set(this.host, [...(own.get(this.host) ?? []), ...without(this.host.openHandles(), before)]);
    }
    return this.#user;
  }
}

/** Lets the devices end their work, so that its mistakes count. Not for ever: a device may give itself new work again and again. */
async function quiet(host: Host): Promise<void> {
  const settled = host.software?.settle();
  settled?.catch(() => {}); // of a host that was disposed meanwhile
  await Promise.race([settled, sleep(QUIET, undefined, ownOf({ ref: false }))]);
}

const errorsOf = (model: SimulatedDevice | undefined) =>
  (model?.errors ?? []).filter(({ error }) => !(error instanceof DmaError));

function checksOf(o: Checks | undefined): Required<Checks> {
  const given = known(o, 'checks', ['handles', 'dma', 'faults', 'model']);
  return {
    handles: flag(given.handles, 'checks.handles', true),
    dma: flag(given.dma, 'checks.dma', true),
    faults: flag(given.faults, 'checks.faults', true),
    model: flag(given.model, 'checks.model', true),
  };
}

/** The machine's host, if the device there is what the model simulates: nobody's disk is taken for it by a wrong address. */
function openReal(bdf: string, model: SimulatedDevice | undefined): Host {
  const host = Host.open({ backend: 'kernel' });
  try {
    const { vendor, device, driver } = host.device(bdf);
    const ids = (of: { vendor: number; device: number }) =>
      [of.vendor, of.device].map((each) => each.toString(16).padStart(4, '0')).join(':');
    if (model !== undefined && ids(model.identity) !== ids({ vendor, device }))
      throw new Error(
        `Expected ${VARIABLE} to name a device ${ids(model.identity)}, which the model simulates, but ${bdf} is ${ids({ vendor, device })} (driver ${driver ?? 'none'})`,
      );
  } catch (error) {
    host[Symbol.dispose]();
    throw error;
  }
  return host;
}

/**
 * Runs a test's body with a device, and then checks what it left: for runners without fixtures, as node:test and Jest.
 *
 * ```js
 * test('doubles', () => withDevice({ model: () => new Doubler() }, async ({ device, dma }) => { ... }));
 * ```
 *
 * @throws {Error} what the body throws; or something was left, which the message tells. If the body throws and the sanitizer
 * has found something, an AggregateError with both.
 */
export async function withDevice<M extends SimulatedDevice, T>(
  o: BenchOptions<M>,
  body: (bench: Bench<M>) => T | Promise<T>,
): Promise<T> {
  if (typeof body !== 'function') throw refusal('a function', 'body', body);
  const bench = await TestBench.open(checkedOptions(o));
  let result: T;
  try {
    result = await body(bench);
  } catch (error) {
    const also = await bench.end(true);
    const words = error instanceof Error ? error.message : String(error);
    if (words.includes(also)) throw error; // nothing, or what the body has found itself
    throw new AggregateError([error, new Error(also)], `${words}\n\n${also}`);
  }
  const left = await bench.end(false);
  if (left !== '') throw new Error(left);
  return result;
}
