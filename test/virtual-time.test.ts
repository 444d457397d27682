/** Virtual time of the software host: devices work when the program says so, in an order that a seed repeats. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DmaBuffer, Host, SimulatedDevice, type SoftwareHost } from '../lib/index.ts';
import { EDU, needs } from './support/backends.ts';
import { BUFFER, Edu, Reg } from './support/edu.ts';

needs({ backends: ['software'], because: 'the time of a real machine is real' });

let host: SoftwareHost;
beforeEach(() => {
  host = Host.open({ backend: 'software', software: { deterministic: true } });
});
afterEach(() => host[Symbol.dispose]());

const busy = (edu: Edu) => (edu.registers.read64(Reg.command) & 1n) === 1n;

test('a device works in step() only, and each step is one piece of work', async () => {
  await host.device(EDU).bind();
  using user = host.attach(EDU);
  using edu = new Edu(user.device);
  using memory = DmaBuffer.alloc(4096);
  using mapping = user.dma.map(memory, { iova: 0x10000 });
  memory.bytes.fill(9, 0, 8);
  edu.start(mapping.iova, BUFFER, 8, false);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(busy(edu)).toBe(true);
  expect(host.software.takeTrace()).toEqual([]);
  expect(host.software.step()).toBe(true);
  expect(busy(edu)).toBe(false);
  expect(host.software.step()).toBe(false);
  expect(host.software.takeTrace()).toEqual([
    { time: 0, what: 'work', device: EDU },
    { time: 0, what: 'dma read', device: EDU },
  ]);
  expect(host.software.takeTrace()).toEqual([]);
});

test('settle() does all work, and moves the clock to it', async () => {
  await host.device(EDU).bind();
  using user = host.attach(EDU);
  using edu = new Edu(user.device);
  using memory = DmaBuffer.alloc(4096);
  using mapping = user.dma.map(memory, { iova: 0x10000 });
  using _fault = host.software.injectFault({ dma: 'delayed', delay: 3_600_000 });
  edu.start(mapping.iova, BUFFER, 8, false);
  await host.software.settle();
  expect(busy(edu)).toBe(false);
  expect(host.software.step()).toBe(false);
});

test.each([true, false])(
  'settle() of a disposed host rejects, with deterministic: %j',
  async (deterministic) => {
    const other = Host.open({ backend: 'software', software: { deterministic } });
    other[Symbol.dispose]();
    await expect(other.software.settle()).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_DISPOSED' }),
    );
  },
);

/** Raises vector 0 at each write. */
class Bell extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f2, classCode: 0xff0000 };
  override readonly msi = 1;
  override readonly bars = [{ size: 4096 }];
  override onWrite(): void {
    this.interrupt(0);
  }
}

test('advance() does what becomes due, in order, and nothing that is due later', () => {
  const bells = ['0000:00:1c.0', '0000:00:1d.0', '0000:00:1e.0'];
  const delays = [30, 10, 20];
  const faults = bells.map((bdf, at) => {
    host.software.addDevice(bdf, new Bell());
    return host.software.injectFault({ interrupt: 'delayed', device: bdf, delay: delays[at] ?? 0 });
  });
  const users = bells.map((bdf) => host.attach(bdf));
  const interrupts = users.map(({ device }) => {
    device.config.busMaster = true;
    const [interrupt] = device.irq('msi').enable(1);
    device.region('bar0').write32(0, 1);
    return interrupt;
  });
  const fired = () => interrupts.map((each) => Number(each?.poll()));
  host.software.advance(9.999999);
  expect(fired()).toEqual([0, 0, 0]);
  host.software.advance(0.000001);
  expect(fired()).toEqual([0, 1, 0]);
  host.software.advance(20);
  expect(fired()).toEqual([1, 0, 1]);
  host.software.advance(1e12);
  host.software.advance(1e12);
  expect(fired()).toEqual([0, 0, 0]);
  expect(host.software.step()).toBe(false);
  for (const each of [...faults, ...users]) each[Symbol.dispose]();
});

const BELLS = ['0000:00:1c.0', '0000:00:1d.0', '0000:00:1e.0'];

/** What three devices do that ring at the same times, with messages that come late or get lost at random. */
function traceOf(seed: number): string[] {
  using machine = Host.open({ backend: 'software', software: { deterministic: true, seed } });
  for (const bdf of BELLS) machine.software.addDevice(bdf, new Bell());
  const users = BELLS.map((bdf) => machine.attach(bdf));
  using _lost = machine.software.injectFault({ interrupt: 'lost', probability: 0.25 });
  using _late = machine.software.injectFault({ interrupt: 'delayed', delay: 5 });
  const seen: string[] = [];
  const interrupts = users.map(({ device }) => {
    device.config.busMaster = true;
    return device.irq('msi').enable(1)[0];
  });
  for (let round = 0; round < 20; round++) {
    for (const { device } of users) device.region('bar0').write32(0, 1);
    while (machine.software.step()) seen.push(interrupts.map((each) => Number(each?.poll())).join());
  }
  for (const each of users) each[Symbol.dispose]();
  return [...seen, ...machine.software.takeTrace().map((each) => Object.values(each).join())];
}

test('the same seed gives the same order, times and trace, and another seed another order', () => {
  expect(traceOf(0)).toEqual(traceOf(0));
  expect(traceOf(3)).toEqual(traceOf(3));
  expect(traceOf(3)).not.toEqual(traceOf(4));
  const orders = new Set([0, 1, 2, 3, 4, 5, 6, 7].map((seed) => traceOf(seed).join(' ')));
  expect(orders.size).toBe(8);
});

test.each(['step', 'advance', 'takeTrace'] as const)('%s on a host with real time is EOPNOTSUPP', (call) => {
  using other = Host.open({ backend: 'software' });
  expect(() => (other.software[call] as (time: number) => unknown)(1)).toThrow(
    expect.objectContaining({ code: 'EOPNOTSUPP', reason: "this host's time is real" }),
  );
});

test.each([-1, Number.NaN, 1e13, '1', undefined])('advance(%j) is refused', (time) => {
  expect(() => host.software.advance(time as never)).toThrow(
    /^Expected a number of milliseconds from 0 to 1e12 for milliseconds/,
  );
});

test.each([
  [{ seed: -1 }, /^Expected an integer from 0 to \d+ for software.seed but received -1/],
  [{ seed: '1' }, /^Expected an integer from 0 to \d+ for software.seed/],
  [{ deterministic: 1 }, /^Expected a boolean for software.deterministic/],
])('%j is refused', (software, message) => {
  expect(() => Host.open({ backend: 'software', software: software as never })).toThrow(message);
});

test("the seed is in the host's report", () => {
  expect(host.report().seed).toBe(0);
  using other = Host.open({ backend: 'software', software: { seed: 12 } });
  expect(other.report().seed).toBe(12);
});

test('a real-time host of the same process goes on by itself', async () => {
  using other = Host.open({ backend: 'software' });
  await other.device(EDU).bind();
  using user = other.attach(EDU);
  using edu = new Edu(user.device);
  using memory = DmaBuffer.alloc(4096);
  using mapping = user.dma.map(memory, { iova: 0x10000 });
  await edu.fetch(mapping.iova, 16);
  expect(busy(edu)).toBe(false);
});
