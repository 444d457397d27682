/**
 * Runs a scenario once for each call of the kernel that can fail, with that call failed, and looks what is left over.
 *
 * Each run has a host of its own. While a run lasts, the process's listeners for unhandled rejections and uncaught exceptions
 * are put aside, so that these belong to the run.
 */
import { readdirSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { integer, known, refusal, text } from '../base/check.ts';
import { Host, type SoftwareHost, type SoftwareOptions } from '../index.ts';

export interface SweepOptions {
  /** The options of each run's host. */
  software?: SoftwareOptions;
  /**
   * The error that a call fails with, by the call's name. Default: what a kernel that has run out of something returns: EMFILE
   * for calls that make a descriptor, EIO for those that read and write, else ENOMEM.
   */
  code?: (call: string) => string;
  /** Which calls to fail, by name. Default: all that can fail ({@link CallFault.request}). */
  calls?: (call: string) => boolean;
  /** How long a run may take, in milliseconds; default 5000. */
  timeout?: number;
}

/** One run of the scenario, with one call failed. */
export interface SweepRun {
  /** Which call of the run it was, counted from 1. */
  readonly nth: number;
  /** The name of the call, or of its request for an ioctl. */
  readonly call: string;
  /** The error that it failed with. */
  readonly code: string;
  /** Where the scenario made the call; null: on another thread, or this run did not make it. */
  readonly stack: string | null;
  /** What the scenario threw or rejected with; undefined: nothing, it can do without the call. */
  readonly thrown: unknown;
  /** Whether it had not ended when its time was over. */
  readonly hung: boolean;
  /** What it left open, in words: handles with the place where they were opened, and descriptors. */
  readonly leaks: readonly string[];
  /** The unhandled rejections and uncaught exceptions of the run. */
  readonly stray: readonly unknown[];
}

/** The result of a sweep. */
export interface SweepReport {
  /** A run for each call, in the order of the calls. */
  readonly runs: readonly SweepRun[];
  /** The runs that hung, left something open, or had stray errors. */
  readonly failures: readonly SweepRun[];
  /** The seed of the hosts. */
  readonly seed: number;
  /** The failures in words, with the seed. */
  toString(): string;
}

/** A driver's work on a host. It disposes what it opens, also when a call fails; the host itself is disposed for it. */
type Scenario = (host: SoftwareHost) => unknown;

/** What a run leaves, without the failed call. */
type Outcome = Pick<SweepRun, 'thrown' | 'hung' | 'leaks' | 'stray'>;

const CODES: Readonly<Record<string, string>> = {
  open: 'EMFILE',
  fcntl: 'EMFILE',
  eventfd: 'EMFILE',
  VFIO_GROUP_GET_DEVICE_FD: 'EMFILE',
  read: 'EIO',
  write: 'EIO',
  pread: 'EIO',
  pwrite: 'EIO',
};

/**
 * Runs `scenario` once as it is, to learn its calls, and then once for each call that can fail, with that call failed, each
 * time on a new software host. A driver is right if nothing is left over, whether it throws or not.
 *
 * A crash of the process ends the sweep too. Nothing else may run in the process meanwhile: its descriptors and stray errors
 * would be taken for the scenario's.
 *
 * @throws {Error} the scenario fails, hangs or leaves something over without any fault: `cause` is what it threw.
 */
export async function sweep(scenario: Scenario, o?: SweepOptions): Promise<SweepReport> {
  if (typeof scenario !== 'function') throw refusal('a function', 'scenario', scenario);
  const given = known(o, 'options', ['software', 'code', 'calls', 'timeout']);
  const timeout = given.timeout === undefined ? 5000 : integer(given.timeout, 'timeout', 1, 0x7fffffff);
  const codeOf = called(given.code, 'code') ?? ((call: string) => CODES[call] ?? 'ENOMEM');
  const wanted = called(given.calls, 'calls') ?? (() => true);
  const software = given.software ?? {};

  const calls: string[] = [];
  const first = await run(scenario, software, timeout, (host) => {
    const watch = host.software.injectFault({ code: null });
    return () => {
      calls.push(...watch.strikes.map(({ what }) => what));
      watch[Symbol.dispose]();
    };
  });
  if (first.thrown !== undefined || isWrong(first))
    throw new Error(
      `The scenario does not work even without a fault:\n${words(first).join('\n')}`,
      first.thrown === undefined ? undefined : { cause: first.thrown },
    );

  const runs: SweepRun[] = [];
  for (const [index, call] of calls.entries()) {
    if (!wanted(call)) continue;
    const nth = index + 1;
    const code = text(codeOf(call), 'code');
    let struck: { call: string; stack: string | null } = { call, stack: null };
    const outcome = await run(scenario, software, timeout, (host) => {
      const fault = host.software.injectFault({ code, nth });
      return () => {
        const [strike] = fault.strikes;
        if (strike !== undefined) struck = { call: strike.what, stack: strike.stack };
        fault[Symbol.dispose]();
      };
    });
    runs.push({ nth, code, ...struck, ...outcome });
  }
  const failures = runs.filter(isWrong);
  const seed = software.seed ?? 0;
  return { runs, failures, seed, toString: () => describe(runs.length, failures, seed) };
}

function called<T>(value: T | undefined, name: string): T | undefined {
  if (value !== undefined && typeof value !== 'function') throw refusal('a function', name, value);
  return value;
}

const isWrong = ({ hung, leaks, stray }: Outcome) => hung || leaks.length > 0 || stray.length > 0;

/** `prepare` injects what the run needs, and returns what ends it. */
async function run(
  scenario: Scenario,
  software: SoftwareOptions,
  timeout: number,
  prepare: (host: SoftwareHost) => () => void,
): Promise<Outcome> {
  const before = await openDescriptors(Number.POSITIVE_INFINITY);
  const strays = new Strays();
  const frames = Error.stackTraceLimit;
  Error.stackTraceLimit = Math.max(frames, 30); // so that the scenario's own lines are in the stacks
  let thrown: unknown;
  let hung = false;
  const leaks: string[] = [];
  try {
    const host = Host.open({ backend: 'software', software });
    const end = prepare(host);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(resolve, timeout, 'late');
    });
    try {
      hung = (await Promise.race([Promise.resolve(host).then(scenario), late])) === 'late';
    } catch (error) {
      thrown = error;
    }
    clearTimeout(timer);
    end();
    await turn(); // rejections that nobody handles are told after the microtasks
    for (const { kind, opened } of host.openHandles())
      leaks.push(`${kind}, opened${opened === null ? ' by the package' : `\n${opened}`}`);
    host[Symbol.dispose]();
    const left = (await openDescriptors(before)) - before;
    if (left > 0) leaks.push(`${left} descriptors`);
  } finally {
    Error.stackTraceLimit = frames;
    strays.end();
  }
  return { thrown, hung, leaks, stray: strays.found };
}

/** Collects the unhandled rejections and uncaught exceptions of the process, instead of whoever listens to them. */
class Strays {
  readonly found: unknown[] = [];
  readonly #rejection = process.listeners('unhandledRejection');
  readonly #exception = process.listeners('uncaughtException');
  readonly #take = (error: unknown) => void this.found.push(error);

  constructor() {
    process.removeAllListeners('unhandledRejection').on('unhandledRejection', this.#take);
    process.removeAllListeners('uncaughtException').on('uncaughtException', this.#take);
  }

  end(): void {
    process.removeListener('unhandledRejection', this.#take);
    process.removeListener('uncaughtException', this.#take);
    for (const listener of this.#rejection) process.on('unhandledRejection', listener);
    for (const listener of this.#exception) process.on('uncaughtException', listener);
  }
}

/** How many descriptors the process has. The event loop closes some a few turns late: waits until there are at most `most`. */
async function openDescriptors(most: number): Promise<number> {
  const count = () => readdirSync('/proc/self/fd').length;
  for (let left = 20; left > 0 && count() > most; left--) await turn();
  return count();
}

function words({ thrown, hung, leaks, stray }: Outcome): string[] {
  return [
    ...(thrown === undefined ? [] : [`it threw ${String(thrown)}`]),
    ...(hung ? ['it did not end'] : []),
    ...leaks.map((leak) => `left open: ${leak}`),
    ...stray.map((error) => `nobody handled: ${String(error)}`),
  ];
}

function describe(runs: number, failures: readonly SweepRun[], seed: number): string {
  const indented = (text: string) => text.replaceAll(/^ */gm, '    ');
  return [
    `${runs} calls were failed, one in each run; ${failures.length} runs went wrong (seed ${seed})`,
    ...failures.flatMap((each) => [
      `  call ${each.nth}, ${each.call}, failed with ${each.code}:`,
      ...words(each).map(indented),
      ...(each.stack === null ? [] : [indented(`the call was made\n${each.stack}`)]),
    ]),
  ].join('\n');
}
