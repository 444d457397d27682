/** Devices written in TypeScript, and drivers that use them: in the driver's thread, and from other threads. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  DmaBuffer,
  DmaError,
  Host,
  RegisterBank,
  type RegisterFile,
  type RegisterWidth,
  registers,
  SimulatedDevice,
  type SoftwareHost,
  view,
} from '../lib/index.ts';
import { needs } from './support/backends.ts';
import { collect } from './support/collect.ts';
import { run } from './support/program.ts';

needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

const BDF = '0000:00:1c.0';

const copier = registers({
  source: { offset: 0x00, width: 8 },
  target: { offset: 0x08, width: 8 },
  length: { offset: 0x10, width: 4 },
  control: {
    offset: 0x14,
    width: 4,
    fields: { start: { bits: 0, access: 'w1s' }, failed: { bits: 1, access: 'w1c' } },
  },
});

/** Copies memory to memory, and raises vector 0. */
class Copier extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f0, classCode: 0xff0000, revision: 3 };
  override readonly msi = 2;
  override readonly express = true;
  override readonly functionReset = true;
  readonly bank = new RegisterBank(copier, {
    control: {
      onWrite: () => {
        const { source, target, length, control } = this.bank.registers;
        if (control.field('start') === 0) return;
        control.update({ start: 0 });
        const bytes = new Uint8Array(length.read());
        try {
          this.dmaRead(source.read(), bytes);
          this.dmaWrite(target.read(), bytes);
        } catch (error) {
          if (!(error instanceof DmaError)) throw error;
          control.update({ failed: 1 });
        }
        this.interrupt(0);
      },
    },
  });
  override readonly bars = [{ size: 4096, registers: this.bank }];
  resets = 0;
  removed = 0;
  override onReset(): void {
    this.resets++;
  }
  override onRemove(): void {
    this.removed++;
  }
}

/** A device that does what a test says. */
class Scripted extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
  override readonly bars = [{ size: 4096 }];
  override readonly express = true;
  override readonly functionReset = true;
  read: (offset: number, width: RegisterWidth) => bigint | number = () => 0;
  write: (offset: number, value: bigint) => void = () => {};
  reset: () => void = () => {};
  override onRead(_: number, offset: number, width: RegisterWidth): bigint | number {
    return this.read(offset, width);
  }
  override onWrite(_: number, offset: number, __: RegisterWidth, value: bigint): void {
    this.write(offset, value);
  }
  override onReset(): void {
    this.reset();
  }
  move(write: boolean, iova: bigint, bytes: Uint8Array): void {
    if (write) this.dmaWrite(iova, bytes);
    else this.dmaRead(iova, bytes);
  }
}

let host: SoftwareHost;
beforeEach(() => {
  host = Host.open({ backend: 'software' });
});
afterEach(() => host[Symbol.dispose]());

describe('a device written in TypeScript', () => {
  test('is found, and driven by registers, DMA and interrupts', async () => {
    const model = new Copier();
    host.software.addDevice(BDF, model);
    expect(model.plugged).toBe(true);
    expect(host.device(BDF)).toMatchObject({
      vendor: 0x1af4,
      device: 0x10f0,
      classCode: 0xff0000,
      driver: 'vfio-pci',
    });
    using user = host.attach(BDF);
    user.device.config.busMaster = true;
    using memory = DmaBuffer.alloc(8192);
    using mapping = user.dma.map(memory);
    memory.write(0, Buffer.from('a driver under test'));
    const [interrupt] = user.device.irq('msi').enable(1);
    using mapped = user.device.region('bar0').mmap();
    for (const registers of [mapped, user.device.region('bar0')]) {
      const r = view(registers, copier);
      r.source.write(mapping.iova);
      r.target.write(mapping.iova + 4096n);
      r.length.write(19);
      r.control.write({ start: 1 });
      expect(await interrupt?.wait({ timeout: 5000 })).toBe(1n);
      expect(Buffer.from(memory.bytes.subarray(4096, 4096 + 19)).toString()).toBe('a driver under test');
      memory.bytes.fill(0, 4096);
      // Where nothing is mapped.
      r.target.write(0x7000_0000n);
      r.control.write({ start: 1 });
      expect(await interrupt?.wait({ timeout: 5000 })).toBe(1n);
      expect(r.control.field('failed')).toBe(1);
      expect(host.software.takeFaults()).toMatchObject([{ bdf: BDF, iova: 0x7000_0000n, write: true }]);
      r.control.update({ failed: 1 });
      expect(r.control.read()).toBe(0);
    }
    await user.device.reset();
    expect(model.resets).toBeGreaterThan(0);
    expect(model.bank.registers.source.read()).toBe(0n);
    interrupt?.[Symbol.dispose]();
  });

  test('sees accesses of every width as the driver makes them', () => {
    const model = new Scripted();
    const seen: unknown[] = [];
    model.read = (offset, width) => {
      seen.push(['read', offset, width]);
      return 0xfedcba9876543210n;
    };
    model.write = (offset, value) => void seen.push(['write', offset, value]);
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    using mapped = user.device.region('bar0').mmap();
    expect(mapped.read8(1)).toBe(0x10);
    expect(mapped.read16(2)).toBe(0x3210);
    expect(mapped.read32(4)).toBe(0x76543210);
    expect(mapped.read64(8)).toBe(0xfedcba9876543210n);
    mapped.write8(1, 0xff);
    mapped.write64(8, 2n ** 64n - 1n);
    expect(seen).toEqual([
      ['read', 1, 1],
      ['read', 2, 2],
      ['read', 4, 4],
      ['read', 8, 8],
      ['write', 1, 0xffn],
      ['write', 8, 2n ** 64n - 1n],
    ]);
  });

  test('can be unplugged while it is open, and does nothing afterwards', async () => {
    const model = new Copier();
    host.software.addDevice(BDF, model);
    const user = host.attach(BDF);
    const removed = host.software.removeDevice(BDF);
    user[Symbol.dispose]();
    await removed;
    await collect(() => model.removed === 1);
    expect([model.removed, model.plugged]).toEqual([1, false]);
    expect(model.bank.write(0x14, 4, 1)).toBe(true); // DMA: an error, and no crash
    expect(model.bank.registers.control.field('failed')).toBe(1);
    expect(() => host.software.addDevice(BDF, model)).toThrow(/never plugged in/);
    host.software.addDevice(BDF, new Copier()); // the place is free
  });

  test('is refused in words where it can be in no machine', () => {
    class Odd extends Scripted {
      override readonly bars = [{ size: 5000 }];
    }
    const odd = new Odd();
    expect(() => host.software.addDevice(BDF, odd)).toThrow(
      /a power of two for device\.bars\[0\]\.size but received 5000/,
    );
    expect(odd.plugged).toBe(false);
    class Misspelt extends Scripted {
      override readonly identity = { vendor: 1, device: 1, classCode: 0, model: 'edu', driver: 'nvme' };
    }
    expect(() => host.software.addDevice(BDF, new Misspelt())).toThrow(/for identity but received 'model'/);
    class NoBank extends Scripted {
      override readonly bars = [{ size: 4096, registers: {} as RegisterFile }];
    }
    expect(() => host.software.addDevice(BDF, new NoBank())).toThrow(
      /an object with read, write and reset for bars\[0\]\.registers/,
    );
    expect(() => host.device(BDF)).toThrow(/there is no PCI device/);
    expect(() => host.software.addDevice('0000:00:10.0', new Scripted())).toThrow(
      /another device|no other device/,
    );
    expect(() => new Scripted().move(true, 0n, new Uint8Array(1))).toThrow(DmaError);
    expect(() => new Scripted().move(true, -1n, new Uint8Array(1))).toThrow(
      /Expected an unsigned 64-bit integer/,
    );
    expect(() => new Scripted().move(true, 0n, 'x' as never)).toThrow(/Expected a Uint8Array for from/);
  });
});

describe('a model that misbehaves is an error of the device, and the process lives:', () => {
  test.each([
    [
      'throws',
      () => {
        throw new Error('broken');
      },
    ],
    [
      'throws what is no error',
      () => {
        throw undefined;
      },
    ],
    [
      'recurses without end',
      function again(): never {
        return again();
      },
    ],
  ])('it %s', async (_, fail) => {
    const model = new Scripted();
    model.read = fail;
    model.write = fail;
    model.reset = fail;
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    using mapped = user.device.region('bar0').mmap();
    expect(mapped.read32(0)).toBe(0xffffffff);
    mapped.write32(0, 1);
    await user.device.reset();
    expect(model.errors.map((each) => each.during)).toEqual(
      expect.arrayContaining(['onRead', 'onWrite', 'onReset']),
    );
  });

  test('it loops for ever, and has a patience', async () => {
    class Looping extends Scripted {
      override readonly patience = 20;
    }
    const model = new Looping();
    const loop = (): never => {
      for (;;);
    };
    Object.assign(model, { read: loop, write: loop, reset: loop });
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    const region = user.device.region('bar0');
    expect(region.read32(0)).toBe(0xffffffff);
    region.write32(0, 1);
    await user.device.reset();
    expect(model.errors.map(({ error }) => (error as Error).message)).toEqual(
      expect.arrayContaining([
        'onRead ran for more than 20 ms and was stopped',
        'onWrite ran for more than 20 ms and was stopped',
        'onReset ran for more than 20 ms and was stopped',
      ]),
    );
    // A function that ends in time is not stopped, also when it reads the same device. A machine under load may need more than 20
    // ms for it.
    const timely = Object.assign(new Scripted(), { patience: 60_000 });
    host.software.addDevice('0000:00:1d.0', timely);
    using other = host.attach('0000:00:1d.0');
    const bar = other.device.region('bar0');
    timely.read = (offset) => (offset === 0 ? bar.read32(4) + 1 : 41);
    expect(bar.read32(0)).toBe(42);
    for (const patience of [0, 1.5, -1, '5', Number.NaN]) {
      const refused = Object.assign(new Scripted(), { patience });
      expect(() => host.software.addDevice('0000:00:1e.0', refused)).toThrow(
        /Expected an integer from 1 to 86400000 for patience/,
      );
    }
  });

  test.each([2, 3])('it loops for ever in a function that %i of its own functions wait for', (depth) => {
    class Looping extends Scripted {
      override readonly patience = 20;
    }
    const model = new Looping();
    let calls = 0;
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    const region = user.device.region('bar0');
    model.write = () => {
      if (++calls < depth) region.write32(0, 1);
      for (;;);
    };
    region.write32(0, 1);
    expect(calls).toBe(depth);
    expect(model.errors.map(({ error }) => (error as Error).message)).toContain(
      'onWrite ran for more than 20 ms and was stopped',
    );
    // The thread and the device go on.
    model.write = () => {};
    region.write32(0, 1);
    expect(region.read32(0)).toBe(0);
  });

  test('a getter of it plugs it in somewhere else', () => {
    const twice = Object.defineProperty(new Scripted(), 'bars', {
      get() {
        Object.defineProperty(twice, 'bars', { value: [{ size: 4096 }] });
        host.software.addDevice('0000:00:1e.0', twice);
        return [{ size: 4096 }];
      },
    });
    expect(() => host.software.addDevice(BDF, twice)).toThrow(/Expected a device that was never plugged in/);
    expect(twice.plugged).toBe(true);
    expect(host.devices().map(({ bdf }) => bdf)).not.toContain(BDF);
  });

  test('it detaches the array that the driver reads into', () => {
    const model = new Scripted();
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    for (let round = 0; round < 50; round++) {
      const into = new Uint8Array(1024);
      model.read = () => {
        if (into.length > 0) structuredClone(into.buffer, { transfer: [into.buffer] });
        return 0x4141414141414141n;
      };
      expect(user.device.region('bar0').readInto(0, into)).toBe(1024);
      expect(into.length).toBe(0);
    }
  });

  test.each(['onRead', 'onReset'])(
    'it ends the process in %s, while another thread waits for it',
    async (name) => {
      const ended = await run(`
      class Last extends vfio.SimulatedDevice {
        identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
        bars = [{ size: 4096 }];
        express = true;
        functionReset = true;
        ${name}() { process.exit(3); }
      }
      const host = Host.open({ backend: 'software' });
      host.software.addDevice('0000:00:1c.0', new Last());
      const user = host.attach('0000:00:1c.0');
      held.push(host, user);
      if (${name === 'onReset'}) await user.device.reset();
      else user.device.region('bar0').read32(0);
    `);
      expect(ended).toMatchObject({ code: 3, stderr: '' });
    },
  );

  test('it returns what is no value', () => {
    const model = new Scripted();
    host.software.addDevice(BDF, model);
    using user = host.attach(BDF);
    for (const value of ['7', {}, 0.5, Number.NaN, 2n ** 70n, -1, null]) {
      model.read = () => value as number;
      expect(user.device.region('bar0').read32(0)).toBeTypeOf('number');
    }
    expect(model.errors.length).toBeGreaterThan(2);
  });

  test("it calls the driver's handles, unplugs itself, disposes the device and the host", async () => {
    const model = new Scripted();
    host.software.addDevice(BDF, model);
    const user = host.attach(BDF);
    const region = user.device.region('bar0');
    const mapped = region.mmap();
    let deep = 0;
    model.read = () => (deep++ < 20 ? mapped.read32(4) + region.read32(8) : 1);
    expect(mapped.read32(0)).toBeTypeOf('number');
    let unplugged: Promise<void> | undefined;
    model.read = () => {
      unplugged = host.software.removeDevice(BDF);
      return 5;
    };
    expect(region.read32(0)).toBe(5);
    model.read = () => {
      mapped[Symbol.dispose]();
      user[Symbol.dispose]();
      return 6;
    };
    expect(mapped.read32(0)).toBe(6);
    await unplugged;

    const other = new Scripted();
    host.software.addDevice('0000:00:1d.0', other);
    const second = host.attach('0000:00:1d.0');
    other.read = () => {
      host[Symbol.dispose]();
      return 7;
    };
    expect(second.device.region('bar0').read32(0)).toBe(7);
    await collect();
  });

  test('it is collected with its host, though nobody unplugs it', async () => {
    let gone = 0;
    const registry = new FinalizationRegistry<undefined>(() => void gone++);
    for (let each = 0; each < 5; each++) {
      const machine = Host.open({ backend: 'software' });
      const model = new Copier();
      machine.software.addDevice(BDF, model);
      registry.register(model, undefined);
      machine[Symbol.dispose]();
    }
    expect(await collect(() => gone >= 4)).toBe(true); // the last one may still be on the stack
  });
});

describe('in other threads', () => {
  const program = `
    import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
    const BDF = '0000:00:1c.0';
    class Counter extends vfio.SimulatedDevice {
      identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
      bars = [{ size: 4096 }];
      count = 0;
      other = undefined;
      onRead(bar, offset) {
        if (offset === 8 && this.other) return this.other.read32(8);
        return ++this.count;
      }
    }
  `;
  const driver = (body: string) =>
    JSON.stringify(`
    const { parentPort, workerData } = process.getBuiltinModule('node:worker_threads');
    import(workerData.package).then(async (vfio) => {
      const device = vfio.VfioDevice.fromFd(workerData.fd);
      const region = device.region('bar0');
      ${body}
      device[Symbol.dispose]();
    });
  `);

  test('a driver reads a model of another thread, which answers between two turns of its loop', async () => {
    const ended = await run(`${program}
      const host = Host.open({ backend: 'software' });
      const model = new Counter();
      host.software.addDevice(BDF, model);
      const user = host.attach(BDF);
      const worker = new Worker(${driver(`
        let sum = 0;
        for (let each = 0; each < 200; each++) sum += region.read32(0);
        parentPort.postMessage(sum);
      `)}, { eval: true, workerData: { package: PACKAGE, fd: user.device.fd } });
      worker.on('message', (sum) => console.log(sum, model.count));
      await new Promise((resolve) => worker.on('exit', resolve));
      user[Symbol.dispose]();
      host[Symbol.dispose]();
    `);
    expect(ended).toEqual({ code: 0, signal: null, stdout: '20100 200\n', stderr: '' });
  });

  test('a model and a driver that wait for each other are told so, and do not hang', async () => {
    const ended = await run(`${program}
      // The worker has a model of its own, whose register 8 reads this thread's model; register 8 of that reads the worker's.
      const host = Host.open({ backend: 'software' });
      const model = new Counter();
      host.software.addDevice(BDF, model);
      const user = host.attach(BDF);
      const worker = new Worker(${JSON.stringify(`
        const { parentPort, workerData } = process.getBuiltinModule('node:worker_threads');
        import(workerData.package).then(async (vfio) => {
          const theirs = vfio.VfioDevice.fromFd(workerData.fd);
          const host = vfio.Host.open({ backend: 'software' });
          class Mirror extends vfio.SimulatedDevice {
            identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
            bars = [{ size: 4096 }];
            onRead() { return theirs.region('bar0').read32(8); }
          }
          const mirror = new Mirror();
          host.software.addDevice('0000:00:1c.0', mirror);
          const user = host.attach('0000:00:1c.0');
          parentPort.on('message', () => {
            parentPort.postMessage(mirror.errors.length);
            user[Symbol.dispose](); host[Symbol.dispose](); theirs[Symbol.dispose](); parentPort.close();
          });
          parentPort.postMessage(user.device.fd);
        });
      `)}, { eval: true, workerData: { package: PACKAGE, fd: user.device.fd } });
      const next = () => new Promise((resolve) => worker.once('message', resolve));
      const there = VfioDevice.fromFd(await next());
      // This thread waits for the worker's model, which asks for this thread's.
      console.log((function MARK() { return there.region('bar0').read32(0); })().toString(16));
      while (model.errors.length === 0) await turn();
      console.log(model.errors.map(({ error }) => error.message).join());
      const [access, waiting] = model.errors[0].error.stack.split('meanwhile, the thread of the model:');
      console.log(access.includes('Mirror.onRead'), waiting.includes('MARK'));
      worker.postMessage('end');
      await next();
      there[Symbol.dispose]();
      user[Symbol.dispose]();
      host[Symbol.dispose]();
    `);
    expect(ended).toEqual({
      code: 0,
      signal: null,
      stdout:
        'ffffffff\nan access to this device was not made: the threads of its model and of its driver wait for each other\ntrue true\n',
      stderr: '',
    });
  });

  test('a driver of another thread goes on when a model has run out of patience', async () => {
    const ended = await run(`${program}
      class Looping extends vfio.SimulatedDevice {
        identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
        bars = [{ size: 4096 }];
        patience = 20;
        onRead() { for (;;); }
      }
      const host = Host.open({ backend: 'software' });
      const model = new Looping();
      host.software.addDevice(BDF, model);
      const user = host.attach(BDF);
      const worker = new Worker(${JSON.stringify(`
        const { parentPort, workerData } = process.getBuiltinModule('node:worker_threads');
        import(workerData.package).then((vfio) => {
          const device = vfio.VfioDevice.fromFd(workerData.fd);
          parentPort.postMessage(device.region('bar0').read32(0));
          device[Symbol.dispose]();
        });
      `)}, { eval: true, workerData: { package: PACKAGE, fd: user.device.fd } });
      console.log((await new Promise((resolve) => worker.once('message', resolve))).toString(16));
      console.log(model.errors.map(({ error }) => error.message).join());
      await worker.terminate();
      user[Symbol.dispose]();
      host[Symbol.dispose]();
    `);
    expect(ended).toEqual({
      code: 0,
      signal: null,
      stdout: 'ffffffff\nonRead ran for more than 20 ms and was stopped\n',
      stderr: '',
    });
  });

  test('the end of a host does not wait for a device that waits for the thread that ends it', async () => {
    const ended = await run(`
      class Neighbour extends vfio.SimulatedDevice {
        identity = { vendor: 0x1af4, device: 0x10f0, classCode: 0xff0000 };
        bars = [{ size: 4096 }];
        onRead() { return 1; }
        fetch(iova) { return this.dmaReadAsync(iova, new Uint8Array(4)); }
      }
      const host = Host.open({ backend: 'software' });
      const [a, b] = [new Neighbour(), new Neighbour()];
      host.software.addDevice('0000:03:04.0', a);
      host.software.addDevice('0000:03:05.0', b);
      for (const each of ['0000:03:01.0', '0000:03:02.0']) await host.device(each).bind();
      const iommufd = host.openIommufd();
      const [first, second] = ['0000:03:04.0', '0000:03:05.0'].map((each) => host.openDevice(each));
      first.bind(iommufd);
      second.bind(iommufd);
      first.config.busMaster = true;
      const fault = host.software.injectFault({ dma: 'delayed', delay: 2 });
      const moved = a.fetch(BigInt((second.config.read32(0x10) & ~0xf) >>> 0)).catch((error) => error.code);
      for (const end = Date.now() + 50; Date.now() < end;); // the engine waits for this thread by now
      host[Symbol.dispose]();
      fault[Symbol.dispose]();
      console.log(await moved);
    `);
    expect(ended).toEqual({ code: 0, signal: null, stdout: 'ERR_VFIO_DMA\n', stderr: '' });
  });

  test('a thread that ends leaves a device that answers nothing', async () => {
    const ended = await run(`${program}
      const worker = new Worker(${JSON.stringify(`
        const { parentPort, workerData } = process.getBuiltinModule('node:worker_threads');
        import(workerData.package).then((vfio) => {
          const host = vfio.Host.open({ backend: 'software' });
          class Mute extends vfio.SimulatedDevice {
            identity = { vendor: 0x1af4, device: 0x10f1, classCode: 0xff0000 };
            bars = [{ size: 4096 }];
            onRead() { return 7; }
          }
          host.software.addDevice('0000:00:1c.0', new Mute());
          const { device } = host.attach('0000:00:1c.0');
          globalThis.held = [host, device];
          parentPort.postMessage(device.fd);
          setInterval(() => {}, 1000);
        });
      `)}, { eval: true, workerData: { package: PACKAGE } });
      const fd = await new Promise((resolve) => worker.once('message', resolve));
      const device = VfioDevice.fromFd(fd);
      const region = device.region('bar0');
      console.log(region.read32(0).toString(16));
      await worker.terminate();
      console.log(region.read32(0).toString(16));
      device[Symbol.dispose]();
    `);
    expect(ended).toEqual({ code: 0, signal: null, stdout: '7\nffffffff\n', stderr: '' });
  });
});
