/**
 * Several copies of the package in one thread: Jest makes one for each test file and each resetModules, hot reload one for each
 * edit, and two dependencies may each bring their own. They load the same addon, in which each copy has its own state.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { needs } from './support/backends.ts';
import { run } from './support/program.ts';

const root = join(import.meta.dirname, '..');

/** Two copies, each with a host and an open edu device; the first one maps while the second is made. */
const TWO = `
  const BUNDLE = new URL('../vfio.js', PACKAGE).href;
  const MSI = 0xfee00000n;
  const copy = async (query) => {
    const api = await import(BUNDLE + query);
    const host = api.Host.open({ backend: 'software' });
    await host.device(EDU).bind();
    return { ...api, host, user: host.attach(EDU) };
  };
  const errorOf = async (call) => {
    try {
      await call();
    } catch (error) {
      return error;
    }
    return 'no error';
  };
  const first = await copy('');
  const started = errorOf(() => first.user.dma.mapAsync(first.DmaBuffer.alloc(4 << 20), { iova: MSI }));
  const second = await copy('?t=1');
  const all = { first, second };
  held.push(all);
  const say = (what) => console.log(JSON.stringify(what));
`;

const told = async (body: string): Promise<unknown[]> => {
  const { stdout, stderr, code } = await run(TWO + body);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return stdout
    .trim()
    .split('\n')
    .map((line): unknown => JSON.parse(line));
};

describe('a second import of the package', () => {
  needs({ backends: ['software'], because: 'what is under test is ours, and a machine has one edu' });

  test("does not change the first copy's errors: their class, reason and hint, from calls, promises and accessors", async () => {
    const answers = await told(`
      for (const [name, { VfioError, DmaBuffer, Host, VfioDevice, host, user }] of Object.entries(all)) {
        const errors = {
          map: await errorOf(() => user.dma.map(DmaBuffer.alloc(4096), { iova: MSI })),
          mapAsync: await errorOf(() => user.dma.mapAsync(DmaBuffer.alloc(4096), { iova: MSI })),
          register: await errorOf(() => {
            const bar = user.device.region('bar0').mmap();
            user.device.config.memory = false;
            try {
              return bar.read32(0);
            } finally {
              bar[Symbol.dispose]();
            }
          }),
          adopt: await errorOf(() => VfioDevice.fromFd(1_000_000)),
          open: await errorOf(() => host.group(4711)),
        };
        say([name, Object.fromEntries(Object.entries(errors).map(([call, e]) => [call, e instanceof VfioError && e.code]))]);
        say(errors.map.reason);
      }
      const error = await started;
      say([error instanceof first.VfioError, error instanceof second.VfioError]);
    `);
    const codes = { map: 'EINVAL', mapAsync: 'EINVAL', register: 'EIO', adopt: 'EBADF', open: 'ENODEV' };
    const words = '[0xfee00000, 0xfee00fff] touches the reserved range [0xfee00000, 0xfeefffff]';
    expect(answers).toEqual([['first', codes], words, ['second', codes], words, [true, false]]);
  });

  test('does not change disposal: each handle is disposed, and none fails', async () => {
    const answers = await told(`
      await started;
      for (const { user, host, DmaBuffer } of [first, second]) {
        user.dma.map(DmaBuffer.alloc(4096));
        user.device.irq('msi').disable();
        user.device.irq('msi').enable(1);
        const { iommufd } = user.device;
        host[Symbol.dispose]();
        say([user.device, user.dma, iommufd, host].map((each) => each.disposed));
      }
    `);
    expect(answers).toEqual([
      [true, true, true, true],
      [true, true, true, true],
    ]);
  });

  test('makes objects that the first copy refuses in words; descriptors pass between them', async () => {
    const answers = await told(`
      await started;
      const { iommufd } = first.user.device;
      const foreign = second.user.device.iommufd;
      const container = second.host.openContainer();
      for (const call of [
        () => first.user.dma.map(second.DmaBuffer.alloc(4096)),
        () => first.user.device.bind(foreign),
        () => first.user.device.attach(second.user.dma),
        () => first.user.device.hotReset({ groups: [container] }),
        () => iommufd.allocHwpt({ device: second.user.device, parent: first.user.dma }),
        () => (iommufd.vfioCompatIoas = second.user.dma),
        () => first.user.dma.copy(second.user.dma.map(second.DmaBuffer.alloc(4096))),
      ]) {
        const { name, message } = await errorOf(call);
        say(name + ': ' + message);
      }
      const shared = second.VfioDevice.fromFd(first.user.device.fd);
      say(shared.region('bar0').read32(0) === first.user.device.region('bar0').read32(0));
      shared[Symbol.dispose]();
      container[Symbol.dispose]();
    `);
    const foreign = 'which this copy of the package did not make';
    expect(answers).toEqual([
      `TypeError: Expected a DmaBuffer or a slice of one for memory but received DmaBuffer {}, ${foreign}`,
      `TypeError: Expected an Iommufd for iommufd but received Iommufd {}, ${foreign}`,
      `TypeError: Expected an Ioas or a Hwpt for to but received Ioas {}, ${foreign}`,
      expect.stringMatching(/^TypeError: Expected a Group for groups\[0\] but received Container \{/),
      expect.stringMatching(
        `^TypeError: Expected a VfioDevice for device but received VfioDevice .*, ${foreign}$`,
      ),
      `TypeError: Expected an Ioas for vfioCompatIoas but received Ioas {}, ${foreign}`,
      expect.stringMatching(/^TypeError: Expected a mapping for from but received SpaceMapping \{/),
      true,
    ]);
  });

  test('can be done again and again: a copy costs the addon less than 320 KiB', async () => {
    const [kib] = await told(`
      const { readFileSync } = await import('node:fs');
      const { createRequire } = await import('node:module');
      const file = createRequire(PACKAGE)('node-gyp-build').resolve(new URL('../..', PACKAGE).pathname);
      const load = (times) => {
        for (let i = 0; i < times; i++) process.dlopen({ exports: {} }, file);
        gc();
        return Number(/VmRSS:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);
      };
      load(20);
      const before = load(20);
      say((load(100) - before) / 100);
    `);
    expect(kib).toBeLessThan(320);
  });
});

describe('a second installation, with an addon of its own', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'vfio-second-'));
    mkdirSync(join(folder, 'build/Release'), { recursive: true });
    for (const file of ['package.json', 'dist/vfio.js', 'build/Release/vfio.node'])
      cpSync(join(root, file), join(folder, file));
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test('works beside the first, and the guards of both still catch bad accesses', async () => {
    const { stdout, stderr, code } = await run(`
      import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
      const second = await import(${JSON.stringify(join(folder, 'dist/vfio.js'))});
      const file = ${JSON.stringify(join(folder, 'pages'))};
      const answers = [];
      for (const { Host, DmaBuffer, VfioError } of [vfio, second, vfio]) {
        const host = Host.open({ backend: 'software' });
        await host.device(EDU).bind();
        const { dma } = host.attach(EDU);
        try {
          dma.map(DmaBuffer.alloc(4096), { iova: 0xfee00000 });
        } catch (error) {
          answers.push(error instanceof VfioError && /reserved range/.test(error.reason));
        }
        const fd = openSync(file, 'w+');
        ftruncateSync(fd, 8192);
        const pages = DmaBuffer.fromFd(fd, { length: 8192 });
        pages.bytes.fill(7);
        ftruncateSync(fd, 0); // an access to them raises SIGBUS now, for which each addon has a handler
        answers.push(pages.bytes[4096]);
        closeSync(fd);
        host[Symbol.dispose]();
      }
      console.log(JSON.stringify(answers));
    `);
    expect({ stderr, code }).toEqual({ stderr: '', code: 0 });
    expect(JSON.parse(stdout)).toEqual([true, 0, true, 0, true, 0]);
  });
});

describe('under Jest', () => {
  needs({ backends: ['software'], because: 'what is under test is ours, and a machine has one edu' });

  test('each registry of modules has a copy that works, and is collected with its registry', {
    timeout: 120_000,
  }, () => {
    const config = { rootDir: join(root, 'test/jest'), testMatch: ['**/registries.mjs'], transform: {} };
    const { status, stderr } = spawnSync(
      process.execPath,
      [
        '--experimental-vm-modules',
        '--no-warnings',
        join(root, 'node_modules/jest/bin/jest.js'),
        '--runInBand',
        '--detectLeaks',
        '--colors=false',
        '--config',
        JSON.stringify(config),
      ],
      { cwd: root, encoding: 'utf8', env: { ...process.env, NODE_OPTIONS: '', NODE_ENV: 'test' } },
    );
    expect(stderr).toMatch(/^Tests: +2 passed, 2 total$/m);
    expect(stderr).not.toMatch(/leaking memory/);
    expect(status).toBe(0);
  });
});
