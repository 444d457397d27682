/**
 * Worker threads. Several can load the addon at the same time; a descriptor can be passed from one to another; a worker that is
 * stopped during any call does not harm the process, and leaves nothing open.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, test } from 'vitest';
import { DmaBuffer } from '../lib/index.ts';
import { backend, EDU, openHost } from './support/backends.ts';
import { descriptorsAtRest, descriptorsSettle } from './support/collect.ts';
import { startJob } from './support/edu.ts';
import { end, message, run, work } from './support/program.ts';

const running = new Set<Worker>();
afterEach(async () => {
  for (const worker of running) await worker.terminate();
  running.clear();
});

function start(...args: Parameters<typeof work>): Worker {
  const worker = work(...args);
  running.add(worker);
  worker.once('exit', () => running.delete(worker));
  return worker;
}

const patient = { timeout: 60_000 };

describe('several threads', () => {
  test(
    'load the addon at the same time, and each runs the main job on a software host of its own',
    patient,
    async () => {
      const before = await descriptorsAtRest();
      const texts = ['one', 'two two', 'three three three', 'four'];
      const workers = texts.map((text) =>
        start(
          `
        const results = [];
        for (let round = 0; round < 5; round++) {
          const edu = await openEdu('software');
          results.push(await job(edu, workerData));
          edu.host[Symbol.dispose]();
        }
        parentPort.postMessage(results);
      `,
          text,
        ),
      );
      const results = await Promise.all(
        workers.map(async (worker) => [await message(worker), await end(worker)]),
      );
      for (const [at, text] of texts.entries())
        expect(results[at]).toEqual([Array.from({ length: 5 }, () => [3628800, text]), 0]);
      // The host of this thread is not affected.
      await (async () => {
        using host = openHost();
        using own = await startJob(host);
        expect(own.device.config.vendor).toBe(0x1234);
      })();
      expect(await descriptorsSettle(before)).toBe(before);
    },
  );

  test('one after another, none leaves a descriptor behind', patient, async () => {
    const count = backend === 'software' ? 8 : 3;
    const rounds: number[] = [];
    for (let round = 0; round < count; round++) {
      // Nothing is disposed: when a worker ends, everything that it opened is closed.
      const worker = start(`
        const edu = await openEdu('software');
        edu.dma.map(DmaBuffer.alloc(1 << 20));
        edu.device.irq('msi').enable(1)[0].on('interrupt', () => {});
        edu.registers.write32(0x60, 1);
        parentPort.postMessage(0);
      `);
      await message(worker);
      expect(await end(worker)).toBe(0);
      rounds.push(await descriptorsAtRest());
    }
    expect(rounds.at(-1)).toBeLessThanOrEqual(rounds[0]!);
  });
});

describe('a descriptor', () => {
  test('of a device and of an iommufd works in another thread, by fromFd', patient, async () => {
    using host = openHost();
    await host.device(EDU).bind();
    using iommufd = host.openIommufd();
    using device = host.openDevice(EDU);
    device.bind(iommufd);
    const numbers = { iommufd: iommufd.fd, device: device.fd };
    const before = await descriptorsAtRest();
    const worker = start(
      `
      const iommufd = Iommufd.fromFd(workerData.iommufd);
      const device = VfioDevice.fromFd(workerData.device);
      const dma = iommufd.allocIoas();
      device.attach(dma);
      const result = await job({ ...drive(device), dma }, 'in the worker');
      const { vendor } = device.config;
      const own = device.fd !== workerData.device && iommufd.fd !== workerData.iommufd;
      device.detach();
      for (const each of [iommufd, device]) each[Symbol.dispose]();
      parentPort.postMessage({ result, vendor, own, info: [device.disposed, iommufd.disposed] });
    `,
      numbers,
    );
    expect(await message(worker)).toEqual({
      result: [3628800, 'in the worker'],
      vendor: 0x1234,
      own: true,
      info: [true, true],
    });
    expect(await end(worker)).toBe(0);
    expect(await descriptorsSettle(before)).toBe(before);
    // The worker used duplicates: these descriptors are unchanged.
    expect(device.config.vendor).toBe(0x1234);
    using ioas = iommufd.allocIoas();
    device.attach(ioas);
    using memory = DmaBuffer.alloc(4096);
    expect(ioas.map(memory).length).toBe(4096n);
  });

  test('keeps working when the thread that opened it has disposed its own', patient, async () => {
    const host = openHost();
    await host.device(EDU).bind();
    const user = host.attach(EDU);
    const worker = start(
      `
      const device = VfioDevice.fromFd(workerData);
      const { registers, factorial } = drive(device);
      parentPort.postMessage('ready');
      await new Promise((resolve) => parentPort.once('message', resolve));
      registers.write32(0x04, 0xcafe);
      parentPort.postMessage([registers.read32(0x04), await factorial(5), device.config.device]);
    `,
      user.device.fd,
    );
    expect(await message(worker)).toBe('ready');
    user[Symbol.dispose]();
    host[Symbol.dispose]();
    const answer = message(worker);
    worker.postMessage('go on');
    expect(await answer).toEqual([~0xcafe >>> 0, 120, 0x11e8]);
    await end(worker);
  });

  test('that is closed, or no descriptor, is an error in the other thread too', patient, async () => {
    const host = openHost();
    const iommufd = host.openIommufd();
    const { fd } = iommufd;
    host[Symbol.dispose]();
    const worker = start(
      `
      const codes = [];
      for (const call of [() => Iommufd.fromFd(1_000_000), () => VfioDevice.fromFd(-1), () => Iommufd.fromFd(workerData).allocIoas()])
        try {
          call();
          codes.push('none');
        } catch (error) {
          codes.push(error.code);
        }
      parentPort.postMessage(codes);
    `,
      fd,
    );
    const codes = (await message(worker)) as string[];
    expect(codes.slice(0, 2)).toEqual(['EBADF', 'ERR_OUT_OF_RANGE']);
    // Another file may have its number by now.
    expect(codes[2]).toMatch(/^(EBADF|ERR_INVALID_FD_TYPE)$/);
    await end(worker);
  });
});

describe('a worker that is stopped', () => {
  // Each prints `at work` when it is in the middle of its work. They use software hosts on both backends, since the code under
  // test is the same.
  /** A device of the worker's own, on a software host. */
  const plugModel = `
      function plugModel() {
        const { SimulatedDevice } = vfio;
        class Model extends SimulatedDevice {
          identity = { vendor: 0x1af4, device: 0x10f2, classCode: 0xff0000 };
          bars = [{ size: 4096 }];
          express = true;
          functionReset = true;
          pageRequests = true;
          pasidBits = 8;
        }
        const topology = { iommus: [{ kind: 'vtd', pasidBits: 8, pageRequests: 'pri' }], devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }] };
        const host = Host.open({ backend: 'software', software: { topology } });
        const model = new Model();
        host.software.addDevice('0000:00:1c.0', model);
        const user = host.attach('0000:00:1c.0');
        user.device.config.busMaster = true;
        setInterval(() => {}, 1000); // its transfers don't keep the thread alive
        return { host, model, user };
      }`;
  const middles: Record<string, string> = {
    'in a pending wait': `
      const edu = await openEdu('software');
      const [interrupt] = edu.device.irq('msi').enable(1);
      const waiting = [interrupt.wait(), interrupt.wait({ timeout: 60_000 })];
      parentPort.postMessage('at work');
      await Promise.all(waiting);`,
    'while interrupts fire': `
      const edu = await openEdu('software');
      const irq = edu.device.irq('msi');
      const [interrupt] = irq.enable(1);
      parentPort.postMessage('at work');
      interrupt.on('interrupt', () => irq.trigger(0));
      irq.trigger(0);
      for await (const _ of interrupt) irq.trigger(0);`,
    'in mapAsync': `
      const edu = await openEdu('software');
      const memory = DmaBuffer.alloc(64 << 20);
      parentPort.postMessage('at work');
      for (;;) {
        const mappings = await Promise.all(Array.from({ length: 8 }, () => edu.dma.mapAsync(memory)));
        for (const each of mappings) each[Symbol.dispose]();
      }`,
    'in reset': `
      const edu = await openEdu('software');
      parentPort.postMessage('at work');
      for (;;) await Promise.allSettled(Array.from({ length: 8 }, () => edu.device.reset()));`,
    'in calls one after another': `
      const edu = await openEdu('software');
      const memory = DmaBuffer.alloc(4096);
      parentPort.postMessage('at work');
      for (;;) {
        edu.registers.write32(0x04, 1);
        edu.dma.map(memory)[Symbol.dispose]();
        edu.device.irq('msi').enable(1)[0][Symbol.dispose]();
        try {
          edu.registers.read32(1);
        } catch {
          // misaligned on purpose: the error is part of the work
        }
        edu.dma.iovaRanges();
        memory.bytes.fill(1);
        edu.host.devices().map((each) => each.driver);
      }`,
    'while it opens and closes': `
      parentPort.postMessage('at work');
      for (;;) (await openEdu('software')).host[Symbol.dispose]();`,
    'while a device does DMA': `
      const edu = await openEdu('software');
      const memory = DmaBuffer.alloc(4096);
      const { iova } = edu.dma.map(memory);
      parentPort.postMessage('at work');
      for (;;) {
        edu.start(0x40000n, iova, 2048, 2);
        await turn();
      }`,
    'while a model of its own does DMA': `
      const { model, user } = plugModel();
      user.dma.map(DmaBuffer.alloc(1 << 20), { iova: 0x100000n });
      parentPort.postMessage('at work');
      const move = async (way) => {
        for (;;) await model[way](0x100000n, new Uint8Array(1 << 20));
      };
      await Promise.all(['dmaReadAsync', 'dmaWriteAsync', 'dmaReadAsync', 'dmaWriteAsync'].map(move));`,
    'while a model of its own asks for pages': `
      const { model, user } = plugModel();
      const { Sva } = vfio;
      Sva.features(user.device).enable('sva');
      const bond = Sva.bind(user.device);
      bond.setOps({ fault: () => {} });
      parentPort.postMessage('at work');
      const move = async (way) => {
        for (;;) {
          const memory = new Uint8Array(4 << 20);
          await model[way](bond.pointer(memory), new Uint8Array(4 << 20), { pasid: bond.pasid });
          await model[way](0x1000n, new Uint8Array(4096), { pasid: bond.pasid }).catch(() => {});
        }
      };
      await Promise.all(['dmaReadAsync', 'dmaWriteAsync'].map(move));`,
  };
  for (const [name, body] of Object.entries(middles)) {
    test(`${name} does not harm the process, and leaves nothing open`, patient, async () => {
      const before = await descriptorsAtRest();
      for (let round = 0; round < (backend === 'software' ? 10 : 3); round++) {
        const worker = start(plugModel + body);
        expect(await message(worker)).toBe('at work');
        await sleep(round * 3);
        expect(await worker.terminate()).toBe(1);
      }
      expect(await descriptorsSettle(before)).toBe(before);
      using host = openHost();
      using own = await startJob(host);
      expect(own.device.config.vendor).toBe(0x1234);
    });
  }

  test('by process.exit or by an error of its own leaves nothing open either', patient, async () => {
    const before = await descriptorsAtRest();
    const begin = `
      const edu = await openEdu('software');
      const [interrupt] = edu.device.irq('msi').enable(1);
      interrupt.wait().catch(() => {});
      edu.dma.mapAsync(DmaBuffer.alloc(16 << 20));
      edu.device.reset().catch(() => {});
      parentPort.postMessage('at work');`;
    const exits = start(`${begin} process.exit(3);`);
    expect(await Promise.all([message(exits), end(exits)])).toEqual(['at work', 3]);
    const throws = start(`${begin} setTimeout(() => { throw new Error('on purpose'); }, 100);`);
    // An error overtakes a message that was sent just before it, hence the pause.
    const [said, ended] = await Promise.allSettled([message(throws), end(throws)]);
    expect(said).toMatchObject({ value: 'at work' });
    expect(ended).toMatchObject({ status: 'rejected', reason: { message: 'on purpose' } });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await descriptorsSettle(before)).toBe(before);
  });

  test('right after its interrupts were disposed and collected', patient, async () => {
    const before = await descriptorsAtRest();
    for (let round = 0; round < 5; round++) {
      const worker = start(`
        import v8 from 'node:v8';
        import vm from 'node:vm';
        v8.setFlagsFromString('--expose-gc');
        const gc = vm.runInNewContext('gc');
        const edu = await openEdu('software');
        const irq = edu.device.irq('msi');
        for (let time = 0; time < 100; time++) irq.enable(1)[0][Symbol.dispose]();
        gc();
        parentPort.postMessage('at work');
        setImmediate(() => process.exit(0));
      `);
      expect(await message(worker)).toBe('at work');
      expect(await end(worker)).toBe(0);
    }
    expect(await descriptorsSettle(before)).toBe(before);
  });

  test(
    'does not hold up the end of the process, nor does the process crash with workers at work',
    patient,
    async () => {
      const ended = await run(`
      import { Worker } from 'node:worker_threads';
      const body = \`
        const { parentPort, workerData } = require('node:worker_threads');
        import(workerData).then(async ({ Host, DmaBuffer }) => {
          const host = Host.open({ backend: 'software' });
          await host.device('\${EDU}').bind();
          const { device, dma } = host.attach('\${EDU}');
          const memory = DmaBuffer.alloc(16 << 20);
          parentPort.postMessage(0);
          for (;;) {
            device.reset().catch(() => {});
            (await dma.mapAsync(memory))[Symbol.dispose]();
          }
        });\`;
      const workers = Array.from({ length: 3 }, () => new Worker(body, { eval: true, workerData: PACKAGE, execArgv: [] }));
      await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
      console.log('at work');
      process.exit(0);
    `);
      expect(ended).toEqual({ code: 0, signal: null, stdout: 'at work\n', stderr: '' });
    },
  );
});
