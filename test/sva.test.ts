/** Shared virtual addressing by the IOMMU itself, on the software host: requirements C1 to C9. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  DmaBuffer,
  DmaError,
  Host,
  Ioas,
  type SoftwareHost,
  Sva,
  SvaBond,
  type SvaFault,
  type Topology,
  type UserDevice,
} from '../lib/index.ts';
import { Toucher } from './fixtures/toucher.ts';
import { needs } from './support/backends.ts';
import { collect, turn } from './support/collect.ts';
import { packageUrl, run } from './support/program.ts';

needs({ backends: ['software'], because: 'VFIO of a real kernel has no call that binds a process' });

const A = '0000:00:1c.0';
const B = '0000:00:1d.0';
const VTD: Topology = {
  iommus: [{ kind: 'vtd', pasidBits: 8, pageRequests: 'pri' }],
  devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
};

let host: SoftwareHost;
let a: Toucher;
let b: Toucher;
let ofA: UserDevice;
let ofB: UserDevice;
const children: ChildProcess[] = [];

function open(topology = VTD, kernel?: string): void {
  host = Host.open({ backend: 'software', software: { topology, ...(kernel && { kernel }) } });
}

function plug(bdf: string, model: Toucher): UserDevice {
  host.software.addDevice(bdf, model);
  const user = host.attach(bdf);
  user.device.config.busMaster = true;
  return user;
}

beforeEach(() => {
  open();
  a = new Toucher();
  b = new Toucher();
  ofA = plug(A, a);
  ofB = plug(B, b);
});

afterEach(() => {
  host[Symbol.dispose]();
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

const enable = (user: UserDevice) => Sva.features(user.device).enable('sva');

function bindA<T = undefined>(o?: Parameters<typeof Sva.bind<T>>[1]): SvaBond<T> {
  if (!Sva.features(ofA.device).enabled('sva')) enable(ofA);
  return Sva.bind<T>(ofA.device, o);
}

const pasidOf = (bond: SvaBond<unknown>): number => {
  expect(bond.pasid).not.toBeNull();
  return bond.pasid as number;
};

/** A process that waits, with the address of a buffer in it. */
async function startChild(): Promise<{
  child: ChildProcess;
  lines: Interface;
  address: bigint;
  ask(): Promise<string>;
}> {
  const script = new URL('./fixtures/shared-process.mjs', import.meta.url).pathname;
  const child = spawn(process.execPath, [script, packageUrl()], { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
  const line = async () => String((await once(lines, 'line'))[0]);
  const address = BigInt(await line());
  return {
    child,
    lines,
    address,
    ask: () => {
      const answer = line();
      child.stdin?.write('tell\n');
      return answer;
    },
  };
}

interface WebAssemblyHere {
  WebAssembly: { Memory: new (o: { initial: number }) => { buffer: ArrayBuffer } };
}
const wasmMemory = () =>
  new (globalThis as unknown as WebAssemblyHere).WebAssembly.Memory({ initial: 1 }).buffer;

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).replace(/\0+$/, '');
const bytesOf = (value: string) => new TextEncoder().encode(value);

describe('C1: features', () => {
  test('has, enable, enabled, disable; out of order they are refused', () => {
    const features = Sva.features(ofA.device);
    expect([features.has('sva'), features.enabled('sva')]).toEqual([true, false]);
    expect(() => features.disable('sva')).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    features.enable('sva');
    expect(features.enabled('sva')).toBe(true);
    expect(() => features.enable('sva')).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    const bond = Sva.bind(ofA.device);
    expect(() => features.disable('sva')).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    bond[Symbol.dispose]();
    features.disable('sva');
    expect(features.enabled('sva')).toBe(false);
  });

  test('they are per device', () => {
    enable(ofA);
    expect(Sva.features(ofB.device).enabled('sva')).toBe(false);
  });

  test('bind before enable fails, and says what to do', () => {
    expect(() => Sva.bind(ofA.device)).toThrow(
      expect.objectContaining({ code: 'EINVAL', hint: "Sva.features(device).enable('sva') enables it" }),
    );
  });

  test.each([
    ['no PASIDs', VTD, new Toucher(0)],
    [
      'an IOMMU without PASIDs',
      {
        iommus: [{ kind: 'vtd', pageRequests: 'pri' }],
        devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
      },
      new Toucher(),
    ],
    [
      'an IOMMU without page requests',
      { iommus: [{ kind: 'vtd', pasidBits: 8 }], devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }] },
      new Toucher(),
    ],
    [
      'a virtio-iommu',
      {
        iommus: [{ kind: 'virtio', isolatesInterrupts: true }],
        devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
      },
      new Toucher(),
    ],
  ] as const)('%s: the native way is not there', (_, topology, model) => {
    host[Symbol.dispose]();
    open(topology as unknown as Topology);
    const user = plug(A, model);
    enable(user); // the other ways can be
    expect(() => Sva.bind(user.device, { ways: ['native'] })).toThrow(
      expect.objectContaining({ reason: expect.stringContaining('native') }),
    );
  });
});

describe('C2, C3: bonds and PASIDs', () => {
  test('S03, S04: two devices of one process have two handles and one PASID, the first is 1', () => {
    enable(ofB);
    const one = bindA();
    const other = Sva.bind(ofB.device);
    expect(one).not.toBe(other);
    expect([one.pasid, other.pasid]).toEqual([1, 1]);
  });

  test('S01: binds are counted; the last unbind ends the bond', () => {
    const first = bindA();
    const second = bindA();
    const memory = new Uint8Array(bytesOf('counted'));
    const pointer = second.pointer(memory);
    const pasid = pasidOf(second);
    first[Symbol.dispose]();
    expect(text(a.read(pasid, pointer, 7))).toBe('counted');
    second[Symbol.dispose]();
    expect(() => a.read(pasid, pointer, 7)).toThrow(DmaError);
  });

  test('S02: an exclusive bind of a pair that is bound is EEXIST', () => {
    bindA();
    expect(() => bindA({ exclusive: true })).toThrow(expect.objectContaining({ code: 'EEXIST' }));
  });

  test('S05, S06: a PASID that the device cannot carry: EOVERFLOW; none left: ENOSPC', async () => {
    const narrow = plug('0000:00:1e.0', new Toucher(1));
    enable(narrow);
    enable(ofB);
    const { child } = await startChild();
    const other = Sva.bind(ofB.device, { mm: { pid: child.pid as number } });
    expect(other.pasid).toBe(1);
    expect(() => Sva.bind(narrow.device)).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
    const own = bindA();
    expect(own.pasid).toBe(2);
    expect(() => Sva.bind(narrow.device)).toThrow(expect.objectContaining({ code: 'EOVERFLOW' }));
  });

  test('S10: a PASID is not given again while a bond is left, and is given again then', async () => {
    enable(ofB);
    const { child } = await startChild();
    const bond = Sva.bind(ofB.device, { mm: { pid: child.pid as number } });
    child.kill('SIGKILL');
    await once(child, 'exit');
    await expect.poll(() => bond.exited).toBe(true);
    const own = bindA();
    expect(own.pasid).toBe(2);
    bond[Symbol.dispose]();
    own[Symbol.dispose]();
    expect(bindA().pasid).toBe(1);
  });

  test('a closed device has no bond, and its handle is disposed', () => {
    const bond = bindA();
    ofA[Symbol.dispose]();
    expect(bond.disposed).toBe(true);
  });
});

describe('C4, C5: what a bond is told', () => {
  test('the data of the bind is on the bond', () => {
    const data = { queue: 7 };
    expect(bindA({ data }).data).toBe(data);
  });

  test('S11, S12: the end of another process: mmExit once, the PASID is null, accesses end, unbind still works', async () => {
    const { child, address } = await startChild();
    const bond = bindA({ mm: { pid: child.pid as number } });
    const exits: unknown[] = [];
    bond.setOps({ mmExit: (which) => exits.push(which) });
    const pasid = pasidOf(bond);
    expect(text(a.read(pasid, address, 12))).toBe('of the child');
    child.kill('SIGKILL');
    await once(child, 'exit');
    await expect.poll(() => exits).toEqual([bond]);
    expect([bond.pasid, bond.exited]).toEqual([null, true]);
    expect(() => a.read(pasid, address, 12)).toThrow(DmaError);
    await expect(a.readLater(pasid, address, 12)).rejects.toThrow(DmaError);
    bond[Symbol.dispose]();
    bond[Symbol.dispose]();
    expect(exits).toHaveLength(1);
  });

  test('this process: mmExit is called while it exits, once', async () => {
    const { stdout } = await run(`
      class Device extends vfio.SimulatedDevice {
        identity = { vendor: 0x1af4, device: 0x10f2, classCode: 0xff0000 };
        bars = [{ size: 4096 }]; express = true; functionReset = true; pageRequests = true; pasidBits = 8;
      }
      const host = Host.open({ backend: 'software', software: { topology: ${JSON.stringify(VTD)} } });
      host.software.addDevice('${A}', new Device());
      const { device } = host.attach('${A}');
      vfio.Sva.features(device).enable('sva');
      const bond = vfio.Sva.bind(device, { data: 'mine' });
      bond.setOps({ mmExit: ({ data, pasid }) => console.log('exit', data, pasid) });
      held.push(host, bond);
    `);
    expect(stdout.trim()).toBe('exit mine null');
  });

  test('an access that has no memory: fault, with the reason, and the access ends at the device', async () => {
    const bond = bindA();
    const faults: SvaFault[] = [];
    bond.setOps({ fault: (fault) => faults.push(fault) });
    const pasid = pasidOf(bond);
    await expect(a.readLater(pasid, 0x1000n, 4)).rejects.toThrow(DmaError);
    await expect.poll(() => faults.length).toBe(1);
    expect(faults[0]).toMatchObject({
      pasid,
      address: 0x1000n,
      access: { read: true, write: false },
      reason: 'nothing is mapped there',
    });
  });
});

describe('C4: functions of the program that go wrong', () => {
  test('one that throws loses no later event', async () => {
    const { stdout } = await run(`
      class Device extends vfio.SimulatedDevice {
        identity = { vendor: 0x1af4, device: 0x10f2, classCode: 0xff0000 };
        bars = [{ size: 4096 }]; express = true; functionReset = true; pageRequests = true; pasidBits = 8;
        touch(pasid) {
          try {
            this.dmaRead(0x1000, new Uint8Array(1), { pasid });
          } catch (error) {
            if (!(error instanceof vfio.DmaError)) throw error;
          }
        }
      }
      const host = Host.open({ backend: 'software', software: { topology: ${JSON.stringify(VTD)} } });
      const model = new Device();
      host.software.addDevice('${A}', model);
      const { device } = host.attach('${A}');
      device.config.busMaster = true;
      vfio.Sva.features(device).enable('sva');
      const bonds = [1, 2, 3].map((data) => vfio.Sva.bind(device, { data }));
      held.push(host, bonds);
      process.on('uncaughtException', ({ message }) => console.log('uncaught', message));
      let told = 0;
      bonds[0].setOps({ fault() { told++; throw new Error('of fault'); } });
      for (const bond of bonds.slice(1)) bond.setOps({ mmExit({ data }) { console.log('exit', data); throw new Error('of exit'); } });
      model.touch(bonds[0].pasid);
      while (told < 1) await sleep(1);
      model.touch(bonds[0].pasid);
      while (told < 2) await sleep(1);
    `);
    expect(stdout.trim().split('\n')).toEqual(
      expect.arrayContaining(['uncaught of fault', 'exit 2', 'exit 3']),
    );
    expect(stdout.match(/uncaught of fault/g)).toHaveLength(2);
  });

  test('mmExit for another process keeps this one alive until it was called; for this one it does not', async () => {
    const script = new URL('./fixtures/shared-process.mjs', import.meta.url).pathname;
    const { code, stdout, stderr } = await run(`
      import { spawn } from 'node:child_process';
      import { once } from 'node:events';
      class Device extends vfio.SimulatedDevice {
        identity = { vendor: 0x1af4, device: 0x10f2, classCode: 0xff0000 };
        bars = [{ size: 4096 }]; express = true; functionReset = true; pageRequests = true; pasidBits = 8;
      }
      const host = Host.open({ backend: 'software', software: { topology: ${JSON.stringify(VTD)} } });
      host.software.addDevice('${A}', new Device());
      const { device } = host.attach('${A}');
      vfio.Sva.features(device).enable('sva');
      const own = vfio.Sva.bind(device);
      own.setOps({ mmExit: () => console.log('own') });
      const child = spawn(process.execPath, ['${script}', PACKAGE], { stdio: ['pipe', 'pipe', 'inherit'] });
      await once(child.stdout, 'data');
      const bond = vfio.Sva.bind(device, { mm: { pid: child.pid } });
      held.push(host, own, bond);
      for (const each of [child, child.stdin, child.stdout]) each.unref();
      const ended = new Promise((resolve) => bond.setOps({ mmExit: () => resolve('told') }));
      process.kill(child.pid);
      console.log(await ended);
    `);
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: 'told\nown\n', stderr: '' });
  });

  test('ops that come after the end are told of it', async () => {
    const { child } = await startChild();
    const bond = bindA({ mm: { pid: child.pid as number } });
    child.kill('SIGKILL');
    await once(child, 'exit');
    await expect.poll(() => bond.exited).toBe(true);
    await expect.poll(() => bond.pasid).toBeNull();
    await turn();
    await turn();
    let exits = 0;
    bond.setOps({ mmExit: () => exits++ });
    await expect.poll(() => exits).toBe(1);
  });
});

test('a transfer over the last address is a fault, by every way', async () => {
  const bond = bindA();
  const pasid = pasidOf(bond);
  await expect(a.readLater(pasid, 0xffff_ffff_ffff_f000n, 8192)).rejects.toThrow(DmaError);
  expect(() => a.write(pasid, 0xffff_ffff_ffff_f000n, new Uint8Array(8192))).toThrow(DmaError);
  host[Symbol.dispose]();
  open({ ...VTD, iommus: [{ kind: 'amd', pageRequests: 'pri', pasidBits: 8 }] });
  const other = new Toucher();
  const user = plug(A, other);
  const { dma } = user;
  if (!(dma instanceof Ioas)) throw new Error('this needs an Ioas');
  const queue = dma.iommufd.allocFaultQueue();
  const hwpt = dma.iommufd.allocHwpt({ device: user.device, parent: dma, faultQueue: queue });
  user.device.attach(hwpt);
  const waiting = other.readPlain(0xffff_ffff_ffff_f000n, 8192);
  waiting.catch(() => {});
  user[Symbol.dispose](); // refuses what waits
  await expect(waiting).rejects.toThrow(DmaError);
});

describe('C6: what cannot be bound', () => {
  test('not a device, not an option, a bad process', () => {
    enable(ofA);
    expect(() => Sva.bind({} as never)).toThrow('Expected a VfioDevice for device');
    expect(() => Sva.bind(ofA.device, { extra: 1 } as never)).toThrow('extra');
    expect(() => Sva.bind(ofA.device, { mm: 'all' as never })).toThrow("Expected 'self' or { pid } for mm");
    expect(() => Sva.bind(ofA.device, { mm: { pid: 0 } })).toThrow('mm.pid');
    expect(() => Sva.bind(ofA.device, { mm: { pid: 2 ** 22 + 1 } })).toThrow(
      expect.objectContaining({ code: 'ESRCH' }),
    );
  });
});

describe('C7: page requests', () => {
  test('a page that was never touched is brought in, for a read and for a write', async () => {
    const bond = bindA();
    const pasid = pasidOf(bond);
    using memory = DmaBuffer.alloc(64 * 4096); // fresh pages of an anonymous mapping
    const at = bond.pointer(memory.bytes);
    expect(await a.readLater(pasid, at + 4096n, 8)).toEqual(new Uint8Array(8));
    await a.writeLater(pasid, at + 9n * 4096n - 4n, bytesOf('across a page'));
    expect(text(memory.bytes.subarray(9 * 4096 - 4, 9 * 4096 + 9))).toBe('across a page');
    a.write(pasid, at + 20n * 4096n, bytesOf('at once'));
    expect(text(memory.bytes.subarray(20 * 4096, 20 * 4096 + 7))).toBe('at once');
  });

  test('a request that is lost is answered by the unbind, and the device is told', async () => {
    const bond = bindA();
    const pasid = pasidOf(bond);
    using lost = host.software.injectFault({ device: A, pageRequest: 'silent' });
    void lost;
    using memory = DmaBuffer.alloc(4096);
    const waiting = a.readLater(pasid, bond.pointer(memory.bytes), 8);
    waiting.catch(() => {});
    bond[Symbol.dispose]();
    await expect(waiting).rejects.toThrow(DmaError);
  });
});

describe('C8: any memory of the process', () => {
  test('buffers of every kind, without a map call', () => {
    const bond = bindA();
    const pasid = pasidOf(bond);
    const kinds: [string, ArrayBuffer | ArrayBufferView][] = [
      ['an ArrayBuffer', new ArrayBuffer(40)],
      ['a small array', new Uint8Array(16)],
      ['a large array', new Float64Array(100_000)],
      ['a Buffer of the pool', Buffer.from('a buffer of the pool')],
      ['a part', new DataView(new ArrayBuffer(100), 30, 40)],
      ['shared memory', new Uint8Array(new SharedArrayBuffer(64))],
      ['memory of WebAssembly', new Uint8Array(wasmMemory(), 8, 24)],
    ];
    for (const [name, memory] of kinds) {
      const bytes = ArrayBuffer.isView(memory)
        ? new Uint8Array(memory.buffer, memory.byteOffset, memory.byteLength)
        : new Uint8Array(memory);
      const pointer = bond.pointer(memory);
      a.write(pasid, pointer, bytesOf('device wrote'));
      expect(text(bytes.subarray(0, 12)), name).toBe('device wrote');
      bytes.set(bytesOf('driver'));
      expect(text(a.read(pasid, pointer, 6)), name).toBe('driver');
    }
  });

  test('pointer keeps the memory; run keeps it while the function runs', async () => {
    const bond = bindA();
    const collected: string[] = [];
    const registry = new FinalizationRegistry<string>((name) => collected.push(name));
    const give = (name: string, pointer: (memory: ArrayBuffer) => bigint) => {
      const memory = new ArrayBuffer(1 << 20);
      registry.register(memory, name);
      pointer(memory);
    };
    give('kept', (memory) => bond.pointer(memory));
    await bond.run(async (pointer) => {
      give('of run', pointer);
      await collect();
      expect(collected).toEqual([]);
    });
    await collect(() => collected.length > 0);
    expect(collected).toEqual(['of run']);
    bond[Symbol.dispose]();
    await collect(() => collected.length > 1);
    expect(collected).toEqual(['of run', 'kept']);
  });

  test('memory whose place can change is refused', () => {
    const bond = bindA();
    const Resizable = ArrayBuffer as unknown as new (size: number, o: object) => ArrayBuffer;
    expect(() => bond.pointer(new Resizable(8, { maxByteLength: 64 }))).toThrow('whose length is fixed');
    expect(() => bond.pointer([] as never)).toThrow('Expected an ArrayBuffer, or a view of one');
    const detached = new ArrayBuffer(8);
    structuredClone(detached, { transfer: [detached] });
    expect(() => bond.pointer(detached)).toThrow();
  });

  test('another process: its memory, by its pid', async () => {
    const { child, address, ask } = await startChild();
    const bond = bindA({ mm: { pid: child.pid as number } });
    const pasid = pasidOf(bond);
    expect(text(a.read(pasid, address, 12))).toBe('of the child');
    a.write(pasid, address, bytesOf('from outside\0'));
    expect(await ask()).toBe('from outside');
    await a.writeLater(pasid, address + 4096n, bytesOf('!'));
    expect(text(await a.readLater(pasid, address + 4096n, 1))).toBe('!');
  });
});

test('C9: no privileged PASID, and no guest table, is offered: the bond has the rights of the process', () => {
  expect(Object.getOwnPropertyNames(SvaBond.prototype)).not.toContain('privileged');
  expect(() => Sva.bind(ofA.device, { supervisor: true } as never)).toThrow('supervisor');
});

test('S26: a device may execute only what the process may; VT-d refuses to execute and read', async () => {
  // Memory of this test that no device has touched: it is not there yet, and not executable.
  const fresh = () => new Uint8Array(0x200000).subarray(0x100000, 0x101000);
  const amd: Topology = {
    iommus: [{ kind: 'amd', pasidBits: 8, pageRequests: 'pri' }],
    devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
  };
  for (const [topology, told] of [
    [amd, [{ read: true, write: false, execute: true, privileged: false }]],
    [VTD, []],
  ] as const) {
    host[Symbol.dispose]();
    open(topology);
    a = new Toucher();
    ofA = plug(A, a);
    const bond = bindA();
    const faults: SvaFault[] = [];
    bond.setOps({ fault: (fault) => faults.push(fault) });
    await expect(a.runLater(pasidOf(bond), bond.pointer(fresh()), 4)).rejects.toThrow(DmaError);
    expect(await a.readLater(pasidOf(bond), bond.pointer(fresh()), 4)).toEqual(new Uint8Array(4));
    await expect.poll(() => faults.map((each) => each.access)).toEqual(told);
  }
});

describe('the DMA sanitizer', () => {
  test('does not call it an overlap when the first device wrote before its bond ended', () => {
    const bond = bindA();
    enable(ofB);
    const other = Sva.bind(ofB.device);
    const memory = new Uint8Array(4096);
    const overlaps = (unbind: boolean) => {
      host.software.report.clear();
      for (const user of [ofB, ofA]) user.device.region('bar0').write32(0, 0);
      a.write(pasidOf(bond), bond.pointer(memory), bytesOf('one'));
      const { pasid } = other;
      if (unbind) bond[Symbol.dispose]();
      b.write(pasid, other.pointer(memory), bytesOf('two'));
      return host.software.report.findings.map((each) => each.kind);
    };
    expect(overlaps(false)).toEqual(['overlapping-writes']);
    expect(overlaps(true)).toEqual([]);
  });
});

test('the demo runs to its end (npm run demo:sva)', async () => {
  const demo = new URL('../dist/examples/sva.js', import.meta.url).pathname;
  const child = spawn(process.execPath, [demo], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NO_COLOR: '1' },
  });
  children.push(child);
  let output = '';
  child.stdout?.on('data', (piece: Buffer) => {
    output += piece.toString();
  });
  const [code] = (await once(child, 'close')) as [number | null];
  expect(output).toMatch(/the walker followed 512 pointers, sum 130816/);
  expect(output).toMatch(/the engine copied 100000 squares: done, results\[99999\] is 9999800001/);
  expect(output).toMatch(/a pointer to nowhere: 0x1000: nothing is mapped there; the device was told/);
  expect(output).toMatch(/the child was killed: mmExit was called, the PASID is null/);
  expect(code).toBe(0);
});
