/** Machines with many devices: `vfio list` and Host.attach on a software host with 4,096 devices, against one with 64. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { main } from '../cli/main.ts';
import { type DeviceModel, Host, type Topology } from '../lib/index.ts';
import { type Comparison, compare, type Row } from './measure.ts';

const MANY = 4096;
const FEW = 64;
const command = fileURLToPath(new URL('../vfio-command.js', import.meta.url));

const hex = (value: number) => value.toString(16).padStart(2, '0');

/** Network cards of eight functions each, all bound to vfio-pci. */
function machineOf(count: number): Topology {
  const devices = Array.from({ length: count }, (_, index): DeviceModel => {
    const [bus, slot, functionNumber] = [index >> 8, (index >> 3) & 31, index & 7];
    return {
      model: 'passive',
      bdf: `0000:${hex(bus)}:${hex(slot)}.${functionNumber}`,
      driver: 'vfio-pci',
      vendor: 0x1234,
      device: 0x1111,
      classCode: 0x020000,
      functionReset: true,
      msi: 1,
      bars: [{ kind: 'memory32', size: 4096 }],
    };
  });
  return { devices };
}

async function onHosts(job: (host: Host) => Promise<number> | number): Promise<Comparison> {
  using many = Host.open({ backend: 'software', software: { topology: machineOf(MANY) } });
  using few = Host.open({ backend: 'software', software: { topology: machineOf(FEW) } });
  return await compare(
    () => job(many),
    () => job(few),
    { rounds: 15, warmUp: 2 },
  );
}

/** Runs `vfio list` in this process; returns the milliseconds. */
async function list(host: Host): Promise<number> {
  const start = performance.now();
  const status = await main(['list'], { host, out: () => {}, err: console.error, colors: false });
  const taken = performance.now() - start;
  if (status !== 0) throw new Error(`vfio list: status ${status}`);
  return taken;
}

function attach(host: Host): number {
  const start = performance.now();
  using _user = host.attach('0000:00:05.3');
  return performance.now() - start;
}

/** Runs the whole command in a new process, which first makes the machine from a file. */
function wholeCommand(): Promise<Comparison> {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-bench-'));
  const sample = (count: number): number => {
    const file = join(folder, String(count));
    writeFileSync(file, JSON.stringify(machineOf(count)));
    const start = performance.now();
    const { status, stderr } = spawnSync(process.execPath, [command, 'list', '--topology', file]);
    if (status !== 0) throw new Error(`vfio list: ${stderr}`);
    return performance.now() - start;
  };
  const compared = compare(
    () => sample(MANY),
    () => sample(FEW),
    { rounds: 9, warmUp: 1 },
  );
  return compared.finally(() => rmSync(folder, { recursive: true }));
}

export const rows: readonly Row[] = [
  {
    name: 'vfio list, 4,096 devices, against 64',
    unit: 'ms',
    target: 'at most 300 ms',
    measure: () => onHosts(list),
  },
  {
    name: 'Host.attach among 4,096 devices, against 64',
    unit: 'ms',
    target: 'at most 20 ms',
    measure: () => onHosts(attach),
  },
  {
    name: 'vfio list as a command that makes the 4,096 first, against 64',
    unit: 'ms',
    target: '',
    measure: wholeCommand,
  },
];
