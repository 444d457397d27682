/** Shared virtual addressing: the speed of DMA to memory of the process, the time of a page fault, and what binds leave behind. */
import { readdirSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Host, SimulatedDevice, Sva, type SvaBond, type UserDevice } from '../lib/index.ts';
import { loadAddon } from './addon.ts';
import { type Comparison, compare, type Row } from './measure.ts';

const BDF = '0000:00:1c.0';
const PAGE = 4096;
const MIB = 1 << 20;
const US = 1000;

/** DMA that a benchmark asks for. */
class Model extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10fc, classCode: 0xff0000 };
  override readonly bars = [{ size: PAGE }];
  override readonly express = true;
  override readonly pasidBits = 8;
  override readonly pageRequests = true;
  move(write: boolean, pasid: number, address: bigint, bytes: Uint8Array): void {
    if (write) this.dmaWrite(address, bytes, { pasid });
    else this.dmaRead(address, bytes, { pasid });
  }
  later(pasid: number, address: bigint, bytes: Uint8Array): Promise<void> {
    return this.dmaWriteAsync(address, bytes, { pasid });
  }
}

async function withBond<T>(
  work: (made: { model: Model; bond: SvaBond; user: UserDevice }) => Promise<T>,
): Promise<T> {
  using host = Host.open({
    backend: 'software',
    software: {
      sanitizer: false,
      topology: {
        iommus: [{ kind: 'vtd', pasidBits: 8, pageRequests: 'pri' }],
        devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
      },
    },
  });
  const model = new Model();
  host.software.addDevice(BDF, model);
  const user = host.attach(BDF);
  user.device.config.busMaster = true;
  Sva.features(user.device).enable('sva');
  using bond = Sva.bind(user.device);
  // Nothing else keeps the process alive while only the device works.
  const awake = setInterval(() => {}, 1000);
  try {
    return await work({ model, bond, user });
  } finally {
    clearInterval(awake);
  }
}

const nanoseconds = (job: () => void): number => {
  const begin = process.hrtime.bigint();
  job();
  return Number(process.hrtime.bigint() - begin);
};

async function present(write: boolean): Promise<Comparison> {
  return await withBond(async ({ model, bond }) => {
    const memory = new Uint8Array(2 * MIB).fill(1);
    const bytes = new Uint8Array(2 * MIB).fill(2);
    const at = bond.pointer(memory);
    const pasid = bond.pasid as number;
    const space = new (loadAddon().Space)(1, 2 * MIB);
    try {
      return await compare(
        () => nanoseconds(() => model.move(write, pasid, at, bytes)) / US,
        () => space.copy(bytes) / US,
        { rounds: 60, warmUp: 10 },
      );
    } finally {
      space.dispose();
    }
  });
}

/** A write to a page that was never touched, through a page request, against one to a page that is present. */
async function fault(): Promise<Comparison> {
  return await withBond(async ({ model, bond }) => {
    const pages = 2000;
    const memory = new Uint8Array(pages * PAGE); // fresh from the system: larger than what malloc keeps
    const at = bond.pointer(memory);
    const pasid = bond.pasid as number;
    const word = Uint8Array.of(1, 2, 3, 4);
    let next = 1;
    const timed = async (page: number) => {
      const begin = process.hrtime.bigint();
      await model.later(pasid, at + BigInt(page * PAGE + 8), word);
      return Number(process.hrtime.bigint() - begin) / US;
    };
    await timed(0);
    return await compare(
      () => timed(next++),
      () => timed(0),
      { rounds: 400, warmUp: 50 },
    );
  });
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
const resident = () => process.memoryUsage().rss;
const descriptors = () => readdirSync('/proc/self/fd').length;

/** Bytes of resident memory that 10,000 binds and unbinds add, and a megabyte for each descriptor that is left. */
async function binds(): Promise<Comparison> {
  return await withBond(async ({ user }) => {
    const again = () => {
      const bond = Sva.bind(user.device);
      bond[Symbol.dispose]();
    };
    const settle = async () => {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 50));
    };
    // The event loop closes descriptors: it gets a turn now and then. The first rounds leave what the allocator keeps.
    const round = async () => {
      for (let each = 0; each < 10_000; each++) {
        again();
        if (each % 100 === 99) await turn();
      }
      await settle();
    };
    for (let warmUp = 0; warmUp < 4; warmUp++) await round();
    const before = { memory: resident(), files: descriptors() };
    await round();
    const left = resident() - before.memory + MIB * (descriptors() - before.files);
    const figure = { median: left, min: left };
    return { ours: figure, baseline: { median: 4 * MIB, min: 4 * MIB } };
  });
}

export const rows: readonly Row[] = [
  {
    name: 'SVA: DMA of 2 MiB of present memory against memcpy, read',
    unit: 'us',
    target: 'at most 1.43x (0.7 of memcpy)',
    measure: () => present(false),
  },
  {
    name: 'SVA: DMA of 2 MiB of present memory against memcpy, write',
    unit: 'us',
    target: 'at most 1.43x (0.7 of memcpy)',
    measure: () => present(true),
  },
  {
    name: 'SVA: fault to resolved access, against a present page',
    unit: 'us',
    target: 'at most 20 us',
    measure: fault,
  },
  {
    name: 'SVA: memory after 10,000 binds and unbinds, against 4 MiB',
    unit: 'bytes',
    target: 'at most 1x',
    measure: binds,
  },
];
