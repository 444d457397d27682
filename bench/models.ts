/** Device models in TypeScript: a register read by a driver in the same thread and in another one, DMA, and packets. */
import { once } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { NicDriver } from '../examples/nic-driver.ts';
import { DmaBuffer, Host, RegisterBank, registers, SimulatedDevice, type UserDevice } from '../lib/index.ts';
import { link, Nic } from '../lib/models/index.ts';
import { loadAddon } from './addon.ts';
import { edu } from './machine.ts';
import { type Comparison, compare, perTime, type Row } from './measure.ts';

const BDF = '0000:00:1c.0';
const OTHER = '0000:00:1d.0';
const MICROSECOND = 1000;
const VALUE = 0x010000ed; // what both registers hold

/** A register, and DMA that a benchmark asks for. */
class Model extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10fa, classCode: 0xff0000 };
  override readonly bars = [
    {
      size: 4096,
      registers: new RegisterBank(registers({ id: { offset: 0, width: 4, access: 'ro', reset: VALUE } })),
    },
  ];
  move(write: boolean, iova: bigint, bytes: Uint8Array): void {
    if (write) this.dmaWrite(iova, bytes);
    else this.dmaRead(iova, bytes);
  }
}

async function withModel<T>(use: (user: UserDevice, model: Model, host: Host) => Promise<T>): Promise<T> {
  using host = Host.open({ backend: 'software', software: { sanitizer: false } });
  const model = new Model();
  host.software.addDevice(BDF, model);
  using user = host.attach(BDF);
  user.device.config.busMaster = true;
  return await use(user, model, host);
}

/** Nanoseconds for each of `times` reads. */
function reads(region: { read32(offset: number): number }, times: number): number {
  let sum = 0;
  const time = perTime(times, () => {
    for (let i = 0; i < times; i++) sum += region.read32(0);
  });
  if (sum !== times * VALUE) throw new Error('a read did not see the register');
  return time;
}

/** The same call, of a register of a model in C++. */
const sameThread = (): Promise<Comparison> =>
  withModel(async ({ device }, _, host) => {
    await host.device(edu).bind();
    using cpp = host.attach(edu);
    using theirs = cpp.device.region('bar0').mmap();
    using ours = device.region('bar0').mmap();
    return await compare(
      () => reads(ours, 20_000),
      () => reads(theirs, 20_000),
      { rounds: 40, warmUp: 5 },
    );
  });

/** A driver in a worker; the model is in this thread. */
const otherThread = (): Promise<Comparison> =>
  withModel(async ({ device }) => {
    using near = device.region('bar0').mmap();
    const driver = new Worker(fileURLToPath(new URL('models-worker.js', import.meta.url)), {
      workerData: { fd: device.fd, value: VALUE },
    });
    await once(driver, 'message');
    const far = async () => {
      driver.postMessage(2000);
      const [time] = (await once(driver, 'message')) as [number];
      return time / MICROSECOND;
    };
    try {
      return await compare(far, () => reads(near, 2000) / MICROSECOND, { rounds: 20, warmUp: 3 });
    } finally {
      driver.postMessage(0);
      await once(driver, 'exit');
    }
  });

const MEBIBYTE = 1 << 20;

const dma = (write: boolean): Promise<Comparison> =>
  withModel(async ({ dma }, model) => {
    using memory = DmaBuffer.alloc(MEBIBYTE);
    using mapping = dma.map(memory);
    memory.bytes.fill(1);
    const bytes = new Uint8Array(MEBIBYTE).fill(2);
    const space = new (loadAddon().Space)(1, MEBIBYTE);
    const times = 50;
    const ours = () =>
      perTime(times, () => {
        for (let i = 0; i < times; i++) model.move(write, mapping.iova, bytes);
      }) / MICROSECOND;
    const theirs = () => {
      let sum = 0;
      for (let i = 0; i < times; i++) sum += space.copy(bytes);
      return sum / times / MICROSECOND;
    };
    try {
      const result = await compare(ours, theirs, { rounds: 40, warmUp: 5 });
      if (memory.bytes[MEBIBYTE - 1] !== bytes[MEBIBYTE - 1]) throw new Error('the DMA moved nothing');
      return result;
    } finally {
      space.dispose();
    }
  });

const BURST = 64;
const PACKETS = 320 * BURST;

/** Two cards with a cable, and the driver of each, which polls, all in one thread. */
class Wire implements Disposable {
  readonly #host: Host;
  readonly #from: NicDriver;
  readonly #to: NicDriver;
  /** The frames of a burst. The driver rings the doorbell for each group. */
  readonly #groups: readonly (readonly Uint8Array[])[];

  constructor(sanitizer: boolean, packetsForDoorbell = BURST) {
    const host = Host.open({ backend: 'software', software: { sanitizer } });
    const cards = [new Nic(), new Nic()] as const;
    link(...cards);
    host.software.addDevice(BDF, cards[0]);
    host.software.addDevice(OTHER, cards[1]);
    const frame = (number: number) => new Uint8Array(64).fill(number);
    this.#groups = Array.from({ length: BURST / packetsForDoorbell }, (_, group) =>
      Array.from({ length: packetsForDoorbell }, (_, each) => frame(group * packetsForDoorbell + each)),
    );
    const options = { ringSize: 512, interrupts: false };
    this.#host = host;
    this.#from = new NicDriver(host, BDF, options);
    this.#to = new NicDriver(host, OTHER, options);
  }

  /** Nanoseconds for each packet, from one driver to the other. */
  async send(): Promise<number> {
    const begin = process.hrtime.bigint();
    let sent = 0;
    let received = 0;
    while (received < PACKETS) {
      if (sent < PACKETS && sent - received <= 256)
        for (const group of this.#groups) sent += this.#from.send(group);
      const arrived = this.#to.receive((frame) => {
        if (frame.length !== 64 || frame[0] !== frame[63]) throw new Error('a packet is not what was sent');
      });
      received += arrived;
      if (arrived === 0) await turn();
    }
    return Number(process.hrtime.bigint() - begin) / PACKETS;
  }

  [Symbol.dispose](): void {
    this.#from[Symbol.dispose]();
    this.#to[Symbol.dispose]();
    this.#host[Symbol.dispose]();
  }
}

async function packets(): Promise<Comparison> {
  using wire = new Wire(false);
  return await compare(
    () => wire.send(),
    () => 5000,
    { rounds: 30, warmUp: 5 },
  );
}

async function watched(packetsForDoorbell?: number): Promise<Comparison> {
  using ours = new Wire(true, packetsForDoorbell);
  using plain = new Wire(false, packetsForDoorbell);
  return await compare(
    () => ours.send(),
    () => plain.send(),
    { rounds: 30, warmUp: 5 },
  );
}

export const rows: readonly Row[] = [
  {
    name: 'trapped register read through a TypeScript model, one thread',
    unit: 'ns',
    target: 'at most 1000 ns',
    measure: sameThread,
  },
  {
    name: 'trapped register read through a TypeScript model, across workers',
    unit: 'us',
    target: 'at most 20 us',
    measure: otherThread,
  },
  {
    name: 'model DMA of 1 MiB against memcpy, read',
    unit: 'us',
    target: 'at most 1.43x (0.7 of memcpy)',
    measure: () => dma(false),
  },
  {
    name: 'model DMA of 1 MiB against memcpy, write',
    unit: 'us',
    target: 'at most 1.43x (0.7 of memcpy)',
    measure: () => dma(true),
  },
  {
    name: 'NIC pair, 64-byte packets, against 5000',
    unit: 'ns',
    target: 'at most 5000 ns (200,000 packets/s)',
    measure: packets,
  },
  {
    name: 'NIC pair, 64-byte packets, with the sanitizer, against without',
    unit: 'ns',
    target: 'at most 2x',
    measure: () => watched(),
  },
  {
    name: 'NIC pair, a doorbell for each packet, with the sanitizer, against without',
    unit: 'ns',
    target: 'at most 2x',
    measure: () => watched(1),
  },
];
