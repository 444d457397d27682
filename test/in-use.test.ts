/**
 * Devices that a real kernel uses: a disk that is mounted, used as swap space, or claimed by a user that can't be seen; a
 * network card that is up. The command `vfio` says so and refuses to change the driver, and the commands that it suggests, run
 * by a shell as they are, make it possible. test/uses.test.ts tests the same on files, test/command.test.ts on a simulated host.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import type { Host } from '../lib/index.ts';
import { needs, openHost } from './support/backends.ts';
import { explain, follow, holder, program, refused, vfio } from './support/command.ts';

/** A network card and a disk, each alone in its group. */
const CARD = '0000:00:16.0';
const DISK = '0000:00:17.0';
/** An edu and a disk behind the same bridge, which does not isolate them. */
const WANTED = '0000:06:01.0';
const NEIGHBOUR = '0000:06:02.0';
const BRIDGE = '0000:05:00.0';

const COMMAND = join(import.meta.dirname, '../dist/vfio-command.js');

/** Runs lines in a shell, which stops at the first one that fails. */
function shell(...lines: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync('sh', ['-ec', lines.join('\n')], { encoding: 'utf8' });
  return { status, stdout, stderr };
}

/** The same; none of the lines may fail. */
function run(...lines: string[]): string {
  const { status, stdout, stderr } = shell(...lines);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout;
}

async function kill(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL');
  while (shell(`kill -0 ${pid}`).status === 0) await sleep(5);
}

/** The disk or interface that the driver of a virtio device has made of it: vda, eth0. */
function madeOf(bdf: string, kind: 'block' | 'net'): string {
  const device = `/sys/bus/pci/devices/${bdf}`;
  const virtio = readdirSync(device).find((name) => /^virtio\d+$/.test(name));
  const [name] = readdirSync(`${device}/${virtio}/${kind}`);
  return name ?? '';
}
const nodeOf = (bdf: string) => `/dev/${madeOf(bdf, 'block')}`;

/** An empty folder to mount on. */
function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'mounted-'));
  onTestFinished(() => {
    shell(`! mountpoint -q ${path} || umount ${path}`);
    rmdirSync(path);
  });
  return path;
}

/** A file system, mounted, with a file in it. */
function mounted(node: string): string {
  const path = folder();
  run(`mkfs.ext2 -q -F ${node}`, `mount ${node} ${path}`, `echo kept >${path}/file`, 'sync');
  return path;
}

describe('A4 A5: a device that the kernel uses:', () => {
  needs({
    backends: ['kernel'],
    guest: ['intel', 'amd'],
    because: 'it takes disks and a network card of a real kernel, in groups that can be used',
  });
  const all = [CARD, DISK, NEIGHBOUR];
  let host: Host;
  const driverOf = (bdf: string) => host.device(bdf).driver;
  const restore = () => vfio(host, 'restore', ...all);
  beforeEach(async () => {
    host = openHost();
    // Other tests may have left them bound to another driver.
    await restore();
    await vfio(host, 'unbind', WANTED);
    expect(all.map(driverOf)).toEqual(all.map(() => 'virtio-pci'));
  });
  afterEach(async () => {
    await restore();
    host[Symbol.dispose]();
  });

  /** Checks that the uses are found, that changes are refused and change nothing, and that the commands make it work. */
  async function repaired(bdf: string, ...uses: { reason: string; command: string }[]): Promise<void> {
    const before = await explain(host, bdf);
    expect(before.findings[0]).toEqual({
      cause: 'driver',
      blocks: true,
      reason: `${bdf} is held by driver virtio-pci (${uses.map((each) => each.reason).join(', ')})`,
      commands: [...uses.map((each) => each.command), `vfio bind ${bdf}`],
    });
    for (const change of [['bind'], ['bind', '--group'], ['unbind']])
      expect(await refused(host, ...change, bdf)).toContain(
        `EBUSY: the kernel uses ${bdf}: ${uses[0]?.reason}`,
      );
    expect([driverOf(bdf), host.device(bdf).driverOverride]).toEqual(['virtio-pci', null]);
    await follow(host, before.commands);
    expect(await explain(host, bdf)).toMatchObject({ usable: true });
    expect(driverOf(bdf)).toBe('vfio-pci');
  }

  test('a mounted disk; its content is there when it is bound to its driver again', async () => {
    const path = mounted(nodeOf(DISK));
    const name = madeOf(DISK, 'block');
    await repaired(DISK, { reason: `disk ${name} is mounted on ${path}`, command: `umount ${path}` });
    await restore();
    expect(run(`mount ${nodeOf(DISK)} ${path}`, `cat ${path}/file`)).toBe('kept\n');
  });

  test('the same in a shell, where each command is a process', () => {
    const path = mounted(nodeOf(DISK));
    const ours = `vfio() { '${process.execPath}' '${COMMAND}' "$@"; }`;
    expect(shell(ours, `vfio bind ${DISK}`)).toEqual({
      status: 1,
      stdout: '',
      stderr: expect.stringMatching(
        new RegExp(
          `EBUSY: the kernel uses ${DISK}: disk vd. is mounted on ${path}\\n.*Run: umount ${path}\\n$`,
        ),
      ),
    });
    const { status, stdout } = shell(ours, `vfio explain ${DISK}`);
    expect(status).toBe(1);
    const suggested = stdout.slice(stdout.indexOf('To make it usable:\n')).split('\n').slice(1);
    run(ours, ...suggested, `vfio explain ${DISK}`);
    expect(driverOf(DISK)).toBe('vfio-pci');
  });

  test('a disk that is mounted twice, and forced: the mounts fail until it is bound to its driver again', async () => {
    const [first, second] = [mounted(nodeOf(DISK)), folder()];
    run(`mount ${nodeOf(DISK)} ${second}`);
    expect((await explain(host, DISK)).commands).toEqual([
      `umount ${first}`,
      `umount ${second}`,
      `vfio bind ${DISK}`,
    ]);
    expect(await vfio(host, 'bind', '--force', DISK)).toContain(`${DISK}  virtio-pci -> vfio-pci`);
    for (const use of [`cat ${first}/file`, `echo lost >${second}/other`])
      expect(shell(use)).toMatchObject({
        stderr: expect.stringContaining('Input/output error'),
      });
    run(`umount ${first} ${second}`);
    await restore();
    expect(run(`mount ${nodeOf(DISK)} ${first}`, `cat ${first}/file`)).toBe('kept\n');
  });

  test('a disk with a partition that is mounted, which is reported once', async () => {
    const node = nodeOf(DISK);
    const table = Buffer.alloc(512);
    // One partition, of type 0x83, of 16384 sectors from number 2048 on.
    table.set([0x83], 446 + 4);
    table.writeUInt32LE(2048, 446 + 8);
    table.writeUInt32LE(16384, 446 + 12);
    table.writeUInt16LE(0xaa55, 510);
    const write = (sector: Buffer) => {
      const disk = nodeOf(DISK);
      writeFileSync(disk, sector);
      run(`blockdev --rereadpt ${disk}`);
    };
    write(table);
    const path = mounted(`${node}1`);
    const name = `${madeOf(DISK, 'block')}1`;
    await repaired(DISK, { reason: `disk ${name} is mounted on ${path}`, command: `umount ${path}` });
    await restore();
    write(Buffer.alloc(512));
  });

  test('a disk that is swap space', async () => {
    const node = nodeOf(DISK);
    onTestFinished(() => void shell(`swapoff ${node}`));
    run(`chmod 600 ${node}`, `mkswap ${node} >/dev/null 2>&1`, `swapon ${node}`);
    const reason = `disk ${madeOf(DISK, 'block')} is swap space`;
    await repaired(DISK, { reason, command: `swapoff ${node}` });
  });

  test('a disk that is mounted in another mount namespace', async () => {
    const node = nodeOf(DISK);
    const path = folder();
    run(`mkfs.ext2 -q -F ${node}`);
    const other = await program('unshare', '--mount', 'sh', '-ec', `mount ${node} ${path}; echo; read line`);
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(node);
    await repaired(DISK, {
      reason: `disk ${madeOf(DISK, 'block')} is mounted on ${path} in the mount namespace of process ${other} (sh)`,
      command: `nsenter --target ${other} --mount --root umount ${path}`,
    });
  });

  const claimed = () =>
    `disk ${madeOf(DISK, 'block')} is claimed: by a file system or volume whose mount this process can't see, or by a program that has opened it exclusively`;

  test('a disk whose file system is not mounted any more, but still used by a program', async () => {
    const node = nodeOf(DISK);
    const path = mounted(node);
    const user = await holder(`openSync('${path}/file');`);
    run(`umount --lazy ${path}`);
    const command = `lsblk --fs ${node} # shows what is on it`;
    expect((await explain(host, DISK)).findings[0]).toMatchObject({
      reason: `${DISK} is held by driver virtio-pci (${claimed()})`,
      commands: [command, `vfio bind ${DISK}`],
    });
    expect(run(command)).toContain(madeOf(DISK, 'block'));
    expect(await refused(host, 'bind', DISK)).toContain(claimed());
    expect(driverOf(DISK)).toBe('virtio-pci');
    await kill(user);
    await vfio(host, 'bind', DISK);
    expect(driverOf(DISK)).toBe('vfio-pci');
  });

  test('a disk that a program has open, and one that it has opened exclusively', async () => {
    const node = nodeOf(DISK);
    const shared = await holder(`openSync('${node}');`);
    const reason = async () => (await explain(host, DISK)).findings[0]?.reason;
    expect(await reason()).toBe(`${DISK} is held by driver virtio-pci`);
    const alone = await holder(`openSync('${node}', constants.O_RDONLY | constants.O_EXCL);`);
    expect(await reason()).toContain(
      `${claimed()} (it is open in process ${shared} (node) and process ${alone} (node))`,
    );
    await refused(host, 'bind', DISK);
    expect(driverOf(DISK)).toBe('virtio-pci');
    await kill(alone);
    await vfio(host, 'bind', DISK);
    expect(driverOf(DISK)).toBe('vfio-pci');
  });

  test.each([
    ['without a route', [], ''],
    ['with a route', ['ip address add 192.0.2.1/24 dev'], ' and has a route'],
  ] as const)('a network card that is up, %s', async (_, commands, more) => {
    const name = madeOf(CARD, 'net');
    for (const each of commands) run(`${each} ${name}`);
    run(`ip link set dev ${name} up`);
    await repaired(CARD, {
      reason: `network interface ${name} is up${more}`,
      command: `ip link set dev ${name} down`,
    });
  });

  test('a network card that is up, and forced', async () => {
    run(`ip link set dev ${madeOf(CARD, 'net')} up`);
    expect(await vfio(host, 'bind', '--force', CARD)).toContain(`${CARD}  virtio-pci -> vfio-pci`);
    expect(await explain(host, CARD)).toMatchObject({ usable: true });
  });

  test('a mounted disk behind the same bridge as the device', async () => {
    const path = mounted(nodeOf(NEIGHBOUR));
    const use = `disk ${madeOf(NEIGHBOUR, 'block')} is mounted on ${path}`;
    const repair = [`umount ${path}`, `vfio bind --group ${WANTED}`];
    const { group } = host.device(WANTED);
    const because = {
      reason: `group ${group} is not viable: ${NEIGHBOUR} is held by driver virtio-pci (${use}). All devices of a group need one owner: these are behind the bridge ${BRIDGE}, which does not keep them apart (no ACS)`,
      commands: repair,
    };
    const before = await explain(host, WANTED);
    expect(before.usable).toBe(false);
    expect(before.findings.find((each) => each.cause === 'group')).toMatchObject(because);
    expect(await refused(host, 'bind', '--group', WANTED)).toContain(
      `EBUSY: the kernel uses ${NEIGHBOUR}: ${use}`,
    );
    expect([WANTED, NEIGHBOUR].map(driverOf)).toEqual([null, 'virtio-pci']);
    // The device alone can be bound, but not used.
    expect(await vfio(host, 'bind', WANTED)).toContain(
      `group ${group} is not viable yet: ${NEIGHBOUR} is in use by driver virtio-pci`,
    );
    expect(() => host.attach(WANTED)).toThrow(expect.objectContaining({ code: 'EPERM' }));
    const alone = await explain(host, WANTED);
    expect(alone.findings.filter((each) => each.blocks)).toEqual([expect.objectContaining(because)]);
    await follow(host, alone.commands);
    expect(await explain(host, WANTED)).toMatchObject({ usable: true });
    host.attach(WANTED)[Symbol.dispose]();
    await vfio(host, 'unbind', WANTED);
    await restore();
    expect(run(`mount ${nodeOf(NEIGHBOUR)} ${path}`, `cat ${path}/file`)).toBe('kept\n');
  });
});
