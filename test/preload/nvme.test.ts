/**
 * The software host's NVMe controller with a driver that nobody here wrote: QEMU's own, which qemu-img and qemu-io use for
 * nvme:// addresses. It reaches the device through a group and a container, and its registers by plain loads and stores.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { needs } from '../support/backends.ts';
import { folder, has, mirrors, needsCompiler, run } from './programs.ts';

needs({ backends: ['software'], because: 'it is about a device of the software host' });
needsCompiler();

/** Why QEMU's driver can't be tried here. */
function missing(): string | undefined {
  if (process.arch !== 'x64') return 'registers by plain loads and stores are there on x86-64 only';
  if (!has('qemu-img') || !has('qemu-io')) return 'there is no qemu-img, no qemu-io (Debian: qemu-utils)';
  const { stdout } = spawnSync('qemu-img', ['--help'], { encoding: 'utf8' });
  if (!/^Supported formats:.* nvme\b/m.test(stdout)) return 'this qemu-img has no driver for nvme://';
  return undefined;
}
const reason = missing();
beforeEach((context) => {
  if (reason !== undefined) context.skip(reason);
});

const disk = 'nvme://0000:00:04.0/1';

/** A machine with the device, whose data is in a file that the next program finds again. */
function machine(name: string): NodeJS.ProcessEnv {
  const topology = join(folder, `${name}.json`);
  const device = { model: 'nvme', bdf: '0000:00:04.0', driver: 'vfio-pci', size: 64 << 20 };
  writeFileSync(topology, JSON.stringify({ devices: [{ ...device, file: join(folder, `${name}.disk`) }] }));
  return { VFIO_SOFT_TOPOLOGY: topology };
}

/** Runs a program that is to succeed, and returns what it prints. */
function works(command: string, args: string[], env: NodeJS.ProcessEnv): string {
  const { status, signal, stdout, stderr } = run(command, args, env);
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' });
  return stdout;
}

test('qemu-io writes, reads, zeroes and discards by its own NVMe driver', () => {
  const commands = [
    'write -P 0x5a 0 64k',
    'read -P 0x5a 0 64k',
    'write -P 0x33 1M 5M', // more than a command can move
    'read -P 0x33 1M 5M',
    'write -z 4k 8k',
    'read -P 0 4k 8k',
    'discard 32k 16k',
    'read -P 0 32k 16k',
    'read -P 0x5a 12k 20k',
    'read -P 0x5a 48k 16k',
    'aio_write -P 0x11 8M 256k',
    'aio_write -P 0x22 9M 256k',
    'aio_flush',
    'read -P 0x11 8M 256k',
    'read -P 0x22 9M 256k',
    'flush',
  ];
  const args = ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), disk];
  const env = machine('io');
  const said = works('qemu-io', args, env);
  expect(said).not.toContain('failed');
  expect(said.match(/^(wrote|read|discard) \d+\/\d+ bytes/gm)).toHaveLength(14);
  // A pattern that is not there is found out: the reads above mean something.
  expect(run('qemu-io', ['-f', 'raw', '-c', 'read -P 0x5b 0 64k', disk], env).stdout).toContain(
    'Pattern verification failed',
  );
  expect(mirrors()).toEqual([]);
});

test('qemu-img copies 16 MiB of random bytes to the device and back', () => {
  const env = machine('copy');
  const source = join(folder, 'random.img');
  const back = join(folder, 'back.img');
  const bytes = randomBytes(16 << 20);
  writeFileSync(source, bytes);
  works('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, disk], env);
  works('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', disk, back], env);
  const read = readFileSync(back);
  expect(read).toHaveLength(64 << 20);
  expect(read.subarray(0, bytes.length).equals(bytes)).toBe(true);
  expect(read.subarray(bytes.length).every((byte) => byte === 0)).toBe(true);
});

test('qemu-img makes an image on the device, and finds nothing wrong with it', () => {
  const env = machine('image');
  works('qemu-img', ['create', '-q', '-f', 'qcow2', disk, '32M'], env);
  works('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0x77 3M 4M', disk], env);
  expect(works('qemu-img', ['check', '-f', 'qcow2', disk], env)).toContain('No errors were found');
  const { format, 'virtual-size': size } = JSON.parse(
    works('qemu-img', ['info', '--output=json', disk], env),
  );
  expect({ format, size }).toEqual({ format: 'qcow2', size: 32 << 20 });
});

test.each([[[]], [['-w', '--flush-interval=64']]])('qemu-img bench with 32 requests at a time %s', (how) => {
  const args = ['bench', ...how, '-f', 'raw', '-t', 'none', '-c', '5000', '-d', '32', '-s', '4096', disk];
  expect(works('qemu-img', args, machine('bench'))).toMatch(/Run completed in [\d.]+ seconds/);
});

test('a namespace that is not there is refused', () => {
  const { status, stderr } = run(
    'qemu-io',
    ['-f', 'raw', '-c', 'read 0 512', 'nvme://0000:00:04.0/2'],
    machine('none'),
  );
  expect(status).toBe(1);
  expect(stderr).toContain('Invalid namespace');
});
