/**
 * The preload library: programs in C, C++ and Python, and lspci, that know nothing of the software host and find its
 * files all the same. Drivers that a kernel's devices suit as well are in drivers.test.ts.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { needs } from '../support/backends.ts';
import {
  compile,
  expectClaims,
  folder,
  has,
  here,
  library,
  mirrors,
  needsCompiler,
  root,
  run,
} from './programs.ts';

needs({ backends: ['software'], because: 'it is about the software host alone' });
needsCompiler();

test.each(['', '-D_FILE_OFFSET_BITS=64', '-D_FORTIFY_SOURCE=2'])(
  'files and descriptors in C, compiled with "%s"',
  (option) => {
    expectClaims(run(compile('files.c', ...(option ? [option] : [])), []), 27);
    expect(mirrors()).toEqual([]);
  },
);

test('a child of fork has a machine of its own, one of vfork none', () => {
  expectClaims(run(compile('fork.c'), []), 9);
  expect(mirrors()).toEqual([]);
});

test('threads', { timeout: 60_000 }, () => {
  expectClaims(run(compile('threads.c'), []), 1);
});

test('a driver in C++ with its streams and its filesystem', () => {
  expectClaims(run(compile('streams.cc', '-std=c++20'), []), 5);
});

test('each instruction does to registers what it does to memory', (context) => {
  if (process.arch !== 'x64') context.skip('registers by plain loads and stores are there on x86-64 only');
  expectClaims(run(compile('registers.c', '-mno-red-zone', '-msse4.2', '-mmovbe'), []), 50);
});

test('what is decoded as a load or store is what another decoder takes it for', {
  timeout: 120_000,
}, (context) => {
  if (process.arch !== 'x64') context.skip('registers by plain loads and stores are there on x86-64 only');
  if (!existsSync('/usr/include/Zydis/Zydis.h'))
    context.skip('there is no Zydis to compare with (Debian: libzydis-dev)');
  const program = join(folder, 'decoder');
  const sources = [join(here, 'decoder.cc'), join(root, 'native/preload/instruction.cc')];
  const built = spawnSync('g++', ['-std=c++20', '-O2', ...sources, '-o', program, '-lZydis'], {
    encoding: 'utf8',
  });
  expect(built.stderr).toBe('');
  const compared = spawnSync(program, ['5000000', '1'], { encoding: 'utf8' });
  expect(compared.stdout).toMatch(/ 0 differ/);
  expect(compared.status).toBe(0);
});

test('a driver in Python', (context) => {
  if (!has('python3')) context.skip('there is no python3');
  expectClaims(run('python3', [join(here, 'driver.py')]), 9);
});

test('a driver in Rust', { timeout: 120_000 }, (context) => {
  if (!has('rustc')) context.skip('there is no rustc');
  const program = join(folder, 'driver-rust');
  const built = spawnSync('rustc', ['-O', join(here, 'driver.rs'), '-o', program], { encoding: 'utf8' });
  expect(built.stderr).toBe('');
  expectClaims(run(program, []), 5);
});

test('lspci sees the machine', (context) => {
  if (!has('lspci')) context.skip('there is no lspci (pciutils)');
  const { status, stdout } = run('lspci', ['-n']);
  expect(status).toBe(0);
  expect(stdout.split('\n')).toContain('00:10.0 00ff: 1234:11e8 (rev 10)');
  expect(stdout.trim().split('\n')).toHaveLength(8);
  expect(run('lspci', ['-vvv', '-s', '00:14.0']).stdout).toContain('MSI-X: Enable- Count=4');
});

test('lspci reads the capabilities of a device that a topology describes', (context) => {
  if (!has('lspci')) context.skip('there is no lspci (pciutils)');
  const topology = join(folder, 'capable.json');
  const device = {
    model: 'passive',
    bdf: '0000:00:03.0',
    vendor: '0x1af4',
    device: '0x10f4',
    classCode: '0x020000',
    driver: null,
    bars: [{ kind: 'memory64', size: 65536, areas: [{ offset: 4096, size: 8192 }] }],
    msi: 2,
    msix: 4,
    functionReset: true,
    power: true,
    pasidBits: 12,
    pageRequests: true,
    vendorSpecific: [[1, 2, 3], [170]],
    sriov: { totalVfs: 2, device: '0x10f5', bars: [{ kind: 'memory64', size: 4096 }] },
  };
  writeFileSync(topology, JSON.stringify({ devices: [device] }));
  const { stdout } = run('lspci', ['-vvv', '-s', '00:03.0'], { VFIO_SOFT_TOPOLOGY: topology });
  for (const line of [
    /MSI-X: Enable- Count=4/,
    /MSI: Enable- Count=1\/2/,
    /Express \(v2\) Endpoint[\s\S]*FLReset\+[\s\S]*EETLPPrefix\+/,
    /Power Management version 3\n.*D1- D2-.*\n\s*Status: D0 NoSoftRst\+/,
    /Vendor Specific Information: Len=06 .*\n.*Vendor Specific Information: Len=04/,
    /Process Address Space ID \(PASID\)\n\s*PASIDCap: Exec- Priv-, Max PASID Width: 0c/,
    /Address Translation Service \(ATS\)/,
    /Page Request Interface \(PRI\)[\s\S]*Page Request Capacity: 00000200/,
    /\(SR-IOV\)[\s\S]*Total VFs: 2[\s\S]*Device ID: 10f5/,
  ])
    expect(stdout).toMatch(line);
});

test('/sys/module has the modules of VFIO, which programs look for before they use it', () => {
  const modules = ['iommufd', 'vfio', 'vfio_iommu_type1', 'vfio_pci'];
  const find = [
    '-c',
    `cd /sys/module && for m in ${modules.join(' ')}; do find /sys/module/$m -type f; done`,
  ];
  expect(run('bash', find).stdout.trim().split('\n').sort()).toEqual([
    '/sys/module/iommufd/parameters/allow_unsafe_interrupts',
    '/sys/module/vfio/parameters/enable_unsafe_noiommu_mode',
    '/sys/module/vfio/version',
    '/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts',
    '/sys/module/vfio_iommu_type1/parameters/disable_hugepages',
    '/sys/module/vfio_iommu_type1/parameters/dma_entry_limit',
    '/sys/module/vfio_iommu_type1/version',
    '/sys/module/vfio_pci/parameters/disable_denylist',
    '/sys/module/vfio_pci/parameters/disable_idle_d3',
    '/sys/module/vfio_pci/parameters/enable_sriov',
    '/sys/module/vfio_pci/parameters/nointxmask',
  ]);
  expect(run('cat', ['/sys/module/vfio/version']).stdout).toBe('0.3\n');
  expect(run('cat', ['/sys/module/vfio_iommu_type1/parameters/dma_entry_limit']).stdout).toBe('65535\n');
  const file = join(folder, 'without.json');
  writeFileSync(file, '{ "devices": [], "system": { "without": ["vfio-pci"] } }');
  const { status } = run('ls', ['-d', '/sys/module/vfio_pci'], { VFIO_SOFT_TOPOLOGY: file });
  expect(status).toBe(2);
});

test('VFIO_SOFT_TOPOLOGY chooses the machine, and says what is wrong with it', () => {
  const file = join(folder, 'machine.json');
  const list = ['-c', 'ls /sys/bus/pci/devices'];
  writeFileSync(file, '{ "devices": [{ "model": "edu", "bdf": "0000:00:04.0" }] }');
  expect(run('sh', list, { VFIO_SOFT_TOPOLOGY: file }).stdout).toBe('0000:00:04.0\n');
  writeFileSync(file, '{\n "devices": [{ "model": "edu", "bdf": 4 }] }');
  const { stderr } = run('sh', list, { VFIO_SOFT_TOPOLOGY: file });
  expect(stderr).toContain(`${file}: line 2: Expected a PCI address`);
  expect(run('sh', list, { VFIO_SOFT_TOPOLOGY: '/nowhere' }).stderr).toContain('/nowhere: No such file');
});

test('VFIO_SOFT_KERNEL chooses the kernel', () => {
  const { stderr } = run('ls', ['/dev/vfio'], { VFIO_SOFT_KERNEL: '2.6' });
  expect(stderr).toMatch(
    /^vfio-soft-preload: Expected a kernel from "[\d.]+" to "[\d.]+" for VFIO_SOFT_KERNEL/,
  );
  expect(run('ls', ['/dev/vfio'], { VFIO_SOFT_KERNEL: '6.12' }).stdout).toContain('vfio');
});

test('a program that has nothing to do with it makes no host and no mirror', () => {
  const { status, stdout } = run('sh', ['-c', 'echo $(cat /proc/self/comm); ls /dev/null']);
  expect({ status, stdout }).toEqual({ status: 0, stdout: 'cat\n/dev/null\n' });
  expect(mirrors()).toEqual([]);
});

test('vfio-soft-preload runs a program, with its options and its end', () => {
  const bin = join(root, 'dist/bin/vfio-soft-preload.js');
  const tool = (...args: string[]) => {
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, [bin, ...args], {
      encoding: 'utf8',
    });
    return { status, signal, stdout, stderr };
  };
  expect(tool()).toEqual({ status: 0, signal: null, stdout: `${library}\n`, stderr: '' });
  const file = join(folder, 'other.json');
  writeFileSync(file, '{ "devices": [{ "model": "edu", "bdf": "0000:00:05.0" }] }');
  expect(tool('--topology', file, '--', 'ls', '/sys/bus/pci/devices').stdout).toBe('0000:00:05.0\n');
  expect(tool('--kernel=6.12', 'sh', '-c', 'echo $VFIO_SOFT_KERNEL; exit 5')).toMatchObject({
    status: 5,
    stdout: '6.12\n',
  });
  expect(tool('sh', '-c', 'kill -TERM $$').signal).toBe('SIGTERM');
  expect(tool('--topology', '/nowhere', 'true').stderr).toBe(
    "vfio-soft-preload: Expected a file for --topology but received '/nowhere'\n",
  );
  expect(tool('--machine').stderr).toContain(
    "Expected --topology, --kernel or -- for an option but received '--machine'",
  );
  expect(tool('/no/such/program').stderr).toContain('/no/such/program');
});
