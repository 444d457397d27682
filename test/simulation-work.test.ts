/** What simulated devices do beyond the access of a driver: posted jobs, async handlers, loops over doorbells. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Host, RegisterBank, registers, type SoftwareHost } from '../lib/index.ts';
import { needs } from './support/backends.ts';
import { collect, turn } from './support/collect.ts';
import { BELL, Open } from './support/open-device.ts';
import { run } from './support/program.ts';

needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

const BDF = '0000:00:1c.0';

let host: SoftwareHost;
let model: Open;
beforeEach(() => {
  host = Host.open({ backend: 'software' });
  model = new Open();
});
afterEach(() => host[Symbol.dispose]());

/** Plugs the model in, and opens it as a driver does. */
function driver() {
  host.software.addDevice(BDF, model);
  const user = host.attach(BDF);
  user.device.config.busMaster = true;
  return user;
}

describe('a posted job', () => {
  test('runs later, in turn, and settle waits for it and for what it posts', async () => {
    using _ = driver();
    const ran: string[] = [];
    model.later(() => void ran.push('slow'), 20);
    model.later(() => {
      ran.push('first');
      model.later(() => void ran.push('third'));
    });
    model.later(() => void ran.push('second'));
    expect(ran).toEqual([]);
    await host.software.settle();
    expect(ran.filter((each) => each !== 'slow')).toEqual(['first', 'second', 'third']);
    expect(ran).toHaveLength(4);
    await host.software.settle();
  });

  test('is not due before its delay', async () => {
    using _ = driver();
    const began = performance.now();
    let due = 0;
    model.later(() => {
      due = performance.now();
    }, 30.5);
    await host.software.settle();
    expect(due - began).toBeGreaterThanOrEqual(30);
  });

  test('a chain of 200 of them is over when settle is', async () => {
    using _ = driver();
    let left = 200;
    const next = () => {
      if (--left > 0) model.later(next);
    };
    model.later(next);
    await host.software.settle();
    expect(left).toBe(0);
  });

  test('is dropped by a reset and by the removal', async () => {
    using user = driver();
    let ran = 0;
    const { config } = user.device;
    const control = (config.capabilities().find(({ name }) => name === 'Express')?.offset ?? 0) + 8;
    model.later(() => void ran++, 1);
    model.later(() => void ran++);
    config.write16(control, config.read16(control) | 0x8000); // a reset, before this thread can run a job
    await host.software.settle();
    expect(ran).toBe(0);
    model.later(() => void ran++);
    await host.software.settle();
    expect(ran).toBe(1);
    model.later(() => void ran++, 5);
    user[Symbol.dispose]();
    await host.software.removeDevice(BDF);
    await sleep(20);
    expect(ran).toBe(1);
  });

  test('that throws or rejects is an error of the device, with its stack', async () => {
    using _ = driver();
    model.later(function broken() {
      throw new Error('at once');
    });
    model.later(async () => {
      await turn();
      throw new Error('later');
    });
    await host.software.settle();
    expect(model.messages()).toEqual(['post: at once', 'post: later']);
    expect(model.errors[0]?.error).toHaveProperty(
      'stack',
      expect.stringMatching(/broken.*simulation-work\.test/),
    );
  });

  test('is refused in words: no function, no time, no device, in a reset', async () => {
    expect(() => model.later(() => {})).toThrow(/a device that is plugged in/);
    const user = driver();
    expect(() => model.later('x' as never)).toThrow(/a function for job/);
    for (const delay of [-1, Number.NaN, Number.POSITIVE_INFINITY, '1' as never, 1e10])
      expect(() => model.later(() => {}, delay)).toThrow(/milliseconds from 0/);
    model.reset = () => model.later(() => {});
    await user.device.reset();
    expect(model.messages()).toEqual([expect.stringMatching(/^onReset: Expected a device .* not in reset/)]);
    user[Symbol.dispose]();
    await host.software.removeDevice(BDF);
    await collect(() => !model.plugged);
    expect(() => model.later(() => {})).toThrow(/a device that is plugged in/);
  });

  test('of a host that is disposed meanwhile does nothing, and settle rejects', async () => {
    const machine = Host.open({ backend: 'software' });
    machine.software.addDevice(BDF, model);
    let ran = 0;
    for (let each = 0; each < 100; each++) model.later(() => void ran++, each / 10);
    const settled = machine.software.settle();
    machine[Symbol.dispose]();
    await expect(settled).rejects.toThrow(expect.objectContaining({ code: 'ERR_VFIO_DISPOSED' }));
    await collect(() => !model.plugged);
    expect(model.plugged).toBe(false);
  });
});

describe('an async handler', () => {
  test('goes on after the store; settle waits for it, and its rejection is an error of the device', async () => {
    using user = driver();
    const region = user.device.region('bar0');
    const done: bigint[] = [];
    model.write = async (_, value) => {
      await sleep(5);
      if (value === 2n) throw new Error('two');
      done.push(value);
    };
    for (const value of [1, 2, 3]) region.write32(0, value);
    expect(done).toEqual([]);
    await host.software.settle();
    expect(done).toEqual([1n, 3n]);
    expect(model.messages()).toEqual(['onWrite: two']);
  });

  test('of a register bank is one as well', async () => {
    const map = registers({ go: { offset: 0, width: 4 }, wide: { offset: 8, width: 8 } });
    class Banked extends Open {
      readonly bank = new RegisterBank(map, {
        go: {
          onWrite: async (value) => {
            await turn();
            throw new Error(`go ${value}`);
          },
        },
        wide: { onWrite: () => Promise.reject(new Error('wide')) },
      });
      override readonly bars = [{ size: 4096, registers: this.bank }];
    }
    model = new Banked();
    using user = driver();
    user.device.region('bar0').write32(0, 7);
    user.device.region('bar0').write64(8, 7n);
    await host.software.settle();
    expect(model.messages().sort()).toEqual(['onWrite: go 7', 'onWrite: wide']);
  });

  test('rejects in onReset, onPlug and onRemove: errors of the device', async () => {
    model.plug = () => Promise.reject(new Error('plug'));
    model.reset = () => Promise.reject(new Error('reset'));
    model.onRemove = () => Promise.reject(new Error('remove'));
    const user = driver();
    await user.device.reset();
    user[Symbol.dispose]();
    await host.software.removeDevice(BDF);
    await collect(() => model.errors.some(({ during }) => during === 'onRemove'));
    expect(new Set(model.messages())).toEqual(
      new Set(['onPlug: plug', 'onReset: reset', 'onRemove: remove']),
    );
  });

  test('where a value is needed is refused: onRead', async () => {
    model.onRead = (() => Promise.reject(new Error('never told'))) as never;
    using user = driver();
    expect(user.device.region('bar0').read32(0)).toBe(0xffffffff);
    await host.software.settle();
    expect(model.messages()).toEqual([
      expect.stringMatching(/^onRead: Expected a value, which a promise is not/),
    ]);
  });

  test('a thenable that misbehaves is an error of the device', async () => {
    using user = driver();
    const odd = [
      {
        // biome-ignore lint/suspicious/noThenProperty: what is tested
        get then() {
          throw new Error('getter');
        },
      },
      {
        // biome-ignore lint/suspicious/noThenProperty: what is tested
        then() {
          throw new Error('then');
        },
      },
    ];
    for (const each of odd) {
      model.write = () => each as never;
      user.device.region('bar0').write32(0, 1);
    }
    await host.software.settle();
    expect(model.messages()).toEqual(['onWrite: getter', 'onWrite: then']);
  });
});

describe('a loop over a doorbell', () => {
  test('takes the stores in turn, after their handler; settle waits for what it does; it ends at the removal', async () => {
    const seen: unknown[] = [];
    let ended = false;
    model.write = (offset, value) => void seen.push(['handler', offset, value]);
    model.plug = async () => {
      for await (const { bar, offset, width, value } of model.bell()) {
        await sleep(2);
        seen.push([bar, offset, width, value]);
      }
      ended = true;
    };
    const user = driver();
    const region = user.device.region('bar0');
    region.write32(BELL, 1);
    region.write8(BELL, 2);
    region.write32(BELL + 4, 3);
    await host.software.settle();
    expect(seen).toEqual([
      ['handler', BELL, 1n],
      ['handler', BELL, 2n],
      ['handler', BELL + 4, 3n],
      [0, BELL, 4, 1n],
      [0, BELL, 1, 2n],
    ]);
    user[Symbol.dispose]();
    expect(ended).toBe(false);
    await host.software.removeDevice(BDF);
    await collect(() => ended);
    expect([ended, model.errors]).toEqual([true, []]);
    expect(await model.bell().next()).toEqual({ done: true, value: undefined });
  });

  test('drops at a reset what it has not taken, and goes on', async () => {
    using user = driver();
    const bell = model.bell();
    const region = user.device.region('bar0');
    region.write32(BELL, 1);
    await user.device.reset();
    region.write32(BELL, 2);
    expect(await bell.next()).toMatchObject({ value: { value: 2n } });
    const two = [bell.next(), bell.next()];
    region.write32(BELL, 3);
    region.write32(BELL, 4);
    expect(await Promise.all(two)).toMatchObject([{ value: { value: 3n } }, { value: { value: 4n } }]);
    expect(await bell.return?.()).toEqual({ done: true, value: undefined });
    region.write32(BELL, 5);
    expect(await bell.next()).toEqual({ done: true, value: undefined });
    await host.software.settle();
  });

  test('that throws is an error of the function that has it', async () => {
    model.plug = async () => {
      for await (const { value } of model.bell()) throw new Error(`no ${value}`);
    };
    using user = driver();
    user.device.region('bar0').write32(BELL, 9);
    await host.software.settle();
    await turn();
    expect(model.messages()).toEqual(['onPlug: no 9']);
    user.device.region('bar0').write32(BELL, 9);
    await host.software.settle();
  });

  test('two loops have each store both, and a place is checked', async () => {
    using user = driver();
    const [one, two] = [model.bell(), model.bell()];
    user.device.region('bar0').write32(BELL, 1);
    for (const each of [one, two]) expect(await each.next()).toMatchObject({ value: { value: 1n } });
    await one.return?.();
    await two.return?.();
    for (const bar of [6, -1, 'a' as never]) expect(() => model.bell(bar)).toThrow(/for bar/);
    for (const offset of [-1, 0.5, 2 ** 60]) expect(() => model.bell(0, offset)).toThrow(/for offset/);
  });
});

describe('a process', () => {
  test('ends with work of a model under way, and says nothing', async () => {
    const ended = await run(`
      class Busy extends vfio.SimulatedDevice {
        identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
        bars = [{ size: 4096, memory: true }];
        async onPlug() {
          this.post(() => {}, 1000);
          this.memory(0);
          for await (const each of this.doorbell(0, 0)) void each;
        }
      }
      const host = Host.open({ backend: 'software' });
      host.software.addDevice('0000:00:1c.0', new Busy());
      held.push(host);
      void host.software.settle().catch(() => {});
      setTimeout(() => process.exit(0), 20);
    `);
    expect(ended).toMatchObject({ code: 0, stderr: '' });
  });

  test('a worker whose model has jobs and transfers ends, and settle in another thread ends with it', async () => {
    const ended = await run(`
      import { Worker } from 'node:worker_threads';
      const worker = new Worker(${JSON.stringify(`
        const { parentPort, workerData } = process.getBuiltinModule('node:worker_threads');
        import(workerData.package).then((vfio) => {
          class Busy extends vfio.SimulatedDevice {
            identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
            bars = [{ size: 4096 }];
            tick = () => this.post(this.tick);
            onPlug() { this.post(this.tick); }
            onWrite() { return new Promise(() => {}); }
          }
          globalThis.host = vfio.Host.open({ backend: 'software' });
          host.software.addDevice('0000:00:1c.0', new Busy());
          globalThis.device = host.attach('0000:00:1c.0').device;
          device.region('bar0').write32(0, 1);
          host.software.settle().catch(() => {});
          parentPort.postMessage('ready');
          setInterval(() => {}, 1000);
        });
      `)}, { eval: true, workerData: { package: PACKAGE } });
      await new Promise((resolve) => worker.once('message', resolve));
      await sleep(20);
      await worker.terminate();
      console.log('ended');
    `);
    expect(ended).toMatchObject({ code: 0, stdout: 'ended\n' });
  });

  test('a driver of another thread stores, resets and maps while the model works: nothing is lost, nothing crashes', async () => {
    const ended = await run(`
      import { Worker } from 'node:worker_threads';
      class Busy extends vfio.SimulatedDevice {
        identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
        bars = [{ size: 16384, areas: [{ offset: 8192, size: 8192 }] }];
        express = true;
        functionReset = true;
        stores = 0;
        jobs = 0;
        late = 0;
        rings = 0;
        faults = 0;
        resets = 0;
        async onPlug() { for await (const each of this.doorbell(0, 0)) this.rings += each.width; }
        async onWrite(bar, offset, width, value) {
          this.stores++;
          this.memory(0)[8192] = this.stores;
          this.post(() => void this.jobs++);
          await this.dmaReadAsync(value, new Uint8Array(64)).catch(() => void this.faults++);
          this.late++;
        }
        onReset() { this.resets++; }
      }
      const host = Host.open({ backend: 'software' });
      const model = new Busy();
      host.software.addDevice('0000:00:1c.0', model);
      const user = host.attach('0000:00:1c.0');
      const worker = new Worker(${JSON.stringify(`
        const { workerData, parentPort } = process.getBuiltinModule('node:worker_threads');
        import(workerData.package).then(async (vfio) => {
          const device = vfio.VfioDevice.fromFd(workerData.fd);
          const region = device.region('bar0');
          for (let each = 1; each <= 200; each++) {
            region.write32(0, each);
            region.read8(8192);
            region.mmap({ offset: 8192, length: 4096 })[Symbol.dispose]();
            if (each % 10 === 0) await device.reset();
          }
          device[Symbol.dispose]();
        });
      `)}, { eval: true, workerData: { package: PACKAGE, fd: user.device.fd } });
      await new Promise((resolve) => worker.on('exit', resolve));
      await host.software.settle();
      console.log(model.stores, model.late, model.faults, model.resets >= 20, model.jobs <= 200, model.rings <= 800);
      console.log(model.errors.map(({ during, error }) => during + ': ' + error.message).join());
      user[Symbol.dispose]();
      await host.software.removeDevice('0000:00:1c.0');
      host[Symbol.dispose]();
    `);
    expect(ended).toEqual({ code: 0, signal: null, stdout: '200 200 200 true true true\n\n', stderr: '' });
  });
});
