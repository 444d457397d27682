/** The kernel's own self-test of iommufd, from the unchanged source: unpacked, compiled and run on the preload library. */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { kernelSource } from '../support/kernel-source.ts';

const run = promisify(execFile);
const here = import.meta.dirname;
const preload = join(here, '../../build/preload/vfio-soft-preload.so');
const source = 'tools/testing/selftests/iommu/iommufd.c';

/** The source files of the program, with the checksums of the versions that passes.txt was written for. */
const files: Readonly<Record<string, string>> = {
  [source]: '6d8e2ff02c3f3f4b0170ec9f6a1bd198f42a578343676ce48727916c08259a4f',
  'tools/testing/selftests/iommu/iommufd_utils.h':
    '3d3dcea0fafe3c83b95bc1791453ac9301931737381bb506a0650cc3ca4f0c35',
  'tools/testing/selftests/kselftest_harness.h':
    '42798ca64bd6bea9ccf313379175dc5624d54978fe8f0b087eb62f247dde03f8',
  'tools/testing/selftests/kselftest.h': '5d5720da5593490c7260d867904531b48230a4868798dcb4b34df8039a7be609',
  'drivers/iommu/iommufd/iommufd_test.h': '4135432084b29b8d45465e6f942430003ece0ab5ca6cf2f3de8d5884c148bc7b',
  'include/uapi/linux/iommufd.h': 'f65408836684330ee74b4a47e59b6221a931518909ae397f49160245a983bbe6',
  'include/uapi/linux/vfio.h': 'cb8957572322482823b42090b3b57bed66ac61003944e672e85a5846d97dbc1f',
};

/**
 * The options of the kernel's own build, and options for names that the headers lack: the self-test of 6.12.117 uses names
 * that only later kernels define, and these options define them.
 */
const options = [
  '-O2',
  '-D_GNU_SOURCE=',
  '-D__user=', // `make headers_install` removes this word from the headers
  '-DMOCK_FLAGS_DEVICE_PASID=0',
  '-DMOCK_PASID_WIDTH=0',
  '-DIOMMU_HW_INFO_TYPE_DEFAULT=IOMMU_HW_INFO_TYPE_SELFTEST',
  '-DIOMMU_HW_INFO_FLAG_INPUT_TYPE=1',
  '-Din_data_type=out_data_type',
];

const sha256 = (of: string | Buffer) => createHash('sha256').update(of).digest('hex');

/**
 * Compiles the self-test, once for each version of its source and of the options. Reports it if the source is not the version
 * that passes.txt was made for.
 */
export async function compile(): Promise<string> {
  const folder = await kernelSource();
  const sums: string[] = [];
  for (const [file, expected] of Object.entries(files)) {
    const sum = sha256(await readFile(join(folder, file)));
    if (sum !== expected) console.warn(`${file} is not the one that passes.txt was made for: sha256 ${sum}`);
    sums.push(sum);
  }
  const key = sha256([...sums, ...options].join('\n')).slice(0, 16);
  const made = join(dirname(folder), `selftest-${key}`);
  const program = join(made, 'iommufd');
  if (existsSync(program)) return program;
  // Only these two headers: all other headers of linux/ are those of the system.
  const headers = join(made, 'headers');
  await mkdir(join(headers, 'linux'), { recursive: true });
  for (const name of ['iommufd.h', 'vfio.h'])
    await copyFile(join(folder, 'include/uapi/linux', name), join(headers, 'linux', name));
  // Compiled in its own folder, so that its messages have the same file names as in the kernel. It has another name until it
  // is complete.
  const fresh = `${program}.${process.pid}`;
  await run('gcc', [...options, `-I${headers}`, '-w', '-o', fresh, source], { cwd: folder });
  await rename(fresh, program);
  return program;
}

export interface Outcome {
  readonly passed: boolean;
  /** The messages of the self-test about it. */
  readonly said: readonly string[];
}

/** Runs the whole self-test on the software host as Linux 6.12, and returns the outcome of each instance. */
export async function runSelftest(
  program: string,
  through: readonly string[],
): Promise<Map<string, Outcome>> {
  if (!existsSync(preload)) throw new Error(`${preload} is missing: run "npm run build:preload"`);
  const settings = [`LD_PRELOAD=${preload}`, 'VFIO_SOFT_SELFTEST=1', 'VFIO_SOFT_KERNEL=6.12'];
  const [command = '', ...rest] = [...through, 'env', ...settings, program];
  const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'pipe'], timeout: 900_000 });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  return parse(output);
}

/** Reads TAP: the lines before the result of an instance belong to it. */
export function parse(output: string): Map<string, Outcome> {
  const outcomes = new Map<string, Outcome>();
  let said: string[] = [];
  for (const line of output.split('\n')) {
    const result = /^(not )?ok \d+ (\S+)/.exec(line);
    if (result === null) {
      if (!/^TAP version|^1\.\.|^# (?: RUN| +OK|Starting)/.test(line)) said.push(line);
      continue;
    }
    // The harness counts a skipped instance as ok. Here it is not: the self-test skips only instances that can't run.
    outcomes.set(result[2] ?? '', { passed: result[1] === undefined && !/# SKIP/i.test(line), said });
    said = [];
  }
  return outcomes;
}
