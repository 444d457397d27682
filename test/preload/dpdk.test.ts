/**
 * The software host's virtio network device with a driver that nobody here wrote: DPDK's poll-mode driver, in its own test
 * program. It reaches the device through a group and a container, and its registers by plain loads and stores.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { needs } from '../support/backends.ts';
import { folder, has, library, mirrors, needsCompiler } from './programs.ts';

needs({ backends: ['software'], because: 'it is about a device of the software host' });
needsCompiler();

/** Why DPDK can't be tried here. */
function missing(): string | undefined {
  if (process.arch !== 'x64') return 'registers by plain loads and stores are there on x86-64 only';
  if (!has('dpdk-testpmd')) return 'there is no dpdk-testpmd (Debian: dpdk-dev)';
  const drivers = '/usr/lib/x86_64-linux-gnu/dpdk';
  const found = existsSync(drivers) ? readdirSync(drivers, { recursive: true, encoding: 'utf8' }) : [];
  for (const name of ['librte_net_virtio.so', 'librte_mempool_ring.so']) {
    if (!found.some((path) => path.endsWith(name))) return `there is no ${name} (Debian: dpdk-dev)`;
  }
  return undefined;
}
const reason = missing();
beforeEach((context) => {
  if (reason !== undefined) context.skip(reason);
});

const [one, other] = ['0000:00:04.0', '0000:00:05.0'];

/** The last number with this name in what the program printed. */
function last(said: string, name: string): number {
  const all = [...said.matchAll(new RegExp(`${name}: *(\\d+)`, 'g'))];
  return Number(all.at(-1)?.[1] ?? Number.NaN);
}

/** Runs testpmd until `enough` says so of what it has printed, and ends it by SIGINT. */
async function testpmd(
  devices: { bdf: string; peer?: string }[],
  eal: string[],
  args: string[],
  enough: (said: string) => boolean,
) {
  const topology = join(folder, 'network.json');
  const all = devices.map((device) => ({ model: 'virtio-net', driver: 'vfio-pci', ...device }));
  writeFileSync(topology, JSON.stringify({ devices: all }));
  const processors = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  const program = spawn(
    'dpdk-testpmd',
    [
      ...[`--lcores=(0-1)@(${processors})`, '--no-huge', '-m', '64', '--no-telemetry', '--no-shconf', ...eal],
      ...devices.flatMap(({ bdf }) => ['-a', bdf]),
      ...['--', '--total-num-mbufs=2048', '--auto-start', '--stats-period=1', ...args],
    ],
    {
      env: { ...process.env, LD_PRELOAD: library, TMPDIR: folder, VFIO_SOFT_TOPOLOGY: topology },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let said = '';
  let stopped = false;
  for (const stream of [program.stdout, program.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      if (stopped || !enough(said)) return;
      stopped = true;
      program.kill('SIGINT');
    });
  }
  const status = await new Promise((resolve, reject) => {
    program.on('error', reject).on('close', (code, signal) => resolve(code ?? signal));
  });
  expect({ status, ended: said.trimEnd().endsWith('Bye...') }, said).toEqual({ status: 0, ended: true });
  return said;
}

const burst = 32;
const frames = 20_000;
const received = (said: string) => last(said, 'RX-packets') >= frames;

/** Checks the statistics at the end: nothing was lost but what was still under way. */
function expectNothingLost(said: string, ports: number): void {
  for (const name of ['RX-errors', 'RX-missed', 'RX-nombuf', 'TX-errors', 'RX-dropped', 'TX-dropped']) {
    const counts = [...said.matchAll(new RegExp(`${name}: *(\\d+)`, 'g'))].map(([, count]) => Number(count));
    expect({ name, some: counts.length > 0, wrong: counts.filter((count) => count !== 0) }).toEqual({
      name,
      some: true,
      wrong: [],
    });
  }
  const underWay = last(said, 'TX-total') - last(said, 'RX-total');
  expect(last(said, 'RX-total')).toBeGreaterThanOrEqual(frames);
  expect(underWay).toBeGreaterThanOrEqual(0);
  expect(underWay).toBeLessThanOrEqual(burst * ports);
  expect(mirrors()).toEqual([]);
}

test('testpmd forwards what comes back from a device of its own', async () => {
  const said = await testpmd([{ bdf: one }], [], ['--tx-first'], received);
  expect(said).toContain('Probe PCI driver: net_virtio (1af4:1041)');
  expectNothingLost(said, 1);
}, 60_000);

test('testpmd forwards between two devices with a cable, frames of several buffers', async () => {
  const cable = [
    { bdf: one, peer: other },
    { bdf: other, peer: one },
  ];
  expectNothingLost(await testpmd(cable, [], ['--tx-first', '--txpkts=900,500,100'], received), 2);
}, 60_000);

test.each(['msix', 'legacy'])(
  'testpmd makes flows with interrupts for changes, by %s',
  async (how) => {
    const said = await testpmd([{ bdf: one }], [`--vfio-intr=${how}`], ['--forward-mode=flowgen'], received);
    expect(said).not.toMatch(/error (enabling|setting)/i);
    expect(last(said, 'RX-errors')).toBe(0);
  },
  60_000,
);

test('frames to a device that is not there are lost, which testpmd sees', async () => {
  const sent = (text: string) => last(text, 'TX-packets') === burst;
  const said = await testpmd([{ bdf: one, peer: other }], [], ['--tx-first'], sent);
  expect({ sent: last(said, 'TX-total'), received: last(said, 'RX-total') }).toEqual({
    sent: burst,
    received: 0,
  });
}, 60_000);
