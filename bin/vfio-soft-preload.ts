#!/usr/bin/env node
/**
 * vfio-soft-preload: runs a program on the software host, or prints the path of the library for LD_PRELOAD that does so
 * (docs/preload.md). The package contains the library; if not for this machine, it is compiled at the first use.
 */
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { shownLines } from '../lib/base/shell.ts';

const USAGE = `Usage: vfio-soft-preload [options] [--] [command [argument ...]]

Runs a command with /dev/iommu, /dev/vfio and their sysfs on a software host. Without one, prints the path of the
library to put into LD_PRELOAD.

  --topology FILE   the machine, as JSON (VFIO_SOFT_TOPOLOGY)
  --kernel VERSION  the kernel to answer as, such as 6.12 (VFIO_SOFT_KERNEL)
  -h, --help
`;
const NAME = 'vfio-soft-preload.so';

/** The root of the package: this file is in dist/bin. */
const root = join(dirname(fileURLToPath(import.meta.url)), '../..');

function fail(text: string): never {
  process.stderr.write(shownLines(`vfio-soft-preload: ${text}\n`));
  process.exit(2);
}

function writable(folder: string): boolean {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** Compiles the library, into the package's folder if that is writable, else into the user's cache. */
function compile(): string {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  const own = join(root, 'build/preload');
  const folder = writable(own)
    ? own
    : join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'vfio', `preload-${version}`);
  const library = join(folder, NAME);
  if (existsSync(library)) return library;
  process.stderr.write(`vfio-soft-preload: compiling ${library}, once ...\n`);
  const made = spawnSync('make', ['-s', '-j', '-C', join(root, 'native/preload'), `OUT=${folder}`], {
    encoding: 'utf8',
  });
  if (made.error || made.status !== 0) {
    const why = made.error
      ? `make: ${made.error.message}`
      : made.stderr.trim().split('\n').slice(-5).join('\n');
    fail(
      `the library could not be compiled. It needs make and g++ (C++20); on Debian: apt-get install make g++\n${why}`,
    );
  }
  return library;
}

function library(): string {
  if (process.platform !== 'linux') fail('it runs on Linux only');
  const known = [join(root, 'build/preload', NAME), join(root, 'prebuilds', `linux-${process.arch}`, NAME)];
  return known.find((path) => existsSync(path)) ?? compile();
}

const settings: Record<string, string> = {};
const rest = process.argv.slice(2);
while (rest[0]?.startsWith('-')) {
  const option = rest.shift() ?? '';
  if (option === '--') break;
  if (option === '-h' || option === '--help') {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  const [name, inline] = option.split(/=(.*)/s, 2);
  if (name !== '--topology' && name !== '--kernel')
    fail(`Expected --topology, --kernel or -- for an option but received '${option}'`);
  const value = inline ?? rest.shift();
  if (!value) fail(`Expected a value for ${name} but received nothing`);
  if (name === '--topology' && !existsSync(value))
    fail(`Expected a file for --topology but received '${value}'`);
  // An absolute path, since the program may change its working directory.
  if (name === '--topology') settings['VFIO_SOFT_TOPOLOGY'] = resolve(value);
  else settings['VFIO_SOFT_KERNEL'] = value;
}

const path = library();
const [command, ...args] = rest;
if (command === undefined) {
  process.stdout.write(`${path}\n`);
} else {
  const before = process.env['LD_PRELOAD'];
  const env = { ...process.env, ...settings, LD_PRELOAD: before ? `${path}:${before}` : path };
  const child = spawn(command, args, { stdio: 'inherit', env });
  // A terminal sends these signals to the child too: this process waits, and ends as the child does.
  for (const signal of ['SIGINT', 'SIGQUIT'] as const) process.on(signal, () => undefined);
  for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => fail(`${command}: ${error.message}`));
  child.on('exit', (status, signal) => {
    if (signal === null) process.exit(status ?? 1);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}
