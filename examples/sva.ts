/**
 * Shared virtual addressing: two devices use the memory of this process by its own addresses, with no map call. Then one of them
 * is bound to a child process, which is killed.
 *
 *   npm run demo:sva
 *
 * The devices are simulated. The driver's part, from Sva.features on, is what it would be with real ones.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import pc from 'picocolors';
import { Host, RegisterBank, registers, SimulatedDevice, Sva, view } from '../lib/index.ts';

const PAGE = 4096;

const map = registers({
  pasid: { offset: 0x00, width: 4, doc: 'the PASID of all accesses' },
  first: { offset: 0x08, width: 8, doc: 'walker: the address of the first node. Writer: where to write' },
  marks: { offset: 0x10, width: 8, doc: 'walker: where it marks what it has seen, a page for each node' },
  count: { offset: 0x18, width: 4, doc: 'how many nodes were walked, or numbers are to be written' },
  sum: { offset: 0x20, width: 8, doc: 'the sum of the values' },
  start: { offset: 0x28, width: 4, access: 'wo', doc: 'doorbell' },
  done: { offset: 0x2c, width: 4, access: 'ro', doc: '1: done; 2: an access failed' },
});

/** The part that both devices have. */
abstract class Accelerator extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10fb, classCode: 0x120000 };
  override readonly express = true;
  override readonly functionReset = true;
  override readonly pasidBits = 8;
  override readonly pageRequests = true;
  override readonly msi = 1;
  protected readonly bank = new RegisterBank(map, { start: { onWrite: () => this.post(() => this.#run()) } });
  override readonly bars = [{ size: PAGE, registers: this.bank }];

  protected abstract work(pasid: number): Promise<void>;

  async #run(): Promise<void> {
    const { pasid, done } = this.bank.registers;
    done.write(0);
    try {
      await this.work(pasid.read());
      done.write(1);
    } catch {
      done.write(2);
    }
    this.interrupt(0);
  }
}

/** Follows the pointers of a list, and adds up its values. */
class Walker extends Accelerator {
  protected async work(pasid: number): Promise<void> {
    const { first, marks, count, sum } = this.bank.registers;
    const node = new DataView(new ArrayBuffer(16));
    let total = 0n;
    let nodes = 0;
    for (let at = first.read(); at !== 0n; at = node.getBigUint64(0, true)) {
      await this.dmaReadAsync(at, new Uint8Array(node.buffer), { pasid });
      total += node.getBigUint64(8, true);
      if (marks.read() !== 0n)
        await this.dmaWriteAsync(marks.read() + BigInt(nodes * PAGE), Uint8Array.of(1), { pasid });
      count.write(++nodes);
    }
    sum.write(total);
  }
}

/** Writes the square numbers. */
class Writer extends Accelerator {
  protected async work(pasid: number): Promise<void> {
    const { first, count } = this.bank.registers;
    const squares = Float64Array.from({ length: count.read() }, (_, each) => each * each);
    await this.dmaWriteAsync(first.read(), new Uint8Array(squares.buffer), { pasid });
  }
}

using host = Host.open({
  backend: 'software',
  software: {
    topology: {
      iommus: [{ kind: 'vtd', pasidBits: 8, pageRequests: 'pri' }],
      devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
    },
  },
});
host.software.addDevice('0000:00:1c.0', new Walker());
host.software.addDevice('0000:00:1d.0', new Writer());

/** A device that is bound to this process. */
async function open(bdf: string) {
  await host.device(bdf).bind();
  const { device } = host.attach(bdf);
  device.config.busMaster = true;
  Sva.features(device).enable('sva');
  const bond = Sva.bind(device);
  const r = view(device.region('bar0'), map);
  const irq = device.irq('msi').enable(1)[0];
  const run = async () => {
    r.pasid.write(bond.pasid ?? 0);
    const over = irq.wait();
    r.start.write(1);
    await over;
    return r.done.read() === 1;
  };
  return { device, bond, r, run };
}

const walker = await open('0000:00:1c.0');
const writer = await open('0000:00:1d.0');
console.log(
  `two devices share this process: way ${pc.bold(walker.bond.way)}, PASID ${walker.bond.pasid} for both (${walker.bond.pasid === writer.bond.pasid})`,
);

// A list in ordinary memory: each node is a buffer of its own.
const NODES = 512;
const nodes = Array.from({ length: NODES }, () => new DataView(new ArrayBuffer(16)));
const addresses = nodes.map((node) => walker.bond.pointer(node));
for (const [index, node] of nodes.entries()) {
  node.setBigUint64(0, addresses[index + 1] ?? 0n, true);
  node.setBigUint64(8, BigInt(index), true);
}
// Memory that nobody has touched yet: the kernel brings in each page when the device first writes to it.
const marks = new Uint8Array(NODES * PAGE);
walker.r.first.write(addresses[0] ?? 0n);
walker.r.marks.write(walker.bond.pointer(marks));

/** The page faults of this process, as the kernel counts them, in each slice of time. */
const slices: number[] = [];
let before = process.resourceUsage().minorPageFault;
const timer = setInterval(() => {
  const now = process.resourceUsage().minorPageFault;
  slices.push(now - before);
  before = now;
}, 2);
const walked = await walker.run();
clearInterval(timer);
slices.push(process.resourceUsage().minorPageFault - before);
const bars = '▁▂▃▄▅▆▇█';
const most = Math.max(1, ...slices);
console.log(
  `the walker followed ${walker.r.count.read()} pointers, sum ${walker.r.sum.read()} (${walked ? 'done' : 'failed'})`,
);
console.log(
  `page faults of the process, every 2 ms: ${pc.cyan(slices.map((each) => bars[Math.ceil((each / most) * (bars.length - 1))]).join(''))}  ${slices.reduce((sum, each) => sum + each, 0)} in all`,
);
if (marks.filter((each) => each === 1).length !== NODES) throw new Error('a mark is missing');

const squares = new Float64Array(100_000);
writer.r.first.write(writer.bond.pointer(squares));
writer.r.count.write(squares.length);
await writer.run();
console.log(`the writer wrote ${squares.length} squares: squares[99999] is ${squares[99_999]}`);

// A pointer to nowhere: the fault is told, and the device's access fails.
const awake = setInterval(() => {}, 100); // waiting for a fault does not keep a process alive
const fault = new Promise<string>((resolve) => {
  writer.bond.setOps({ fault: ({ address, reason }) => resolve(`0x${address.toString(16)}: ${reason}`) });
});
writer.r.first.write(0x1000n);
const wrote = await writer.run();
console.log(`a pointer to nowhere: ${await fault}; the device ${wrote ? 'went on' : 'was told'}`);
clearInterval(awake);

// Another process, by its pid: the same device gets another PASID, until the process is killed.
walker.bond[Symbol.dispose]();
const child = spawn(process.execPath, ['-e', 'console.log("here"); setInterval(() => {}, 1000)']);
await once(child.stdout, 'data');
const other = Sva.bind(walker.device, { mm: { pid: child.pid as number } });
const exited = new Promise<void>((resolve) => {
  other.setOps({ mmExit: () => resolve() });
});
console.log(`the walker is bound to the child ${child.pid}: PASID ${other.pasid}`);
child.kill('SIGKILL');
await exited;
console.log(`the child was killed: mmExit was called, the PASID is ${other.pasid}`);
other[Symbol.dispose]();
