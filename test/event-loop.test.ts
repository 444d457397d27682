/**
 * The event loop: what keeps a process alive and what does not, which calls run off the loop, and which need no thread at all.
 * Each program is a process of its own, and uses the compiled package.
 */
import { describe, expect, test } from 'vitest';
import { backend, needs } from './support/backends.ts';
import { run } from './support/program.ts';

const patient = { timeout: 60_000 };
const well = (stdout: string) => ({ code: 0, signal: null, stdout, stderr: '' });

describe('a process ends by itself', () => {
  test(
    'with everything open and idle: host, iommufd, mapping, device, registers, interrupt, listener',
    patient,
    async () => {
      const ended = await run(`
      const { host, user, device, dma, registers } = await openEdu();
      const memory = DmaBuffer.alloc(1 << 20);
      const mapping = dma.map(memory);
      const { bytes } = memory;
      const [interrupt] = device.irq('msi').enable(1);
      interrupt.on('interrupt', () => {});
      interrupt.poll();
      globalThis.kept = { host, user, registers, mapping, memory, bytes, interrupt };
      console.log('end');
    `);
      expect(ended).toEqual(well('end\n'));
    },
  );

  test('with DMA in flight, and with an interrupt on its way', patient, async () => {
    const ended = await run(`
      const edu = await openEdu();
      const { iova } = edu.dma.map(DmaBuffer.alloc(4096));
      edu.device.irq('msi').enable(1)[0].on('interrupt', () => {});
      edu.start(0x40000n, iova, 2048, 2 | 4);
      console.log('end');
    `);
    expect(ended).toEqual(well('end\n'));
  });

  test('by process.exit, in the middle of a wait, a mapAsync and a reset', patient, async () => {
    const ended = await run(`
      const edu = await openEdu();
      edu.device.irq('msi').enable(1)[0].wait().catch(() => {});
      edu.dma.mapAsync(DmaBuffer.alloc(64 << 20)).catch(() => {});
      edu.device.reset().catch(() => {});
      console.log('end');
      process.exit(0);
    `);
    expect(ended).toEqual(well('end\n'));
  });

  test('once a wait was answered, timed out, aborted or its interrupt disposed', patient, async () => {
    const ended = await run(`
      const edu = await openEdu();
      const irq = edu.device.irq('msi');
      const [interrupt] = irq.enable(1);
      const say = (promise) => promise.then(String, (error) => (error.name === 'AbortError' ? error.name : error.code));
      irq.trigger(0);
      console.log(await say(interrupt.wait()));
      console.log(await say(interrupt.wait({ timeout: 20 })));
      const over = new AbortController();
      const aborted = say(interrupt.wait({ signal: over.signal }));
      over.abort();
      console.log(await aborted);
      const first = say(interrupt.wait());
      setTimeout(() => interrupt[Symbol.dispose](), 10).unref();
      console.log(await first);
    `);
    expect(ended).toEqual(well('1\nETIMEDOUT\nAbortError\nERR_VFIO_DISPOSED\n'));
  });
});

describe('a pending wait', () => {
  test('keeps the process alive until the interrupt comes, though nothing else does', patient, async () => {
    const ended = await run(`
      const edu = await openEdu();
      const irq = edu.device.irq('msi');
      const [interrupt] = irq.enable(1);
      const since = performance.now();
      interrupt.wait().then((count) => console.log('fired', count, performance.now() - since >= 290));
      setTimeout(() => irq.trigger(0), 300).unref();
    `);
    expect(ended).toEqual(well('fired 1n true\n'));
  });

  test('keeps the process alive for an interrupt that the device raises itself', patient, async () => {
    const ended = await run(`
      const edu = await openEdu();
      const { iova } = edu.dma.map(DmaBuffer.alloc(4096));
      const [interrupt] = edu.device.irq('msi').enable(1);
      interrupt.wait().then((count) => console.log('fired', count));
      edu.start(0x40000n, iova, 64, 2 | 4);
    `);
    expect(ended).toEqual(well('fired 1n\n'));
  });

  test('is not collected, even if only the event loop still refers to it', patient, async () => {
    const ended = await run(`
      const edu = await openEdu();
      const irq = edu.device.irq('msi');
      (() => void irq.enable(1)[0].wait().then((count) => console.log('fired', count)))();
      setTimeout(async () => {
        for (let round = 0; round < 5; round++) {
          gc();
          await turn();
        }
        irq.trigger(0);
      }, 50).unref();
    `);
    expect(ended).toEqual(well('fired 1n\n'));
  });

  test('is answered in the turn in which the interrupt came: no timer polls', patient, async () => {
    const ended = await run(`
      const edu = await openEdu();
      const irq = edu.device.irq('msi');
      const [interrupt] = irq.enable(1);
      held.push(interrupt);
      const timers = () => process.getActiveResourcesInfo().filter((each) => /Timeout|Immediate/.test(each)).length;
      const before = timers();
      const waiting = interrupt.wait();
      console.log('timers', timers() - before);
      irq.trigger(0);
      let turns = 0;
      const count = () => {
        turns++;
        if (turns < 1000) setImmediate(count);
      };
      setImmediate(count);
      console.log(await waiting, turns < ${backend === 'software' ? 5 : 1000});
      turns = 1000;
    `);
    expect(ended).toEqual(well('timers 0\n1n true\n'));
  });
});

test('waiting for vectors takes no thread, however many they are', patient, async () => {
  const ended = await run(`
    import { readdirSync } from 'node:fs';
    const threads = () => readdirSync('/proc/self/task').length;
    const host = Host.open({ backend: ${JSON.stringify(backend)} });
    const devices = [];
    for (const each of host.devices()) {
      if (!((each.vendor === 0x1234 && each.device === 0x11e8) || (each.classCode >>> 8) === 0x0108)) continue;
      if (each.group === null) continue; // VFIO can't use it, in some guests
      await each.bind();
      if (host.group(each.group).viability().viable && !devices.some((other) => other.group === each.group))
        devices.push({ group: each.group, ...host.attach(each.bdf) });
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
    const before = threads();
    const vectors = devices.flatMap(({ device }) => {
      const irq = ['msix', 'msi'].map((each) => device.irq(each)).find((each) => each.count > 0);
      return irq.enable().map((interrupt) => ({ irq, interrupt }));
    });
    held.push(devices, vectors);
    const waits = vectors.map(({ interrupt }) => interrupt.wait());
    await turn();
    console.log(vectors.length >= 2, threads() - before);
    for (const { irq, interrupt } of vectors) irq.trigger(interrupt.vector);
    console.log((await Promise.all(waits)).every((count) => count === 1n), threads() - before);
  `);
  expect(ended).toEqual(well('true 0\ntrue 0\n'));
});

describe('beside the loop', () => {
  // The thread pool has one thread, which is busy: calls on the pool wait, and the loop must go on meanwhile.
  const beside = (call: string) =>
    run(
      `
      import { pbkdf2 } from 'node:crypto';
      const edu = await openEdu();
      const memory = DmaBuffer.alloc(64 << 20);
      let busy = true;
      pbkdf2('a', 'b', 1_000_000, 64, 'sha512', () => (busy = false));
      let turns = 0;
      const count = () => {
        turns++;
        if (!done) setImmediate(count);
      };
      let done = false;
      setImmediate(count);
      const since = performance.now();
      const call = ${call};
      const began = performance.now() - since;
      await call;
      done = true;
      const took = performance.now() - since;
      console.log('after the pool was free:', !busy, 'turns:', turns > 10, 'returned before:', began < took / 10);
      `,
      { UV_THREADPOOL_SIZE: '1' },
    );
  const said = well('after the pool was free: true turns: true returned before: true\n');

  test('mapAsync pins memory while the loop turns', patient, async () => {
    expect(await beside('edu.dma.mapAsync(memory)')).toEqual(said);
  });

  test('reset waits for the device while the loop turns', patient, async () => {
    // A device alone on a root bus has no reset (EINVAL), but the kernel is called off the loop nevertheless.
    expect(
      await beside("edu.device.reset().catch((error) => error.code === 'EINVAL' || process.exit(9))"),
    ).toEqual(said);
  });

  test('unbinding waits for the program that holds the device while the loop turns', patient, async (ctx) => {
    needs(ctx, {
      backends: ['kernel'],
      because: 'the software host answers EBUSY where the kernel makes the writer of unbind wait',
    });
    const ended = await run(`
      const host = Host.open({ backend: ${JSON.stringify(backend)} });
      const device = host.device(EDU);
      await device.bind();
      let turns = 0;
      const tick = setInterval(() => turns++, 1);
      const { spawn } = await import('node:child_process');
      const { once } = await import('node:events');
      const text = \`require('node:fs').openSync('\${device.vfioNode}', 'r+'); console.log(1); setInterval(() => {}, 1000)\`;
      const user = spawn(process.execPath, ['--eval', text], { stdio: ['ignore', 'pipe', 'inherit'] });
      await once(user.stdout, 'data');
      const before = turns;
      const unbinding = device.unbind({ force: true });
      await sleep(1000);
      const during = turns - before;
      user.kill('SIGKILL');
      await unbinding;
      clearInterval(tick);
      console.log(during > 5, device.driver);
      await device.bind();
    `);
    expect(ended).toEqual(well('true null\n'));
  });
});
