/**
 * Shared virtual addressing: two devices use the memory of this process by its own addresses, with no map call: one walks a list,
 * the other is the copy engine of vfio/models. Then one of them is bound to a child process, which is killed.
 *
 *   npm run demo:sva
 *
 * The devices are simulated. The driver's part, from Sva.features on, is what it would be with real ones.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import pc from 'picocolors';
import { Host, RegisterBank, registers, SimulatedDevice, Sva, type SvaBond, view } from '../lib/index.ts';
import { dmaEngineDescriptor as copy, DmaEngine, dmaEngineRegisters } from '../lib/models/index.ts';

const PAGE = 4096;

const map = registers({
  pasid: { offset: 0x00, width: 4, doc: 'the PASID of all accesses' },
  first: { offset: 0x08, width: 8, doc: 'the address of the first node' },
  marks: { offset: 0x10, width: 8, doc: 'where it marks what it has seen, a page for each node' },
  count: { offset: 0x18, width: 4, access: 'ro', doc: 'how many nodes were walked' },
  sum: { offset: 0x20, width: 8, access: 'ro', doc: 'the sum of the values' },
  start: { offset: 0x28, width: 4, access: 'wo', doc: 'doorbell' },
});

/** Follows the pointers of a list, and adds up its values. */
class Walker extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10fb, classCode: 0x120000 };
  override readonly express = true;
  override readonly functionReset = true;
  override readonly pasidBits = 8;
  override readonly pageRequests = true;
  override readonly msix = 1;
  readonly #bank = new RegisterBank(map, { start: { onWrite: () => this.post(() => this.#walk()) } });
  override readonly bars = [{ size: PAGE, registers: this.#bank }];

  async #walk(): Promise<void> {
    const { first, marks, count, sum } = this.#bank.registers;
    const pasid = this.#bank.registers.pasid.read();
    const node = new DataView(new ArrayBuffer(16));
    let total = 0n;
    let nodes = 0;
    for (let at = first.read(); at !== 0n; at = node.getBigUint64(0, true)) {
      await this.dmaReadAsync(at, new Uint8Array(node.buffer), { pasid });
      total += node.getBigUint64(8, true);
      await this.dmaWriteAsync(marks.read() + BigInt(nodes * PAGE), Uint8Array.of(1), { pasid });
      count.write(++nodes);
    }
    sum.write(total);
    this.interrupt(0);
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
host.software.addDevice('0000:00:1d.0', new DmaEngine());

/** A device that is bound to this process. */
async function open(bdf: string) {
  await host.device(bdf).bind();
  const { device } = host.attach(bdf);
  device.config.busMaster = true;
  Sva.features(device).enable('sva');
  return { device, bond: Sva.bind(device), bar: device.region('bar0'), irq: device.irq('msix').enable(1)[0] };
}

const walker = await open('0000:00:1c.0');
const engine = await open('0000:00:1d.0');
console.log(
  `two devices share this process: way ${pc.bold(walker.bond.way)}, PASID ${walker.bond.pasid} for both (${walker.bond.pasid === engine.bond.pasid})`,
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
const walk = view(walker.bar, map);
walk.pasid.write(walker.bond.pasid ?? 0);
walk.first.write(addresses[0] ?? 0n);
walk.marks.write(walker.bond.pointer(marks));

/** The page faults of this process, as the kernel counts them, in each slice of time. */
const slices: number[] = [];
let before = process.resourceUsage().minorPageFault;
const timer = setInterval(() => {
  const now = process.resourceUsage().minorPageFault;
  slices.push(now - before);
  before = now;
}, 2);
const walked = walker.irq.wait({ timeout: 5000 });
walk.start.write(1);
await walked;
clearInterval(timer);
slices.push(process.resourceUsage().minorPageFault - before);
const bars = '▁▂▃▄▅▆▇█';
const most = Math.max(1, ...slices);
console.log(`the walker followed ${walk.count.read()} pointers, sum ${walk.sum.read()}`);
console.log(
  `page faults of the process, every 2 ms: ${pc.cyan(slices.map((each) => bars[Math.ceil((each / most) * (bars.length - 1))]).join(''))}  ${slices.reduce((sum, each) => sum + each, 0)} in all`,
);
if (marks.filter((each) => each === 1).length !== NODES) throw new Error('a mark is missing');

// The engine's descriptor is ordinary memory too.
const channel = view(engine.bar, dmaEngineRegisters);
channel.channelPasid.update({ pasid: engine.bond.pasid ?? 0, enable: 1 });
const descriptor = aligned(engine.bond, copy.size);
const completion = aligned(engine.bond, copy.completionSize);

/** Memory at a multiple of its size, and its address. */
function aligned(bond: SvaBond, size: number) {
  const room = new ArrayBuffer(2 * size);
  const start = bond.pointer(room);
  const skip = (size - Number(start % BigInt(size))) % size;
  return { data: new DataView(room, skip, size), address: start + BigInt(skip) };
}

/** Has the engine copy. What it says of it: one of dmaEngineDescriptor's. */
async function copied(source: bigint, destination: bigint, length: number): Promise<number> {
  descriptor.data.setBigUint64(0, source, true);
  descriptor.data.setBigUint64(8, destination, true);
  descriptor.data.setBigUint64(16, completion.address, true);
  descriptor.data.setUint32(24, length, true);
  descriptor.data.setUint32(28, copy.interrupt | copy.completion, true);
  const over = engine.irq.wait({ timeout: 5000 });
  channel.submit.write(descriptor.address);
  await over;
  return completion.data.getUint32(0, true);
}

const squares = Float64Array.from({ length: 100_000 }, (_, each) => each * each);
const results = new Float64Array(squares.length);
const from = engine.bond.pointer(squares);
const status = await copied(from, engine.bond.pointer(results), squares.byteLength);
console.log(
  `the engine copied ${squares.length} squares: ${status === copy.success ? 'done' : 'failed'}, results[99999] is ${results[99_999]}`,
);

// A pointer to nowhere: the fault is told, and the device's access fails.
const awake = setInterval(() => {}, 100); // waiting for a fault does not keep a process alive
const fault = new Promise<string>((resolve) => {
  engine.bond.setOps({ fault: ({ address, reason }) => resolve(`0x${address.toString(16)}: ${reason}`) });
});
const refused = await copied(from, 0x1000n, 8);
console.log(
  `a pointer to nowhere: ${await fault}; the device ${refused === copy.destinationFault ? 'was told' : 'went on'}`,
);
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
