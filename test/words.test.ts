/**
 * The command `vfio` on the host of this test run: each reason why a device can't be used is caused there and explained, and the
 * suggested commands repair it. In the guest that is a real kernel, with other processes and an ordinary user.
 * test/command.test.ts has the machines that can't be set up there.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, onTestFinished, test } from 'vitest';
import type { Cause, Host } from '../lib/index.ts';
import { backend, EDU, GROUP_OF_TWO, HOST_DRIVER, needs, openHost } from './support/backends.ts';
import { type Explained, explain, follow, holder, refused, vfio } from './support/command.ts';
import { nobody } from './support/nobody.ts';
import { run } from './support/program.ts';

const [FIRST, SECOND] = GROUP_OF_TWO;
const GROUPS = {
  guest: ['intel', 'amd'],
  because: 'the other guests have no group that can be used',
} as const;
const PROCESSES = { backends: ['kernel'], because: 'it is about other processes of this machine' } as const;
const COMMAND = join(import.meta.dirname, '../dist/vfio-command.js');

describe('A4 A5: why a device cannot be used, and what repairs it:', () => {
  let host: Host;
  const open = async (...bdfs: string[]) => {
    host = openHost();
    for (const bdf of bdfs) await host.device(bdf).bind();
    return host;
  };
  afterEach(() => host[Symbol.dispose]());

  /** The nodes of the group of two, with their owners, on the kernel. */
  const nodes = (bdfs: readonly string[] = GROUP_OF_TWO) => [
    `/dev/vfio/${host.device(bdfs[0] ?? '').group}`,
    ...bdfs.map((bdf) => host.device(bdf).vfioNode ?? ''),
  ];
  const owners = () =>
    spawnSync('stat', ['-c', '%u', ...nodes()], { encoding: 'utf8' })
      .stdout.trim()
      .split('\n');

  /** Checks that the reason is found, and no longer found after the commands. */
  async function repaired(bdf: string, cause: Cause, reason: RegExp | string): Promise<void> {
    const before = await explain(host, bdf);
    expect(before).toMatchObject({ usable: false });
    const found = before.findings.find((each) => each.cause === cause);
    expect(found?.reason).toMatch(reason);
    await follow(host, found?.commands ?? []);
    const after = await explain(host, bdf);
    expect(after.findings.filter((each) => each.blocks)).toEqual([]);
    expect(after.usable).toBe(true);
    host.attach(bdf)[Symbol.dispose]();
  }

  test('it has no driver, or one of the host', async (ctx) => {
    needs(ctx, GROUPS);
    await open();
    await host.device(EDU).unbind();
    await repaired(EDU, 'driver', `${EDU} has no driver`);
    await host.device(EDU).bind(HOST_DRIVER);
    await repaired(EDU, 'driver', `${EDU} is held by driver ${HOST_DRIVER}`);
  });

  test('its group is not viable: the other device is bound to a driver of the host', async (ctx) => {
    needs(ctx, GROUPS);
    await open(FIRST);
    await host.device(SECOND).bind(HOST_DRIVER);
    expect(() => host.attach(FIRST)).toThrow(
      expect.objectContaining({
        code: 'EPERM',
        reason: expect.stringMatching(
          `${FIRST} can't be used while ${SECOND}, in the same group \\d+, is in use by driver ${HOST_DRIVER}`,
        ),
        hint: `Run: vfio bind --group ${FIRST}`,
      }),
    );
    await repaired(FIRST, 'group', `is not viable: ${SECOND} is held by driver ${HOST_DRIVER}`);
  });

  test('user space owns its group: a driver of the host can not be bound', async (ctx) => {
    needs(ctx, GROUPS);
    await open(FIRST, SECOND);
    using _user = host.attach(FIRST);
    const text = await vfio(host, 'bind', SECOND, '--driver', HOST_DRIVER);
    expect(text).toContain(
      `EBUSY: another device of group ${host.device(SECOND).group} is in use by user space`,
    );
    expect(host.device(SECOND).driver).toBe('vfio-pci');
  });

  test('another process has its node open', async (ctx) => {
    needs(ctx, PROCESSES);
    needs(ctx, GROUPS);
    await open(EDU);
    const pid = await holder(`openSync('${host.device(EDU).vfioNode}', 'r+');`);
    const group = host.group(host.device(EDU).group ?? -1);
    expect(group.dmaOwnership).toEqual({ owner: 'user', count: null, fd: null, inferred: true });
    await repaired(EDU, 'open-elsewhere', `process ${pid} (node) has ${EDU} open by its own node`);
    expect(group.dmaOwner).toBe('none');
  });

  test("another process has the group's node open", async (ctx) => {
    needs(ctx, PROCESSES);
    needs(ctx, GROUPS);
    await open(EDU);
    const { group } = host.device(EDU);
    const pid = await holder(`openSync('/dev/vfio/${group}', 'r+');`);
    expect(() => host.attach(EDU, { via: 'group-type1' })).toThrow(
      expect.objectContaining({ code: 'EBUSY' }),
    );
    await repaired(EDU, 'open-elsewhere', `process ${pid} (node) has the node of group ${group} open`);
  });

  test('another process has the other device of the group open', async (ctx) => {
    needs(ctx, PROCESSES);
    needs(ctx, GROUPS);
    await open(FIRST, SECOND);
    const pid = await holder(`openSync('${host.device(SECOND).vfioNode}', 'r+');`);
    await repaired(FIRST, 'open-elsewhere', `process ${pid} (node) has ${SECOND} of the same group`);
  });

  test('there is no /dev/iommu', async (ctx) => {
    needs(ctx, PROCESSES);
    needs(ctx, GROUPS);
    await open(EDU);
    renameSync('/dev/iommu', '/dev/iommu-away');
    try {
      const { findings } = await explain(host, EDU);
      expect(findings).toContainEqual(
        expect.objectContaining({ cause: 'no-iommufd', commands: ['modprobe iommufd'] }),
      );
      expect(() => host.attach(EDU, { via: 'cdev' })).toThrow(
        expect.objectContaining({ path: '/dev/iommu', reason: 'this kernel has no iommufd' }),
      );
      // Groups and containers still work.
      using user = host.attach(EDU);
      expect(user.via).toBe('group-type1');
    } finally {
      renameSync('/dev/iommu-away', '/dev/iommu');
    }
  });

  test('it cannot be reset: a warning', async (ctx) => {
    needs(ctx, GROUPS);
    await open(EDU);
    const { usable, findings } = await explain(host, EDU);
    expect(usable).toBe(true);
    expect(findings).toContainEqual({
      cause: 'no-reset',
      blocks: false,
      reason: `${EDU} can't be reset: the next program finds it as the last one left it`,
      commands: [],
    });
  });

  test('its IOMMU does not isolate interrupts', async (ctx) => {
    needs(ctx, {
      backends: ['kernel'],
      guest: ['virtio'],
      because: 'its IOMMU has no interrupt remapping (test/command.test.ts has such a machine)',
    });
    const of = (module: string) => `/sys/module/${module}/parameters/allow_unsafe_interrupts`;
    const both = [of('iommufd'), of('vfio_iommu_type1')];
    const set = (what: 'N' | 'Y') => {
      for (const path of both) writeFileSync(path, what);
    };
    const are = () => both.map((path) => readFileSync(path, 'utf8').trim());
    // Other tests need the parameters as test/support/backends.ts sets them.
    onTestFinished(() => set('Y'));
    set('N');
    await open(EDU);
    // Each way has a parameter of its own, and the hint names the right one.
    for (const [via, path] of [
      ['cdev', both[0]],
      ['group-iommufd', both[0]],
      ['group-type1', both[1]],
    ] as const)
      expect(() => host.attach(EDU, { via })).toThrow(
        expect.objectContaining({
          code: 'EPERM',
          reason: expect.stringMatching(/does not isolate interrupts \(inferred\)$/),
          hint: expect.stringContaining(`tee ${path} #`),
        }),
      );
    await repaired(EDU, 'interrupts', /does not isolate interrupts \(inferred\)$/);
    expect(are()).toEqual(['Y', 'N']);
    expect(await vfio(host, 'doctor')).toContain(`echo N | tee ${both[0]}\n`);
    set('N');
    renameSync('/dev/iommu', '/dev/iommu-away');
    try {
      await repaired(EDU, 'interrupts', /does not isolate interrupts \(inferred\)$/);
    } finally {
      renameSync('/dev/iommu-away', '/dev/iommu');
    }
    expect(are()).toEqual(['N', 'Y']);
  });

  test('there is no IOMMU', async (ctx) => {
    needs(ctx, {
      backends: ['kernel'],
      guest: ['none'],
      because: 'the others have one (test/command.test.ts has such a machine)',
    });
    await open();
    const { usable, findings } = await explain(host, EDU);
    expect(usable).toBe(false);
    expect(findings[0]).toMatchObject({
      cause: 'iommu-off',
      reason: expect.stringContaining(`${EDU} is in no IOMMU group`),
    });
    expect(await vfio(host, 'doctor')).toMatch(/^fail +IOMMU/m);
  });

  // It starts five programs, which took 62 seconds in a guest beside other work.
  test('A2: the user nobody, with 64 MiB of memory to lock, does all but binding once root has granted it', {
    timeout: 180_000,
  }, async (ctx) => {
    needs(ctx, {
      backends: ['kernel'],
      because: 'it is about the users of this machine (test/command.test.ts: E1)',
    });
    needs(ctx, GROUPS);
    const user = nobody(ctx);
    await open(FIRST, SECOND, EDU);
    const granted = [...nodes(), ...nodes([EDU])];
    // The grant lets everybody open these two nodes, but other tests need them closed to some users.
    const shared = ['/dev/iommu', '/dev/vfio/vfio'].map((path) => ({ path, mode: statSync(path).mode }));
    onTestFinished(() => {
      spawnSync('chown', ['0', ...granted]);
      for (const { path, mode } of shared) chmodSync(path, mode & 0o777);
    });
    const limit = ['prlimit', '--memlock=67108864:67108864', ...user.through];
    const command = (...args: string[]) => {
      const program = join(user.root, 'dist/vfio-command.js');
      const [name = '', ...rest] = [...limit, process.execPath, program, ...args];
      const { status, stdout, stderr } = spawnSync(name, rest, { encoding: 'utf8' });
      return { status, stdout, stderr };
    };
    const before = command('explain', FIRST, '--json');
    expect(before.status, before.stderr).toBe(1);
    const { findings } = JSON.parse(before.stdout) as Explained;
    const denied = findings.find((each) => each.cause === 'permission');
    expect(denied?.reason).toContain(
      '/dev/iommu has mode 0660, owner 0, group 0; this process runs as 65534',
    );
    expect(denied?.commands).toEqual([`sudo vfio grant ${FIRST} --user 65534`]);
    await follow(host, denied?.commands ?? []);
    expect(command('explain', FIRST)).toMatchObject({
      status: 0,
      stdout: expect.stringContaining('can be used'),
    });
    // All nodes of the group, so that none belongs to another user.
    expect(command('explain', SECOND)).toMatchObject({ status: 0 });

    await vfio(host, 'grant', EDU, '--user', 'nobody');
    const body = (what: string) => `
      const user = Host.open({ backend: 'kernel' }).attach(EDU);
      const all = { user, ...drive(user.device), dma: user.dma };
      held.push(all);
      ${what}`;
    const job = body(`console.log(JSON.stringify(await job(all, 'hello')));`);
    const worked = await run(job, {}, 60, limit, user.root);
    expect(worked.stderr).toBe('');
    expect(JSON.parse(worked.stdout)).toEqual([3628800, 'hello']);
    // 60 of the 64 MiB can be mapped, 8 more can't; the mapped memory stays mapped.
    const limited = await run(
      body(`
        user.dma.map(DmaBuffer.alloc(60 << 20));
        try { user.dma.map(DmaBuffer.alloc(8 << 20)); }
        catch ({ code, reason, hint }) { console.log(JSON.stringify({ code, reason, hint })); }
        user.dma.map(DmaBuffer.alloc(1 << 20));`),
      {},
      60,
      limit,
      user.root,
    );
    expect(limited.stderr).toBe('');
    expect(JSON.parse(limited.stdout)).toEqual({
      code: 'ENOMEM',
      reason: expect.stringMatching(
        /^pinning 8\.00 MiB more goes over the locked-memory limit \(RLIMIT_MEMLOCK\) of 64 MiB; this process has 60 MiB pinned/,
      ),
      hint: expect.stringContaining('sudo prlimit --pid $$ --memlock=unlimited:unlimited'),
    });
    expect(command('explain', FIRST, '--memory', '128M')).toMatchObject({
      status: 1,
      stdout: expect.stringContaining(
        'this process can map at most 64 MiB for devices (RLIMIT_MEMLOCK), not 128 MiB',
      ),
    });
    expect(command('unbind', FIRST)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('only root may bind and unbind drivers'),
    });
    // The user owns the nodes, but can't grant them to others.
    expect(command('grant', FIRST, '--user', '65533', '--force')).toMatchObject({ status: 1 });
    expect(owners()).toEqual(['65534', '65534', '65534']);
  });

  test('E1: half a group is granted to nobody', async (ctx) => {
    needs(ctx, GROUPS);
    await open(FIRST);
    await host.device(SECOND).bind(HOST_DRIVER);
    const { group } = host.device(FIRST);
    expect(await vfio(host, 'grant', FIRST, '--user', '65534')).toContain(
      `group ${group} can't be granted in part: ${SECOND} is in use by driver ${HOST_DRIVER}`,
    );
    await host.device(SECOND).bind();
    if (backend === 'kernel') expect(owners()).toEqual(['0', '0', '0']);
  });

  test('bind, unbind and restore: all of a group', async (ctx) => {
    needs(ctx, GROUPS);
    await open();
    for (const bdf of GROUP_OF_TWO) await host.device(bdf).bind(HOST_DRIVER);
    const drivers = () => GROUP_OF_TWO.map((bdf) => host.device(bdf).driver);
    await vfio(host, 'bind', '--group', FIRST);
    expect(drivers()).toEqual(['vfio-pci', 'vfio-pci']);
    host.attach(SECOND)[Symbol.dispose]();
    await vfio(host, 'unbind', '--group', FIRST);
    expect(drivers()).toEqual([null, null]);
    await vfio(host, 'bind', '--group', SECOND);
    expect(await vfio(host, 'list')).toMatch(
      new RegExp(`^${SECOND} .* vfio-pci +\\d+ +/dev/vfio/devices/vfio\\d+$`, 'm'),
    );
  });

  test('a device that another process has open is not unbound, unless it is forced: then the unbind is pending', async (ctx) => {
    needs(ctx, PROCESSES);
    needs(ctx, GROUPS);
    await open(FIRST, SECOND);
    const state = () =>
      GROUP_OF_TWO.map((bdf) => host.device(bdf)).map((each) => [each.driver, each.driverOverride]);
    const before = state();
    for (const node of nodes().slice(0, 2)) {
      const program = await holder(`openSync('${node}', 'r+');`);
      for (const command of ['unbind', 'restore', 'bind --driver uio_pci_generic']) {
        const started = Date.now();
        expect(await refused(host, ...command.split(' '), '--group', FIRST), command).toContain(
          `EBUSY: process ${program} (node) has the device or its group open: ${FIRST}`,
        );
        expect(Date.now() - started).toBeLessThan(3000);
        expect(state()).toEqual(before);
      }
      process.kill(program, 'SIGKILL');
      while (host.group(host.device(FIRST).group ?? -1).dmaOwner !== 'none') await sleep(5);
    }

    const program = await holder(`openSync('${host.device(FIRST).vfioNode}', 'r+');`);
    const text = await refused(host, 'unbind', '--group', '--force', FIRST);
    expect(text).toContain(
      `ETIMEDOUT: the unbind of ${FIRST} from vfio-pci is pending and completes when it is closed: something has the device open (process ${program} (node))`,
    );
    expect(text).toContain(`; not changed: ${SECOND}`);
    expect(text).not.toContain('as it was');
    // Another command meanwhile says so too.
    expect(await refused(host, 'restore', FIRST)).toContain(
      `ETIMEDOUT: a change of the driver of ${FIRST} is under way`,
    );
    process.kill(program, 'SIGKILL');
    await host.device(FIRST).bind();
    expect(state()).toEqual(before);
  });

  test('bind, unbind and restore, each in its own process: the last one says that no driver took the device', async (ctx) => {
    needs(ctx, PROCESSES);
    needs(ctx, GROUPS);
    await open();
    const command = (...args: string[]) => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [COMMAND, ...args], {
        encoding: 'utf8',
      });
      return { status, stdout, stderr };
    };
    const row = (bdf: string) => ['bind', 'unbind', 'restore'].map((name) => command(name, bdf)).at(-1);
    // This guest's kernel has no driver for it (test/command.test.ts tests a restore with one).
    expect(row(EDU)).toMatchObject({
      status: 1,
      stdout: expect.stringMatching(`^${EDU}  no driver -> no driver\n! no driver took ${EDU}`),
    });
    expect(host.device(EDU)).toMatchObject({ driver: null, driverOverride: null });
  });

  test('a restore that fails leaves the device with its driver', async (ctx) => {
    needs(ctx, {
      backends: ['kernel'],
      because:
        'it is about what another host has changed (test/command.test.ts: a device whose driver must wait)',
    });
    needs(ctx, GROUPS);
    await open();
    await host.device(FIRST).bind(HOST_DRIVER);
    await host.device(SECOND).bind();
    using again = openHost();
    const device = again.device(FIRST);
    await device.bind();
    {
      using _user = host.attach(SECOND);
      await expect(device.restore({ force: true })).rejects.toThrow(
        expect.objectContaining({ code: 'EBUSY', reason: expect.not.stringContaining('put back') }),
      );
      expect([device.driver, device.driverOverride]).toEqual(['vfio-pci', 'vfio-pci']);
    }
    await device.restore();
    expect(device.driver).toBe(HOST_DRIVER);
    await device.bind();
  });
});
