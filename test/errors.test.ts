/**
 * Errors: the parts of a VfioError, and the reasons and hints for error numbers of the kernel. The limits and permissions are
 * real: a child process runs without a capability, or as the user nobody.
 */
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { DmaBuffer, Host, VfioError } from '../lib/index.ts';
import { backend, EDU, needs, openHost } from './support/backends.ts';
import { nobody } from './support/nobody.ts';
import { run } from './support/program.ts';

/** Runs `body`, which throws, and returns what it threw. */
async function failure(
  body: string,
  through: readonly string[],
  root?: string,
): Promise<Record<string, unknown>> {
  const ended = await run(
    `try { ${body}; console.log('{}'); } catch (error) { console.log(JSON.stringify({ ...error, message: error.message })); }`,
    {},
    60,
    through,
    root,
  );
  expect(ended.stderr).toBe('');
  return JSON.parse(ended.stdout);
}

test('a VfioError says what failed, as data and in a sentence', () => {
  using host = openHost();
  using iommufd = host.openIommufd();
  let caught: unknown;
  try {
    iommufd.destroy(4711);
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(VfioError);
  expect(caught).toBeInstanceOf(Error);
  expect(caught).toMatchObject({
    name: 'VfioError',
    code: 'ENOENT',
    errno: -2,
    syscall: 'ioctl',
    request: 'IOMMU_DESTROY',
  });
  expect((caught as VfioError).message).toBe('ENOENT: no such object, ioctl IOMMU_DESTROY');
  expect((caught as VfioError).stack).toContain('errors.test.ts');
});

test('a reason and a hint are in the message too', () => {
  using host = openHost();
  using iommufd = host.openIommufd();
  const ioas = iommufd.allocIoas();
  using memory = DmaBuffer.alloc(4096);
  ioas.map(memory, { iova: 0x1000 });
  expect(() => ioas.map(memory, { iova: 0x1000 })).toThrow(
    'EEXIST: already there, ioctl IOMMU_IOAS_MAP ([0x1000, 0x1fff] overlaps the mapping [0x1000, 0x1fff])',
  );
});

test('no iommufd: the error says which kernel option, and that there is a software host', (ctx) => {
  if (existsSync('/dev/iommu')) ctx.skip('this machine has /dev/iommu');
  using host = Host.open({ backend: 'kernel' });
  expect(() => host.openIommufd()).toThrow(
    expect.objectContaining({
      code: 'ENOENT',
      syscall: 'open',
      path: '/dev/iommu',
      reason: 'this kernel has no iommufd',
      hint: expect.stringContaining('CONFIG_IOMMUFD'),
    }),
  );
});

test('over the locked-memory limit: the error says the limit, the need, and how to raise the limit', async () => {
  const error = await failure(
    `const { dma } = await openEdu('${backend}');
     dma.map(DmaBuffer.alloc(1 << 15));
     dma.map(DmaBuffer.alloc(1 << 20))`,
    ['prlimit', '--memlock=65536:65536', 'setpriv', '--bounding-set=-ipc_lock', '--inh-caps=-ipc_lock'],
  );
  expect(error).toMatchObject({
    code: 'ENOMEM',
    request: 'IOMMU_IOAS_MAP',
    reason: expect.stringMatching(
      /^pinning 1\.00 MiB more goes over the locked-memory limit .* of 0\.06 MiB; this process has 0\.03 MiB pinned/,
    ),
    hint: expect.stringContaining('prlimit --pid $$ --memlock=unlimited:unlimited'),
  });
});

test('a node that may not be opened: the error says its mode, its owner, and the user of this process', async (ctx) => {
  needs(ctx, {
    backends: ['kernel'],
    because: 'it is about the users of this machine (the software host has its own: test/command.test.ts)',
  });
  using host = openHost();
  await host.device(EDU).bind();
  const { through, root } = nobody(ctx);
  const denied = (body: string) => failure(body, through, root);
  expect(await denied(`Host.open({ backend: 'kernel' }).openIommufd()`)).toMatchObject({
    code: 'EACCES',
    path: '/dev/iommu',
    reason: expect.stringMatching(
      /^\/dev\/iommu has mode 0\d{3}, owner 0, group 0; this process runs as 65534$/,
    ),
    hint: expect.stringContaining('sudo vfio grant BDF --user 65534'),
  });
  expect(await denied(`Host.open({ backend: 'kernel' }).openDevice(EDU)`)).toMatchObject({
    code: 'EACCES',
    reason: expect.stringContaining(`${host.device(EDU).vfioNode} has mode`),
  });
  expect(await denied(`await Host.open({ backend: 'kernel' }).device(EDU).unbind()`)).toMatchObject({
    code: 'EACCES',
    reason: 'only root may bind and unbind drivers',
  });
});

test('A4: a group with a device bound to a host driver: the error says which device, and what to do', async () => {
  // A driver that does DMA for the kernel, on either host.
  const driver = backend === 'kernel' ? 'uio_pci_generic' : 'nvme';
  using host = openHost();
  await host.device('0000:03:01.0').bind();
  const sibling = host.device('0000:03:02.0');
  await sibling.bind(driver);
  try {
    expect(host.group(sibling.group ?? -1).viability()).toMatchObject({
      viable: false,
      blockers: [{ bdf: '0000:03:02.0', driver }],
    });
    expect(host.group(sibling.group ?? -1).dmaOwner).toBe('kernel');
    expect(() => host.attach('0000:03:01.0')).toThrow(
      expect.objectContaining({
        code: 'EPERM',
        request: 'VFIO_DEVICE_BIND_IOMMUFD',
        reason: `0000:03:01.0 can't be used while 0000:03:02.0, in the same group ${sibling.group}, is in use by driver ${driver}`,
        hint: 'Run: vfio bind --group 0000:03:01.0',
      }),
    );
  } finally {
    await sibling.bind();
  }
  using user = host.attach('0000:03:01.0');
  expect(user.via).toBe('cdev');
});

test('without a descriptor left, opening is an error and no crash', async (ctx) => {
  needs(ctx, { backends: ['software'], because: 'a kernel host opens nothing before it is asked to' });
  const ended = await run(
    `const hosts = []; let error;
     try { for (let i = 0; i < 200; i++) hosts.push(Host.open({ backend: 'software' })); } catch (e) { error = e; }
     console.log(error.code, error.syscall);`,
    {},
    60,
    ['prlimit', '--nofile=80:80'],
  );
  expect(ended).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^EMFILE (eventfd|memfd_create)\n$/),
    stderr: '',
  });
});

test('unknown options are refused, not ignored', () => {
  expect(() => Host.open({ hardware: {} } as object)).toThrow(
    "Expected only 'backend' and 'software' for options but received 'hardware'",
  );
});
