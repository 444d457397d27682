/**
 * The command `vfio`: lists devices, explains why a device can't be used, and changes drivers and permissions.
 *
 * Each subcommand is one file. It gets the host and a printer, and returns the exit status: 0 yes, 1 no (a reason was found, or
 * the host refused), 2 it could not be tried (wrong usage, or a failure).
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { shownLines } from '../lib/base/shell.ts';
import { Host, type Topology, VfioError } from '../lib/index.ts';
import { completion } from './completion.ts';
import { doctor } from './doctor.ts';
import { changeDrivers } from './drivers.ts';
import { explain } from './explain.ts';
import { grant } from './grant.ts';
import { list } from './list.ts';
import type { Printer } from './print.ts';
import { printer } from './print.ts';
import { registers } from './registers.ts';

/**
 * The surroundings of the command: host and output. A software host lives in one process only: to run several commands on the
 * same one, pass it here.
 */
export interface Surroundings {
  /** The host to work on. Left out: the options of the command line decide. */
  host?: Host;
  out(text: string): void;
  err(text: string): void;
  /** Whether the output is for a terminal with colours. */
  colors: boolean;
}

interface Options {
  json?: boolean;
  backend?: 'auto' | 'kernel' | 'software';
  topology?: string;
  kernel?: string;
}

/** Runs one command line (without the program's name) and returns its exit status. */
export async function main(args: readonly string[], around: Surroundings): Promise<number> {
  let status = 0;
  const program = new Command('vfio')
    .description('PCI devices for user space: lists them, explains why one cannot be used, and changes that')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => around.out(text),
      writeErr: (text) => around.err(shownLines(text)),
    })
    .option('--json', 'print JSON')
    .addOption(
      new Option('--backend <backend>', 'the kernel (default), or a software host').choices([
        'auto',
        'kernel',
        'software',
      ]),
    )
    .option('--topology <file>', 'the machine of the software host, as JSON')
    .option('--kernel <release>', 'the kernel that the software host answers as');

  /** Wraps the work of a subcommand: opens the host, runs it, prints its error. */
  const on =
    <A extends unknown[]>(run: (host: Host, print: Printer, ...rest: A) => number | Promise<number>) =>
    async (...rest: A): Promise<void> => {
      const options = program.opts<Options>();
      const print = printer(around, options.json ?? false);
      let opened: Host | undefined;
      try {
        opened = around.host === undefined ? openHost(options) : undefined;
        status = await run((around.host ?? opened) as Host, print, ...rest);
      } catch (error) {
        status = failed(error, print);
      } finally {
        opened?.[Symbol.dispose]();
      }
    };

  program
    .command('list')
    .description('devices, with their drivers, groups and nodes')
    .option('--vfio', 'only devices that are bound to a VFIO driver')
    .action(on((host, print, options: { vfio?: boolean }) => list(host, print, options)));
  program
    .command('explain')
    .description('can I use this device? if not, why, and which commands make it so')
    .argument('<bdf>', 'PCI address, such as 0000:00:10.0')
    .option('--no-attempt', 'do not open the device to find out')
    .option('--memory <size>', 'how much memory the program maps for devices, such as 512M', sizeOf)
    .action(
      on((host, print, bdf: string, options: { attempt: boolean; memory?: number }) =>
        explain(host, print, bdf, options),
      ),
    );
  for (const [name, what] of [
    ['bind', 'bind devices to vfio-pci, or to another driver'],
    ['unbind', 'unbind devices from their drivers'],
    ['restore', 'bind devices to the drivers that they had, or that the kernel chooses'],
  ] as const) {
    const command = program
      .command(name)
      .description(`${what}: all of them, or none`)
      .argument('<bdf...>', 'PCI addresses')
      .option('--group', 'all devices of their groups');
    if (name === 'bind') command.option('--driver <name>', 'the driver', 'vfio-pci');
    command.option('--force', 'also devices that the kernel or a program uses now');
    command.action(
      on((host, print, bdfs: string[], options: { group?: boolean; driver?: string; force?: boolean }) =>
        changeDrivers(host, print, name, bdfs, options),
      ),
    );
  }
  program
    .command('doctor')
    .description('what this host has and lacks, and how to repair it')
    .action(on((host, print) => doctor(host, print)));
  program
    .command('grant')
    .description("give an ordinary user the nodes of a device's whole group")
    .argument('<bdf>', 'PCI address')
    .requiredOption('--user <name>', 'name or number')
    .option('--force', 'also nodes that another user owns')
    .action(
      on((host, print, bdf: string, options: { user: string; force?: boolean }) =>
        grant(host, print, bdf, options),
      ),
    );
  program
    .command('registers')
    .description('the register maps that a module exports, as tables')
    .argument('<module>', 'a file that Node can import')
    .action(async (file: string) => {
      const print = printer(around, program.opts<Options>().json ?? false);
      try {
        status = await registers(print, file);
      } catch (error) {
        status = failed(error, print);
      }
    });
  program
    .command('completion')
    .description('a script that completes this command in a shell')
    .addArgument(program.createArgument('<shell>').choices(['bash', 'zsh', 'fish']))
    .action((shell: 'bash' | 'zsh' | 'fish') => around.out(completion(program, shell)));

  try {
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return 0; // --help
    if (args.includes('--json'))
      printer(around, true).json({ error: { code: error.code, message: error.message } });
    return 2;
  }
  return status;
}

function openHost({ backend, topology, kernel }: Options): Host {
  const software = {
    ...(topology === undefined ? {} : { topology: readTopology(topology) }),
    ...(kernel === undefined ? {} : { kernel }),
  };
  // Options that describe a software host choose one. Otherwise none is used unless it was asked for: a user must not take
  // simulated devices for real ones.
  const described = Object.keys(software).length > 0;
  const asked = backend ?? (described ? 'software' : process.env['VFIO_BACKEND'] ? undefined : 'kernel');
  try {
    return Host.open({
      ...(asked === undefined ? {} : { backend: asked }),
      ...(described ? { software } : {}),
    });
  } catch (error) {
    const refused = error instanceof TypeError || error instanceof RangeError;
    if (topology === undefined || !refused || error.message.includes('software.kernel')) throw error;
    throw Object.assign(new TypeError(`${topology}: ${error.message}`), {
      code: (error as { code?: string }).code,
    });
  }
}

/** The number of bytes that a size such as '512M', '2G' or '4096' means. */
function sizeOf(text: string): number {
  const [, digits, unit] = /^(\d{1,9})([KMG]?)$/.exec(text) ?? [];
  if (digits === undefined || unit === undefined || Number(digits) === 0)
    throw new InvalidArgumentError(`Expected a size such as 512M or 2G but received '${text}'`);
  return Number(digits) * 1024 ** ' KMG'.indexOf(unit || ' ');
}

function readTopology(file: string): Topology {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Topology;
  } catch (error) {
    throw new TypeError(
      `Expected a topology in JSON for --topology but received '${file}': ${(error as Error).message}`,
    );
  }
}

/** The errors by which the kernel or the host refuses: the answer is "no". Every other error is a failure. */
const REFUSALS = new Set(['EPERM', 'EACCES', 'EBUSY', 'ETIMEDOUT']);

function failed(error: unknown, print: Printer): number {
  if (error instanceof VfioError) {
    const { code, reason, hint } = error;
    print.json({ error: { code, message: error.message, reason, hint } });
    print.error(reason === undefined ? error.message : `${code}: ${reason}`);
    if (hint !== undefined) print.error(hint);
    return REFUSALS.has(code) ? 1 : 2;
  }
  // Bad arguments are a TypeError or a RangeError. Any other error here is a defect: it is thrown on, with its stack.
  if (!(error instanceof TypeError || error instanceof RangeError)) throw error;
  print.json({ error: { code: (error as { code?: string }).code, message: error.message } });
  print.error(error.message);
  return 2;
}
