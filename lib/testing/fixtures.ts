/** Fixtures for vitest's `test.extend`. They need nothing of vitest. */
import { Host, type SimulatedDevice } from '../index.ts';
import { type Bench, type BenchOptions, checkedOptions, notSimulated, TestBench } from './bench.ts';

/** What vitest gives to each fixture. */
interface TestContext {
  readonly task: { readonly result?: { readonly state: string } | undefined };
  readonly skip: (reason?: string) => never;
  readonly onTestFinished: (hook: () => void) => void;
}

/** A function that makes a value for a test, lets the test run in `use`, and cleans up. */
export type Fixture<Context, T> = (context: Context, use: (value: T) => Promise<void>) => Promise<void>;

/** The fixtures of {@link fixtures}. Those of {@link Bench}, and `bench` itself. */
export type Fixtures<M extends SimulatedDevice = SimulatedDevice> = {
  bench: Fixture<Pick<TestContext, 'task' | 'onTestFinished'>, Bench<M>>;
} & {
  [Name in Exclude<keyof Bench<M>, 'model' | 'simulatedHost'>]: Fixture<{ bench: Bench<M> }, Bench<M>[Name]>;
} & {
  [Name in 'model' | 'simulatedHost']: Fixture<
    { bench: Bench<M> } & Pick<TestContext, 'skip'>,
    Bench<M>[Name]
  >;
};

/**
 * Fixtures for vitest: `const test = base.extend(fixtures({ model: () => new Doubler() }))`. A test that takes one of `host`,
 * `bdf`, `device`, `dma`, `model` and `simulatedHost` ({@link Bench}) has a host of its own. After it, all is closed, and the
 * test fails if it left a handle or a fault, or the sanitizer or the model has something to tell: `checks`.
 *
 * If VFIO_TEST_DEVICE is set, the device is that real one. A test that takes `model` or `simulatedHost` is then skipped, with
 * the reason.
 *
 * @throws {TypeError} an option is none.
 */
export function fixtures<M extends SimulatedDevice = SimulatedDevice>(o?: BenchOptions<M>): Fixtures<M> {
  const checked = checkedOptions(o);
  // A host refuses options that are none.
  if (o?.software !== undefined)
    Host.open({ backend: 'software', software: checked.software })[Symbol.dispose]();
  // vitest reads the names in the braces of each function, to know what it needs.
  return {
    bench: async ({ task, onTestFinished }, use) => {
      const bench = await TestBench.open(checked);
      await use(bench); // ends with the test, whatever that did
      const left = await bench.end(task.result?.state === 'fail');
      // vitest reports what a fixture throws twice, and does not end the other fixtures then.
      if (left !== '')
        onTestFinished(() => {
          throw new Error(left);
        });
    },
    host: ({ bench }, use) => use(bench.host),
    bdf: ({ bench }, use) => use(bench.bdf),
    device: ({ bench }, use) => use(bench.device),
    dma: ({ bench }, use) => use(bench.dma),
    model: ({ bench, skip }, use) => {
      const reason = notSimulated();
      return reason === false ? use(bench.model) : skip(reason);
    },
    simulatedHost: ({ bench, skip }, use) => {
      const reason = notSimulated();
      return reason === false ? use(bench.simulatedHost) : skip(reason);
    },
  };
}
