/** The network card of vfio/models: two of them with a cable between, each under a driver as users write one. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NicDriver, type NicDriverOptions } from '../examples/nic-driver.ts';
import { Host, type SoftwareHost } from '../lib/index.ts';
import { link, Nic, type NicLink, type NicOptions, nicDescriptor } from '../lib/models/index.ts';
import { needs } from './support/backends.ts';

needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

const A = '0000:00:1c.0';
const B = '0000:00:1d.0';
const { done, badLength, fault, noLink } = nicDescriptor;

let host: SoftwareHost;
beforeEach(() => {
  host = Host.open({ backend: 'software' });
});
afterEach(() => {
  host[Symbol.dispose]();
  // The drivers make no mistakes, except that some tests give the card wrong addresses.
  expect(host.software.report.findings.filter(({ kind }) => kind !== 'unmapped')).toEqual([]);
});

interface Pair extends Disposable {
  readonly models: readonly [Nic, Nic];
  readonly cable: NicLink;
  readonly a: NicDriver;
  readonly b: NicDriver;
}

/** Plugs two cards in, connects them, and opens both. */
function connected(card: NicOptions = {}, a: NicDriverOptions = {}, b: NicDriverOptions = a): Pair {
  const models = [new Nic(card), new Nic(card)] as const;
  const cable = link(...models);
  host.software.addDevice(A, models[0]);
  host.software.addDevice(B, models[1]);
  const drivers = [new NicDriver(host, A, a), new NicDriver(host, B, b)] as const;
  return {
    models,
    cable,
    a: drivers[0],
    b: drivers[1],
    [Symbol.dispose]() {
      for (const each of drivers) each[Symbol.dispose]();
      for (const each of models) expect(each.errors).toEqual([]);
    },
  };
}

/** A frame whose bytes depend on its number. */
const frame = (number: number, length = 64) =>
  Uint8Array.from({ length }, (_, at) => (number * 31 + at * 7 + (at >> 8)) & 0xff);

/** Lets the cards work, and takes what has arrived. */
async function arrived(driver: NicDriver, pair = 0): Promise<Uint8Array[]> {
  await host.software.settle();
  const frames: Uint8Array[] = [];
  driver.receive((each) => frames.push(each.slice()), pair);
  return frames;
}

describe('two network cards', () => {
  test('are found with their address and their link', () => {
    const models = [new Nic({ address: '02:00:00:aa:bb:cc', pairs: 3 }), new Nic()] as const;
    using cable = link(...models);
    host.software.addDevice(A, models[0]);
    using a = new NicDriver(host, A);
    expect(host.device(A)).toMatchObject({ vendor: 0x1af4, device: 0x10f8, classCode: 0x020000 });
    expect([a.address, a.pairs, a.linked]).toEqual(['02:00:00:aa:bb:cc', 3, false]);
    host.software.addDevice(B, models[1]);
    expect([a.linked, cable.disposed]).toEqual([true, false]);
  });

  test('send frames of every length from 64 to 9000 bytes to each other', async () => {
    using pair = connected({}, { bufferSize: 9216, ringSize: 32 });
    const frames = [64, 65, 1500, 1514, 4096, 8999, 9000].map((length, number) => frame(number, length));
    expect(pair.a.send(frames)).toBe(frames.length);
    expect(pair.b.send(frames.slice(2))).toBe(frames.length - 2);
    expect(await arrived(pair.b)).toEqual(frames);
    expect(await arrived(pair.a)).toEqual(frames.slice(2));
  });

  test('keep the order and the bytes of frames, whatever their sizes and those of the rings', async () => {
    const lengths = fc.array(fc.integer({ min: 64, max: 9000 }), { minLength: 1, maxLength: 30 });
    const rings = fc.record({
      sender: fc.integer({ min: 2, max: 40 }),
      receiver: fc.integer({ min: 2, max: 40 }),
    });
    await fc.assert(
      fc.asyncProperty(rings, fc.array(lengths, { minLength: 1, maxLength: 8 }), async (sizes, bursts) => {
        const options = { bufferSize: 9000, interrupts: false };
        using pair = connected(
          {},
          { ...options, ringSize: sizes.sender },
          { ...options, ringSize: sizes.receiver },
        );
        const all = bursts.flat().map((length, number) => frame(number, length));
        const got: Uint8Array[] = [];
        for (let sent = 0; sent < all.length; ) {
          // No more than the receiver has buffers for: nothing is dropped.
          const given = pair.a.send(all.slice(sent, sent + sizes.receiver - 1));
          expect(given).toBeGreaterThan(0);
          sent += given;
          got.push(...(await arrived(pair.b)));
        }
        expect(got).toEqual(all);
        expect(pair.b.registers.ringDropped.read(0)).toBe(0);
        pair[Symbol.dispose]();
        for (const bdf of [A, B]) await host.software.removeDevice(bdf);
      }),
      { numRuns: 15 },
    );
  });

  test('drop and count the frames that find no buffer', async () => {
    using pair = connected({}, { ringSize: 64 }, { ringSize: 8 });
    const frames = Array.from({ length: 20 }, (_, number) => frame(number));
    expect(pair.a.send(frames)).toBe(20);
    expect(await arrived(pair.b)).toEqual(frames.slice(0, 7));
    expect(pair.b.registers.ringDropped.read(0)).toBe(13);
    expect(pair.b.registers.ringDropped.read(0)).toBe(0); // a load clears it
    pair.a.send([frame(99)]);
    expect(await arrived(pair.b)).toEqual([frame(99)]);
  });

  test('take no more frames than there are descriptors', async () => {
    using pair = connected({}, { ringSize: 4 });
    const frames = Array.from({ length: 5 }, (_, number) => frame(number));
    expect(pair.a.send(frames)).toBe(3);
    expect(pair.a.send(frames)).toBe(0);
    await host.software.settle();
    expect(pair.a.send(frames.slice(3))).toBe(2);
  });

  test('have interrupts of each ring alone', async () => {
    using pair = connected({ pairs: 3 });
    const { a, b } = pair;
    for (const each of [...a.interrupts, ...b.interrupts]) each.poll();
    a.send([frame(1), frame(2)], 2);
    expect(await b.interrupts[4]!.wait({ timeout: 5000 })).toBe(1n);
    await host.software.settle();
    const counts = (driver: NicDriver) => driver.interrupts.map((each) => each.poll());
    expect(counts(a)).toEqual([0n, 0n, 0n, 0n, 0n, 1n, 0n]);
    expect(counts(b)).toEqual([0n, 0n, 0n, 0n, 0n, 0n, 0n]);
    expect(await arrived(b, 0)).toEqual([]);
    expect(await arrived(b, 2)).toEqual([frame(1), frame(2)]);
  });

  test('deliver to a pair that the other card has, if it has fewer', async () => {
    const models = [new Nic({ pairs: 4 }), new Nic({ pairs: 2 })] as const;
    using _ = link(...models);
    host.software.addDevice(A, models[0]);
    host.software.addDevice(B, models[1]);
    using a = new NicDriver(host, A);
    using b = new NicDriver(host, B);
    for (let pair = 0; pair < 4; pair++) a.send([frame(pair)], pair);
    expect(await arrived(b, 0)).toEqual([frame(0), frame(2)]);
    expect(await arrived(b, 1)).toEqual([frame(1), frame(3)]);
  });
});

describe('a network card', () => {
  test('marks descriptors that are wrong, and goes on with the next', async () => {
    using pair = connected({}, {}, { bufferSize: 128 });
    const ring = pair.a.rings[1]!;
    const good = frame(7);
    ring.give(good);
    ring.give(good);
    ring.describe(1, 63);
    ring.give(good);
    ring.describe(2, 9001);
    ring.give(good);
    ring.describe(3, 64, 0x7000_0000n);
    ring.give(frame(8, 200)); // longer than a buffer of the receiver
    ring.give(good);
    pair.a.ring(1);
    expect(await arrived(pair.b)).toEqual([good, good]);
    expect([0, 1, 2, 3, 4, 5].map((at) => ring.status(at))).toEqual([
      done,
      done | badLength,
      done | badLength,
      done | fault,
      done,
      done,
    ]);
    expect(pair.b.registers.ringDropped.read(0)).toBe(1);
    expect(host.software.takeFaults()).toMatchObject([{ bdf: A, iova: 0x7000_0000n, write: false }]);
    pair.a.reclaim();
    expect(pair.a.unsent).toBe(3);
  });

  test('marks a buffer that it can not write', async () => {
    using pair = connected();
    pair.b.rings[0]!.describe(0, 2048, 0x7000_0000n);
    pair.a.send([frame(1), frame(2)]);
    expect(await arrived(pair.b)).toEqual([frame(2)]);
    expect(host.software.takeFaults()).toMatchObject([{ bdf: B, iova: 0x7000_0000n, write: true }]);
    expect(pair.b.registers.ringDropped.read(0)).toBe(1);
  });

  test.each([
    ['a base that is not aligned', { base: 8n }],
    ['a length of 1', { length: 1 }],
    ['a length of 65537', { length: 65537 }],
    ['a ring that it does not have', { ring: 2 }],
  ] as const)(
    'does not turn a ring on with %s',
    (_, o: { base?: bigint; length?: number; ring?: number }) => {
      host.software.addDevice(A, new Nic());
      using nic = new NicDriver(host, A);
      const { ringBase, ringLength, ringControl, ringStatus } = nic.registers;
      const ring = o.ring ?? 1;
      ringControl.write({ enable: 0 }, ring);
      ringBase.write(o.base ?? 0n, ring);
      ringLength.write(o.length ?? 8, ring);
      ringControl.write({ enable: 1 }, ring);
      expect(ringControl.field('enable', ring)).toBe(0);
      expect(ringStatus.fields(ring)).toEqual({ badRing: 1, fault: 0 });
      ringStatus.write({ badRing: 1 }, ring);
      expect(ringStatus.read(ring)).toBe(0);
    },
  );

  test('turns a ring off for a tail outside of it, and for descriptors that it can not read', async () => {
    using pair = connected();
    const { ringBase, ringTail, ringControl, ringStatus } = pair.a.registers;
    ringTail.write(256, 1);
    expect([ringControl.field('enable', 1), ringStatus.read(1)]).toEqual([0, 1]);
    ringBase.write(0x7000_0000n, 1);
    ringControl.write({ enable: 1 }, 1);
    ringTail.write(3, 1);
    await host.software.settle();
    expect([ringControl.field('enable', 1), ringStatus.read(1)]).toEqual([0, 3]);
    expect(host.software.takeFaults()).toMatchObject([{ iova: 0x7000_0000n, write: false }]);
  });

  test.each(['function reset', 'reset register'])(
    'drops the frames that are queued at a %s',
    async (kind) => {
      using pair = connected();
      const { a, b } = pair;
      const { ringControl, ringHead, control } = a.registers;
      a.send([frame(1), frame(2)]);
      if (kind === 'function reset') await a.device.reset();
      else control.write({ reset: 1 });
      a.device.config.busMaster = true;
      expect(control.read()).toBe(0);
      expect([0, 1].map((each) => ringControl.read(each))).toEqual([0, 0]);
      expect(await arrived(b)).toEqual([]);
      expect(ringHead.read(1)).toBe(0);
      b.send([frame(3)]); // and the card that was reset receives nothing
      await host.software.settle();
      a.start();
      a.send([frame(4)]);
      b.send([frame(5)]);
      expect(await arrived(b)).toEqual([frame(4)]);
      expect(await arrived(a)).toEqual([frame(5)]);
    },
  );

  test('says that its link has gone, and that frames went nowhere', async () => {
    using pair = connected();
    const { a, b, cable } = pair;
    for (const each of [a, b]) each.registers.status.write({ linkChanged: 1 });
    for (const each of [a, b]) each.interrupts[2]!.poll();
    cable[Symbol.dispose]();
    cable[Symbol.dispose]();
    for (const each of [a, b]) {
      expect(await each.interrupts[2]!.wait({ timeout: 5000 })).toBe(1n);
      expect(each.registers.status.fields()).toEqual({ link: 0, linkChanged: 1 });
    }
    a.send([frame(1)]);
    expect(await arrived(b)).toEqual([]);
    expect(a.rings[1]!.status(0)).toBe(done | noLink);
    a.reclaim();
    expect(a.unsent).toBe(1);
    using again = link(...pair.models);
    expect([a.linked, b.linked, again.disposed]).toEqual([true, true, false]);
    a.send([frame(2)]);
    expect(await arrived(b)).toEqual([frame(2)]);
  });

  test('loses its link when the other card is unplugged', async () => {
    using pair = connected();
    pair.b[Symbol.dispose]();
    await host.software.removeDevice(B);
    await host.software.settle();
    expect(pair.a.linked).toBe(false);
    pair.a.send([frame(1)]);
    await host.software.settle();
    expect(pair.a.rings[1]!.status(0)).toBe(done | noLink);
  });

  test('refuses wrong options, a second cable and a cable to itself', () => {
    const [a, b, c] = [new Nic(), new Nic(), new Nic()];
    using _ = link(a, b);
    expect(() => link(a, c)).toThrow('Expected a Nic without a link for a');
    expect(() => link(c, b)).toThrow('Expected a Nic without a link for b');
    expect(() => link(c, c)).toThrow('Expected another Nic than a for b');
    // @ts-expect-error: no card
    expect(() => link(c, {})).toThrow('Expected a Nic for b');
    expect(() => new Nic({ pairs: 17 })).toThrow(/for pairs/);
    expect(() => new Nic({ address: '02:00:00:00:00' })).toThrow(/for address/);
    // @ts-expect-error: no such option
    expect(() => new Nic({ queues: 1 })).toThrow(/queues/);
  });
});
