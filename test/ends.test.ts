/**
 * How things end: the handles of a device that the program itself unbinds, processes and workers while a change waits for other
 * programs, a device that is unplugged (but not the next one at its address), and changes that run at the same time.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { type NativeHost, native } from '../lib/addon/native.ts';
import { OURS } from '../lib/base/private.ts';
import { Host, VfioDevice } from '../lib/index.ts';
import { PciDevice } from '../lib/system/pci.ts';
import { backend, EDU, GROUP_OF_TWO, HOST_DRIVER, NO_TWO, needs, openHost } from './support/backends.ts';
import { end, message, run, work } from './support/program.ts';

const PENDING = {
  backends: ['kernel'],
  because: 'the software host answers EBUSY where the kernel makes the writer of unbind wait',
} as const;
const IN_GROUPS = {
  guest: ['intel', 'amd', 'virtio'],
  because: 'the other has no IOMMU, so no group',
} as const;
const HOT_PLUG = { backends: ['software'], because: 'unplugs a device, as no system call can' } as const;

const code = (expected: string, reason = /(?:)/) =>
  expect.objectContaining({ code: expected, reason: expect.stringMatching(reason) });
const state = (device: PciDevice) => [device.driver, device.driverOverride];

/** Waits for a condition that becomes true soon. */
async function soon(what: string, is: () => boolean, seconds = 20): Promise<void> {
  for (const until = Date.now() + seconds * 1000; !is(); await sleep(10))
    if (Date.now() > until) throw new Error(`not in ${seconds} s: ${what}`);
}

/** The processes that do such changes. One that has ended counts until this process has reaped it. */
const changing = () =>
  readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const [, name, state, parent] =
        /\((.*)\) (\w) (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
      return name === 'vfio-change' && (state !== 'Z' || Number(parent) === process.pid);
    } catch {
      return false; // the process has just ended
    }
  });

/** Waits until there is none. A process that ends after its object was disposed is reaped by the next call. */
const allGone = () =>
  soon('none is left', () => {
    new native.Host('kernel').readTextWithin('/dev/null', 5000);
    return changing().length === 0;
  });

/** A program of its own that has the device's file open until it is killed. */
async function holder(path: string | null): Promise<{ pid: number; end(): void }> {
  const program = spawn(
    process.execPath,
    [
      '--eval',
      `require('node:fs').openSync(${JSON.stringify(path)}, 'r+'); console.log(1); setInterval(() => {}, 1000)`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const stop = () => void program.kill('SIGKILL');
  onTestFinished(stop);
  await once(program.stdout, 'data');
  return { pid: program.pid ?? -1, end: stop };
}

describe('the handles of a device that this program unbinds', () => {
  needs(IN_GROUPS);
  let host: Host;
  let device: PciDevice;
  beforeEach(async () => {
    host = openHost();
    device = host.device(EDU);
    await device.bind();
  });
  afterEach(async () => {
    await device.bind('vfio-pci', { force: true });
    host[Symbol.dispose]();
  });

  const ways = ['cdev', 'group-iommufd', 'group-type1'] as const;
  const changes: [string, (of: PciDevice, force: boolean) => Promise<void>][] = [
    ['unbind', (of, force) => of.unbind({ force })],
    ['restore', (of, force) => of.restore({ force })],
    ['bind', (of, force) => of.bind(HOST_DRIVER, { force })],
  ];

  test.each(ways)('make the unbind fail with a reason, unless they are disposed first (%s)', async (via) => {
    const user = host.attach(EDU, { via });
    const before = state(device);
    for (const [name, change] of changes)
      await expect(change(device, false), name).rejects.toMatchObject({
        code: 'EBUSY',
        reason: `this process (${process.pid}) has the device or its group open: ${EDU}`,
        hint: expect.stringMatching(`^Dispose it first \\(VfioDevice ${EDU}(, Group \\d+)?\\)`),
      });
    await expect(host.group(device.group ?? -1).unbind()).rejects.toThrow(code('EBUSY'));
    expect(state(device)).toEqual(before);
    expect(user.device.config.vendor).toBe(0x1234);
    user[Symbol.dispose]();
    await device.unbind();
    expect(device.driver).toBeNull();
  });

  test.each(ways.flatMap((via) => changes.map(([name]) => [via, name] as const)))(
    'are disposed if it is forced, with all that was made of them (%s, %s)',
    async (via, name) => {
      const user = host.attach(EDU, { via });
      const mapped = user.device.region('bar0').mmap();
      const [interrupt] = user.device.irq('msi').enable(1);
      const waiting = interrupt?.wait().catch((error: { code: string }) => error.code);
      await changes.find(([each]) => each === name)?.[1](device, true);
      expect([user.device, mapped, interrupt].map((each) => each?.disposed)).toEqual([true, true, true]);
      expect(await waiting).toBe('ERR_VFIO_DISPOSED');
      expect(device.driver).not.toBe('vfio-pci');
      user[Symbol.dispose]();
      await device.bind();
      host.attach(EDU, { via })[Symbol.dispose]();
    },
  );

  test('are found by their files too, if they were opened by a descriptor or a path', async () => {
    const first = host.openDevice(EDU);
    const open = [VfioDevice.fromFd(first.fd), host.openDevice({ path: device.vfioNode ?? '' })];
    first[Symbol.dispose]();
    await expect(device.unbind()).rejects.toThrow(code('EBUSY', /this process/));
    await device.unbind({ force: true });
    expect(open.map((each) => each.disposed)).toEqual([true, true]);
    expect(device.driver).toBeNull();
  });

  test('are not disposed if the change is refused anyway, or if there is nothing to change', async () => {
    using user = host.attach(EDU);
    await expect(device.bind('no-such-driver', { force: true })).rejects.toThrow(code('ENODEV'));
    await device.bind('vfio-pci', { force: true });
    expect(user.device.config.vendor).toBe(0x1234);
  });

  test('another thread, or a descriptor without a handle, that keeps the device open: EBUSY', async () => {
    const first = host.openDevice(EDU);
    const worker = work(
      `
      const device = VfioDevice.fromFd(workerData);
      parentPort.on('message', () => { device[Symbol.dispose](); parentPort.close(); });
      parentPort.postMessage(0);
    `,
      first.fd,
    );
    await message(worker);
    const before = state(device);
    const started = Date.now();
    const refused = code('EBUSY', new RegExp(`${EDU} open by descriptor \\d+`));
    // The first one is a handle of this thread, and is disposed. Then the kernel is not called, since it would wait.
    await expect(device.unbind({ force: true })).rejects.toThrow(refused);
    expect(first.disposed).toBe(true);
    await expect(device.unbind({ force: true })).rejects.toThrow(refused);
    expect(Date.now() - started).toBeLessThan(15_000);
    expect(state(device)).toEqual(before);
    worker.postMessage(0);
    expect(await end(worker)).toBe(0);
    await device.unbind({ force: true });
    expect(device.driver).toBeNull();
  });

  test('of another device in the group are not disposed', async (ctx) => {
    needs(ctx, { guest: ['intel', 'amd'], because: NO_TWO });
    const [first, second] = GROUP_OF_TWO.map((bdf) => host.device(bdf)) as [PciDevice, PciDevice];
    for (const each of [first, second]) await each.bind();
    using container = host.openContainer();
    const group = host.openGroup(first.group ?? -1);
    group.setContainer(container);
    container.setIommu('type1v2');
    const [one, two] = GROUP_OF_TWO.map((bdf) => group.openDevice(bdf)) as [VfioDevice, VfioDevice];
    await first.unbind({ force: true });
    expect([one, two, group].map((each) => each.disposed)).toEqual([true, false, false]);
    expect([first.driver, two.config.vendor]).toEqual([null, 0x1234]);
    await host.group(first.group ?? -1).unbind({ force: true });
    expect([two, group, container].map((each) => each.disposed)).toEqual([true, true, false]);
    expect(second.driver).toBeNull();
    for (const each of [first, second]) await each.bind();
  });
});

describe('a change that waits for other programs', () => {
  needs(PENDING);
  needs(IN_GROUPS);
  let host: Host;
  let device: PciDevice;
  beforeEach(async () => {
    host = openHost();
    device = host.device(EDU);
    await device.bind();
  });
  afterEach(async () => {
    await allGone();
    await device.bind();
    host[Symbol.dispose]();
  });

  const patient = { timeout: 120_000 };

  /** Checks that another program can open it. */
  const usable = async () =>
    expect(
      await run(`
        const edu = await openEdu();
        console.log(await edu.factorial(5));
        edu.host[Symbol.dispose]();
      `),
    ).toEqual({ code: 0, signal: null, stdout: '120\n', stderr: '' });

  test(
    'a program that forces the unbind of a device that it has open can end, and the device is free',
    patient,
    async () => {
      expect(
        await run(`
        const edu = await openEdu();
        const started = Date.now();
        await edu.host.device(EDU).unbind({ force: true });
        console.log(edu.device.disposed, Date.now() - started < 5000);
        process.exit(0);
      `),
      ).toEqual({ code: 0, signal: null, stdout: 'true true\n', stderr: '' });
      expect(device.driver).toBeNull();
      await usable();
    },
  );

  test.each([
    ['exits', 'process.exit(3)', { code: 3, signal: null }],
    ['has nothing more to do', '', { code: 0, signal: null }],
    ['is killed', "process.kill(process.pid, 'SIGKILL')", { code: null, signal: 'SIGKILL' }],
    ['is aborted', 'process.abort()', { code: null, signal: 'SIGABRT' }],
  ])(
    'a program that has it open where /proc does not show it, and %s: it ends, and the device is free',
    patient,
    async (_, ending, how) => {
      // /proc shows no name for a device that was opened by its group; its registers stay mapped; nothing is disposed.
      const program = await run(`
        const host = Host.open({ backend: 'kernel' });
        const device = host.device(EDU);
        const first = host.attach(EDU, { via: 'group-type1' });
        const hidden = VfioDevice.fromFd(first.device.fd);
        const registers = hidden.region('bar0').mmap();
        globalThis.view = registers.buffer;
        const asked = Date.now();
        const error = await device.unbind({ force: true }).catch((error) => error);
        console.log(first.device.disposed, hidden.disposed, error.code, Date.now() - asked < 9000);
        globalThis.held = hidden;
        ${ending}
      `);
      expect(program).toMatchObject({ ...how, stdout: 'true false ETIMEDOUT true\n' });
      await soon('the device has no driver', () => device.driver === null && changing().length === 0);
      await usable();
    },
  );

  test(
    'while another program has it open: this one ends, and the change goes on without it',
    patient,
    async () => {
      const other = await holder(device.vfioNode);
      const started = Date.now();
      expect(
        await run(`
        const host = Host.open({ backend: 'kernel' });
        globalThis.much = DmaBuffer.alloc(64 << 20).bytes.fill(1);
        const error = await host.device(EDU).unbind({ force: true }).catch((error) => error);
        console.log(error.code, error.reason);
      `),
      ).toEqual({
        code: 0,
        signal: null,
        stdout: expect.stringMatching(
          `^ETIMEDOUT the unbind of ${EDU} .*process ${other.pid} \\(node\\)\\)\n$`,
        ),
        stderr: '',
      });
      expect(Date.now() - started).toBeLessThan(40_000);
      const [pid] = changing();
      expect(readdirSync(`/proc/${pid}/fd`).sort()).toEqual(['0', '1']);
      const resident = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
      expect(Number(resident)).toBeLessThan(8192 + 32768); // the rest are pages of files, which all processes share
      const anonymous = /RssAnon:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
      expect(Number(anonymous)).toBeLessThan(4096);
      other.end();
      await soon('the device has no driver', () => device.driver === null && changing().length === 0);
      await usable();
    },
  );

  test(
    'a worker that is stopped meanwhile does not harm the process, and its callback is not called',
    patient,
    async () => {
      const other = await holder(device.vfioNode);
      const worker = work(`
      const host = Host.open({ backend: 'kernel' });
      host.device(EDU).unbind({ force: true }).then(() => process.exit(9), () => process.exit(8));
      await sleep(500);
      parentPort.postMessage(0);
    `);
      await message(worker);
      expect(changing()).toHaveLength(1);
      await worker.terminate();
      other.end();
      await soon('the device has no driver', () => device.driver === null);
      // The next change reaps the child, which nobody else does.
      await device.bind();
      await device.unbind();
      await allGone();
    },
  );

  test(
    'reads and other changes of the device end in time meanwhile, and this thread goes on',
    patient,
    async () => {
      const other = await holder(device.vfioNode);
      await expect(device.unbind({ force: true })).rejects.toThrow(code('ETIMEDOUT'));
      const started = Date.now();
      // A kernel that reads this under the device's lock answers only when the change is over.
      const read = () => {
        try {
          return device.driverOverride;
        } catch (error) {
          return (error as { code: string }).code;
        }
      };
      expect(['vfio-pci', 'ETIMEDOUT']).toContain(read());
      expect(Date.now() - started).toBeLessThan(5000);
      // The next change waits for the one that is under way, and does not call the kernel.
      await expect(device.bind()).rejects.toThrow(code('ETIMEDOUT', /is under way/));
      expect(changing().length).toBeLessThanOrEqual(2);
      const next = device.bind();
      other.end();
      await next;
      expect(state(device)).toEqual(['vfio-pci', 'vfio-pci']);
    },
  );

  test('a descriptor of this process without a handle is found before the kernel is asked', async () => {
    const fd = openSync(device.vfioNode ?? '', 'r+');
    await expect(device.unbind({ force: true })).rejects.toThrow(
      code('EBUSY', RegExp(`by descriptor ${fd},`)),
    );
    expect(changing()).toEqual([]);
    closeSync(fd);
    await device.unbind({ force: true });
  });
});

describe('a kernel call that may wait for ever is made by a process that has nothing else open:', () => {
  // A named pipe that nobody reads makes its writer wait as `unbind` does.
  const setUp = () => {
    const folder = mkdtempSync(join(tmpdir(), 'ends-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const pipe = join(folder, 'pipe');
    expect(spawnSync('mkfifo', [pipe]).status).toBe(0);
    return { folder, pipe };
  };
  const write = (host: NativeHost, path: string, value: string) =>
    new Promise<number>((over) => {
      const alive = setInterval(() => {}, 1000);
      const written = host.write(path, value, (result) => {
        written.dispose();
        clearInterval(alive);
        over(result);
      });
    });
  const BEGIN = `
    const { native } = await import(PACKAGE.replace(/index\\.js$/, 'addon/native.js'));
    const kernel = new native.Host('kernel');
    const write = (path, value, over) => { globalThis.written = kernel.write(path, value, over); };
  `;

  test('it returns the bytes, the text or the errno completely every time, and leaves no process behind', async () => {
    const { folder } = setUp();
    const kernel = new native.Host('kernel');
    const file = join(folder, 'file');
    writeFileSync(file, '');
    expect(await write(kernel, file, 'some text')).toBe(9);
    expect(readFileSync(file, 'utf8')).toBe('some text');
    expect(kernel.readTextWithin(file, 5000)).toBe('some text');
    writeFileSync(file, 'x'.repeat(4096));
    expect(kernel.readTextWithin(file, 5000)).toBe('x'.repeat(4096));
    expect(kernel.readTextWithin(join(folder, 'none'), 5000)).toBeNull();
    expect(await write(kernel, join(folder, 'none'), 'x')).toBe(-2);
    expect(await write(kernel, folder, 'x')).toBe(-21);
    expect(await write(kernel, `/${'x'.repeat(5000)}`, 'x').catch((error) => error.code)).toBe(
      'ENAMETOOLONG',
    );
    const many = Array.from({ length: 50 }, () => write(kernel, file, 'y'));
    expect(new Set(await Promise.all(many))).toEqual(new Set([1]));
    expect(changing()).toEqual([]);
  });

  test('a read that is not answered in time is ETIMEDOUT', async () => {
    const { pipe } = setUp();
    const kernel = new native.Host('kernel');
    expect(() => kernel.readTextWithin(pipe, 20)).toThrow(expect.objectContaining({ code: 'ETIMEDOUT' }));
    await soon('the process is there', () => changing().length === 1);
    writeFileSync(pipe, 'x');
    await allGone();
  });

  test.each([
    ['process.exit(3)', 3],
    ['', 0],
    ['setInterval(() => {}, 1000); setTimeout(() => process.exit(4), 100)', 4],
  ])(
    'the program ends all the same (%s), and the call goes on without its memory and descriptors',
    async (ending, how) => {
      const { pipe } = setUp();
      const ended = await run(`${BEGIN}
      globalThis.much = Buffer.alloc(64 << 20, 1);
      DmaBuffer.alloc(8 << 20).bytes.fill(1);
      write(${JSON.stringify(pipe)}, 'late', () => process.exit(9));
      ${ending}
    `);
      expect(ended).toEqual({ code: how, signal: null, stdout: '', stderr: '' });
      const [pid] = changing();
      await soon('it has one descriptor', () => String(readdirSync(`/proc/${pid}/fd`)) === '0');
      await soon('it waits', () => readFileSync(`/proc/${pid}/stat`, 'utf8').includes(' S '));
      const anonymous = /RssAnon:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
      expect(Number(anonymous)).toBeLessThan(4096);
      process.kill(Number(pid), 'SIGTERM'); // which it ignores
      expect(readFileSync(pipe, 'utf8')).toBe('late');
      await soon('it has ended', () => changing().length === 0);
    },
  );

  test('a worker that is stopped meanwhile gets no result, and the process is reaped later', async () => {
    const { pipe } = setUp();
    const worker = work(`${BEGIN}
      write(${JSON.stringify(pipe)}, 'late', () => process.exit(9));
      parentPort.postMessage(0);
      setInterval(() => {}, 1000);
    `);
    await message(worker);
    await worker.terminate();
    await soon('the process is there', () => changing().length === 1);
    expect(readFileSync(pipe, 'utf8')).toBe('late');
    await allGone();
  });
});

describe('unplugging', () => {
  needs(HOT_PLUG);

  test('two removals of one device do not concern a new device at its address', async () => {
    using host = openHost();
    const { software } = host;
    await host.device(EDU).bind();
    const user = host.openDevice(EDU);
    const both = [software?.removeDevice(EDU), software?.removeDevice(EDU)];
    user[Symbol.dispose]();
    await both[0];
    software?.addDevice(EDU, { model: 'edu' });
    const next = host.openDevice(EDU);
    await both[1];
    expect(host.device(EDU).driver).toBe('vfio-pci');
    next[Symbol.dispose]();
    host.openDevice(EDU)[Symbol.dispose]();
    await sleep(20);
    expect(host.devices().map(({ bdf }) => bdf)).toContain(EDU);
  });

  test('restore does not bind a new device at an address to the driver that the old one had there', async () => {
    using host = openHost();
    const { software } = host;
    software?.addDevice('0000:00:16.0', { model: 'edu' }, { driver: 'nvme' });
    await host.device('0000:00:16.0').bind();
    await software?.removeDevice('0000:00:16.0');
    software?.addDevice('0000:00:16.0', { model: 'edu' }, { driver: null });
    const next = host.device('0000:00:16.0');
    await next.bind();
    await next.restore();
    expect(state(next)).toEqual([null, null]);
  });

  test('any order of plugging, opening, closing and unplugging: each removal concerns one device', async () => {
    const step = fc.constantFrom('plug', 'unplug', 'open', 'close', 'wait');
    let again = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 24 }), async (steps) => {
        using host = Host.open({
          backend: 'software',
          software: { topology: { devices: [{ model: 'edu', bdf: '0000:00:02.0' }] } },
        });
        const { software } = host;
        const bdf = '0000:00:03.0';
        // The model: which device is there, what has it open, which devices are being removed, and which removals concern which.
        let there = 0;
        let count = 0;
        const users: VfioDevice[] = [];
        const leaving = new Set<number>();
        const removals: { of: number; over: boolean }[] = [];
        const present = () => host.devices().some((each) => each.bdf === bdf);
        for (const each of steps) {
          if (there !== 0 && leaving.has(there) && users.length === 0) {
            // It is removed at the next poll.
            const [of] = [there];
            await soon('the removals are over', () => removals.every((one) => one.of !== of || one.over));
            there = 0;
          }
          if (each === 'plug') {
            const plug = () => software?.addDevice(bdf, { model: 'edu' });
            if (there !== 0) expect(plug).toThrow(TypeError);
            else {
              plug();
              there = ++count;
            }
          } else if (each === 'unplug') {
            if (there === 0) {
              await expect(software?.removeDevice(bdf)).rejects.toThrow(code('ENODEV'));
              continue;
            }
            if (leaving.has(there)) again++;
            const removal = { of: there, over: false };
            removals.push(removal);
            leaving.add(there);
            void software?.removeDevice(bdf).then(() => {
              removal.over = true;
            });
          } else if (each === 'open') {
            if (there === 0 || leaving.has(there)) expect(() => host.openDevice(bdf)).toThrow(code('ENODEV'));
            else users.push(host.openDevice(bdf));
          } else if (each === 'close') users.pop()?.[Symbol.dispose]();
          else await sleep(1);
          // No removal ends before its device is removed, and none removes another device.
          for (const { of, over } of removals)
            if (of === there && users.length > 0) expect([of, over]).toEqual([of, false]);
          if (there !== 0 && !leaving.has(there)) expect(present()).toBe(true);
        }
        for (const each of users) each[Symbol.dispose]();
        await soon('all removals are over', () => removals.every((one) => one.over));
        expect(present()).toBe(there !== 0 && !leaving.has(there));
      }),
      { numRuns: 150 },
    );
    expect(again).toBeGreaterThan(10);
  });
});

describe('changes that are asked for at the same time', () => {
  let host: Host;
  beforeEach(() => {
    host = openHost();
  });
  afterEach(() => host[Symbol.dispose]());

  /** A host in its first state: a new software host, or the kernel with its devices reset. */
  async function fresh(): Promise<Host> {
    if (backend === 'software') return openHost();
    for (const bdf of [EDU, ...GROUP_OF_TWO]) {
      await host.device(bdf).bind();
      await host.device(bdf).unbind();
      await host.device(bdf).restore();
    }
    return openHost();
  }
  const outcome = (promise: Promise<void>) =>
    promise.then(
      () => 'done',
      (error: { code?: string; reason?: string }) => `${error.code}: ${error.reason}`,
    );

  interface Step {
    readonly on: string;
    readonly change: string;
    readonly later: number;
  }
  const step: fc.Arbitrary<Step> = fc.record({
    on: fc.constantFrom(EDU, ...GROUP_OF_TWO, 'group'),
    change: fc.constantFrom(
      'bind',
      'bind',
      `bind ${HOST_DRIVER}`,
      'bind pci-stub',
      'bind no-such',
      'unbind',
      'restore',
    ),
    later: fc.constantFrom(0, 0, 0, 1, 3),
  });

  function ask(of: Host, { on, change }: Step): Promise<void> {
    const [name, driver] = change.split(' ');
    const group = of.device(GROUP_OF_TWO[0]).group;
    const target =
      on !== 'group' || group === null ? of.device(on === 'group' ? GROUP_OF_TWO[0] : on) : of.group(group);
    if (name === 'bind') return target.bind(driver ?? 'vfio-pci');
    return name === 'unbind' ? target.unbind() : target.restore();
  }
  const states = (of: Host) => [EDU, ...GROUP_OF_TWO].map((bdf) => state(of.device(bdf)));

  test('have the same results as if they were done one after the other, in the order of the calls', {
    timeout: 300_000,
  }, async (ctx) => {
    needs(ctx, { guest: ['intel', 'amd'], because: NO_TWO });
    const runs = backend === 'software' ? 150 : 8;
    let beside = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 2, maxLength: 10 }), async (steps) => {
        using serial = await fresh();
        const expected: string[] = [];
        for (const each of steps) expected.push(await outcome(ask(serial, each)));
        const result = [expected, states(serial)];
        using crowded = await fresh();
        let under = 0;
        const asked: Promise<string>[] = [];
        for (const each of steps) {
          for (let turn = 0; turn < each.later; turn++) await new Promise((go) => setImmediate(go));
          if (under > 0) beside++;
          under++;
          asked.push(outcome(ask(crowded, each)).finally(() => under--));
        }
        expect([await Promise.all(asked), states(crowded)]).toEqual(result);
      }),
      { numRuns: runs },
    );
    expect(beside).toBeGreaterThan(runs);
  });

  /** A host, the device by it, and the device by another host. */
  function seen(): { own: { dispose(): void }; device: PciDevice; others: PciDevice } {
    const own = new native.Host(backend);
    const shared = own.share();
    onTestFinished(() => shared.dispose());
    return { own, device: new PciDevice(OURS, own, EDU), others: new PciDevice(OURS, shared, EDU) };
  }

  test('a host that is disposed before the change begins: an error, and nothing is changed', async (ctx) => {
    needs(ctx, IN_GROUPS);
    const { own, device, others } = seen();
    await device.bind();
    const asked = [device.unbind(), device.restore(), device.bind('pci-stub'), device.setNumVfs(0)];
    own.dispose();
    for (const each of await Promise.allSettled(asked))
      expect(each).toMatchObject({
        status: 'rejected',
        reason: { code: 'ERR_VFIO_DISPOSED', message: 'The Host was used after it was disposed' },
      });
    expect(state(others)).toEqual(['vfio-pci', 'vfio-pci']);
  });

  test('a host that is disposed during the change: the change is completed', async (ctx) => {
    needs(ctx, IN_GROUPS);
    const { own, device, others } = seen();
    await device.bind(HOST_DRIVER);
    const [change, next] = [device.bind(), device.unbind()];
    while (others.driver !== null) await new Promise((go) => setImmediate(go));
    own.dispose();
    await change;
    await expect(next).rejects.toMatchObject({ code: 'ERR_VFIO_DISPOSED' });
    expect(state(others)).toEqual(['vfio-pci', 'vfio-pci']);
  });

  test('several hosts of the kernel and several threads take turns', { timeout: 120_000 }, async (ctx) => {
    needs(ctx, { backends: ['kernel'], because: 'each software host has devices of its own' });
    await host.device(EDU).bind();
    const workers = [1, 2].map(() =>
      work(`
        const host = Host.open({ backend: 'kernel' });
        const device = host.device(EDU);
        const ends = [];
        for (let round = 0; round < 6; round++)
          ends.push(...await Promise.all([device.unbind(), device.bind(), device.bind('pci-stub')].map(
            (each) => each.then(() => 'done', (error) => error.message))));
        parentPort.postMessage(ends);
      `),
    );
    const said = workers.map(message);
    using second = openHost();
    const ours: Promise<string>[] = [];
    for (let round = 0; round < 6; round++)
      for (const each of [host, second]) {
        ours.push(outcome(each.device(EDU).bind()), outcome(each.device(EDU).unbind()));
        await sleep(1);
      }
    const all = [...(await Promise.all(ours)), ...((await Promise.all(said)) as string[][]).flat()];
    expect(new Set(all)).toEqual(new Set(['done']));
    expect(all).toHaveLength(60);
    const [driver, override] = state(host.device(EDU));
    expect([driver, override === null || override === driver || driver === null]).toEqual([driver, true]);
    await host.device(EDU).bind();
  });

  test('turns: of requests that share a key one is under way at a time, in all threads, in the order of the calls', async () => {
    const kernel = new native.Host('kernel');
    const order: string[] = [];
    const take = (name: string, keys: string[]) =>
      new Promise<() => void>((go) => {
        const turn = kernel.turn(keys, () => {
          order.push(name);
          go(() => turn.end());
        });
      });
    const [a, b, c] = [take('a', ['x']), take('b', ['y', 'x']), take('c', ['y'])];
    const d = take('d', ['z']);
    const endA = await a;
    await d;
    expect(order).toEqual(['a', 'd']);
    // Another thread waits in the same queue, and leaves it when it is stopped.
    const program = `
      const { native } = await import(PACKAGE.replace(/index\\.js$/, 'addon/native.js'));
      globalThis.turn = new native.Host('kernel').turn(['x'], () => parentPort.postMessage('mine'));
      parentPort.postMessage('asked');
      setInterval(() => {}, 1000);
    `;
    const worker = work(program);
    expect(await message(worker)).toBe('asked');
    const e = take('e', ['x']);
    endA();
    const endB = await b;
    const mine = message(worker);
    endB();
    (await c)();
    expect(await mine).toBe('mine');
    expect(order).toEqual(['a', 'd', 'b', 'c']);
    await worker.terminate();
    (await e)();
    (await d)();
    expect(order).toEqual(['a', 'd', 'b', 'c', 'e']);
    kernel.dispose();
  });
});
