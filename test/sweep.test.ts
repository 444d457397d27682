/** sweep(): a scenario runs once for each call of the kernel that can fail, and what is left over is told. */
import { describe, expect, test } from 'vitest';
import { NicDriver } from '../examples/nic-driver.ts';
import { DmaBuffer, type SoftwareHost, VfioError } from '../lib/index.ts';
import { EduDevice, link, Nic } from '../lib/models/index.ts';
import { sweep } from '../lib/testing/index.ts';
import { EDU, needs } from './support/backends.ts';
import { BUFFER, Edu } from './support/edu.ts';
import { EduDriver } from './support/edu-driver.ts';

needs({ backends: ['software'], because: 'a real kernel fails when it wants to' });

/** A driver's whole life: bind, attach, map, an interrupt, DMA both ways. It disposes all it opens. */
async function correct(host: SoftwareHost): Promise<void> {
  await host.device(EDU).bind();
  using user = host.attach(EDU);
  using memory = DmaBuffer.alloc(4096);
  using mapping = user.dma.map(memory, { iova: 0x10000 });
  using edu = new Edu(user.device);
  const [interrupt] = user.device.irq('msi').enable(1);
  using _interrupt = interrupt;
  edu.start(BUFFER, mapping.iova, 64, true, true);
  await host.software.settle();
  if (interrupt?.poll() !== 1n) throw new Error('there was no interrupt');
}

/** Forgets the device when the map fails. */
async function leaky(host: SoftwareHost): Promise<void> {
  await host.device(EDU).bind();
  const user = host.attach(EDU);
  using memory = DmaBuffer.alloc(4096);
  user.dma.map(memory, { iova: 0x10000 });
  user[Symbol.dispose]();
}

test('a correct driver leaves nothing over, whichever call fails', async () => {
  const report = await sweep(correct, { timeout: 10_000 });
  expect(String(report)).toMatch(/^\d+ calls were failed, one in each run; 0 runs went wrong \(seed 0\)$/);
  expect(report.failures).toEqual([]);
  const calls = new Set(report.runs.map(({ call }) => call));
  for (const each of [
    'open',
    'IOMMU_IOAS_ALLOC',
    'IOMMU_IOAS_MAP',
    'VFIO_DEVICE_SET_IRQS',
    'eventfd',
    'mmap',
  ])
    expect(calls).toContain(each);
  const maps = report.runs.filter(({ call }) => call === 'IOMMU_IOAS_MAP');
  expect(maps).toEqual([
    expect.objectContaining({
      code: 'ENOMEM',
      thrown: expect.any(VfioError),
      hung: false,
      stack: expect.stringContaining('sweep.test.ts'),
    }),
  ]);
}, 120_000);

test('a driver that leaks on failure is named with the call, and the place where it opened what it leaks', async () => {
  const report = await sweep(leaky, { calls: (call) => call === 'IOMMU_IOAS_MAP', code: () => 'ENOSPC' });
  expect(report.runs.length).toBe(1);
  expect(report.failures).toEqual(report.runs);
  expect(report.failures[0]).toMatchObject({
    call: 'IOMMU_IOAS_MAP',
    code: 'ENOSPC',
    hung: false,
    stray: [],
  });
  expect(report.failures[0]?.leaks.join('\n')).toMatch(
    /VfioDevice 0000:00:10.0, opened\n(?: +at .*\n)*? +at .*sweep\.test\.ts/,
  );
  expect(String(report)).toMatch(/IOMMU_IOAS_MAP, failed with ENOSPC:\n {4}it threw VfioError: ENOSPC/);
});

describe('a driver that, when a call fails,', () => {
  const failing = (what: (host: SoftwareHost) => unknown) =>
    sweep(
      async (host) => {
        try {
          using _iommufd = host.openIommufd();
        } catch {
          await what(host);
        }
      },
      { timeout: 200, calls: (call) => call === 'open' },
    ).then(({ failures }) => failures[0]);

  test('waits for ever has hung', async () => {
    expect(await failing(() => new Promise(() => {}))).toMatchObject({
      hung: true,
      call: 'open',
      code: 'EMFILE',
    });
  });

  test('lets a promise be rejected with nobody listening has a stray error', async () => {
    const run = await failing(() => void Promise.reject(new Error('nobody listens')));
    expect(run).toMatchObject({ hung: false, thrown: undefined, stray: [new Error('nobody listens')] });
  });

  test('throws in a callback has a stray error', async () => {
    const run = await failing(async () => {
      setImmediate(() => {
        throw new Error('in a callback');
      });
      await new Promise((resolve) => setTimeout(resolve, 10));
    });
    expect(run).toMatchObject({ hung: false, stray: [new Error('in a callback')] });
  });
});

test('the listeners of the process are back afterwards', async () => {
  const listeners = () => [process.listeners('unhandledRejection'), process.listeners('uncaughtException')];
  const before = listeners();
  await sweep((host) => host.openIommufd()[Symbol.dispose]());
  expect(listeners()).toEqual(before);
});

test('a scenario that fails without a fault is an error', async () => {
  const cause = new Error('it never works');
  await expect(sweep(() => Promise.reject(cause))).rejects.toMatchObject({
    message: expect.stringMatching(
      /^The scenario does not work even without a fault:\nit threw Error: it never/,
    ),
    cause,
  });
  await expect(sweep((host) => void host.openIommufd())).rejects.toThrow(/left open: Iommufd, opened\n/);
});

test.each([
  [[undefined], /^Expected a function for scenario/],
  [[() => {}, { code: 'ENOMEM' }], /^Expected a function for code/],
  [[() => {}, { timeout: 0 }], /^Expected an integer from 1 to \d+ for timeout/],
  [[() => {}, { retries: 1 }], /^Expected only .* for options but received 'retries'/],
])('sweep refuses %j', async (given, message) => {
  await expect((sweep as (...all: unknown[]) => Promise<unknown>)(...given)).rejects.toThrow(message);
});

/** The whole life of the edu driver: on the C++ model, or on the one in TypeScript. */
const edu = (bdf: string) => async (host: SoftwareHost) => {
  if (bdf === EDU) await host.device(bdf).bind();
  else host.software.addDevice(bdf, new EduDevice());
  using driver = new EduDriver(host, bdf);
  using memory = DmaBuffer.alloc(4096);
  using mapping = driver.dma.map(memory);
  expect(await driver.factorial(5)).toBe(120);
  await driver.fetch(mapping.iova, 64);
  await driver.store(mapping.iova + 64n, 64);
};

/** Two cards and their drivers: frames go both ways. */
async function cards(host: SoftwareHost): Promise<void> {
  const models = [new Nic(), new Nic()] as const;
  using _cable = link(...models);
  host.software.addDevice('0000:00:1c.0', models[0]);
  host.software.addDevice('0000:00:1d.0', models[1]);
  using a = new NicDriver(host, '0000:00:1c.0', { ringSize: 8 });
  using b = new NicDriver(host, '0000:00:1d.0', { ringSize: 8 });
  const frames = [new Uint8Array(64).fill(1), new Uint8Array(1500).fill(2)];
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    expect(from.send(frames)).toBe(2);
    await host.software.settle();
    expect(to.receive(() => {})).toBe(2);
  }
}

test.each([
  ['edu driver, on the C++ model', edu(EDU)],
  ['edu driver, on the TypeScript model', edu('0000:00:1c.0')],
  ['NIC driver', cards],
])(
  'the %s leaves nothing over, whichever call fails',
  async (_, scenario) => {
    const report = await sweep(scenario, { timeout: 10_000 });
    expect(String(report)).toMatch(/^\d+ calls were failed, one in each run; 0 runs went wrong \(seed 0\)$/);
    const calls = report.runs.map(({ call }) => call);
    for (const each of ['IOMMU_IOAS_MAP', 'VFIO_DEVICE_SET_IRQS', 'eventfd', 'mmap'])
      expect(calls).toContain(each);
  },
  120_000,
);
