/** DMA of simulated devices that waits for missing pages, by page requests of PCI. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DmaBuffer, DmaError, Host, SimulatedDevice, type SoftwareHost } from '../lib/index.ts';
import { GROUP_OF_TWO, needs } from './support/backends.ts';
import { plug } from './support/bonding.ts';
import { collect, turn } from './support/collect.ts';
import { Open } from './support/open-device.ts';

needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

const BDF = '0000:00:1c.0';

let host: SoftwareHost;
let model: Open;
beforeEach(() => {
  host = Host.open({ backend: 'software' });
  model = new Open();
});
afterEach(() => host[Symbol.dispose]());

describe('DMA that waits for pages', () => {
  /** The device behind an IOMMU that takes page requests, in an address space whose faults come to a queue. */
  function paged() {
    host[Symbol.dispose]();
    host = Host.open({
      backend: 'software',
      software: {
        topology: {
          iommus: [{ kind: 'vtd', pageRequests: 'pri' }],
          devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
        },
      },
    });
    host.software.addDevice(BDF, model);
    const iommufd = host.openIommufd();
    const device = host.openDevice(BDF);
    device.bind(iommufd);
    const ioas = iommufd.allocIoas();
    const queue = iommufd.allocFaultQueue();
    device.attach(iommufd.allocHwpt({ device, parent: ioas, faultQueue: queue }));
    device.config.busMaster = true;
    const memory = DmaBuffer.alloc(0x4000);
    memory.bytes.fill(0x5a);
    return { device, ioas, queue, memory, [Symbol.dispose]: () => memory[Symbol.dispose]() };
  }

  test('the device asks for the page, and reads or writes it when it is there', async () => {
    using at = paged();
    const into = new Uint8Array(8);
    const reading = model.fetch(0x10000n, into);
    const fault = await at.queue.wait({ timeout: 5000 });
    expect(fault).toMatchObject({ access: { read: true, write: false } });
    expect(into[0]).toBe(0);
    at.ioas.map(at.memory, { iova: 0x10000 });
    at.queue.respond(fault, 'success');
    await reading;
    expect(into).toEqual(new Uint8Array(8).fill(0x5a));
    const from = Uint8Array.of(1, 2, 3);
    const writing = model.store(0x10000n, from);
    from.fill(9); // the bytes are those of the call
    await writing;
    expect([...at.memory.bytes.subarray(0, 4)]).toEqual([1, 2, 3, 0x5a]);
    expect(host.software.takeFaults()).toEqual([]);
  });

  test('with a PASID, it can ask to execute, or as the supervisor (2.4)', async () => {
    for (const o of [{ execute: true }, { privileged: true }])
      await expect(model.fetch(0x10000n, new Uint8Array(8), o)).rejects.toThrow(
        `Expected a number beside ${Object.keys(o)[0]} for pasid but received undefined`,
      );
    await expect(model.fetch(0n, new Uint8Array(8), { pasid: 1, execute: 1 as never })).rejects.toThrow(
      'execute',
    );
    await expect(model.store(0n, new Uint8Array(8), { pasid: 1, execute: true } as never)).rejects.toThrow(
      'execute',
    );
    host[Symbol.dispose]();
    const plugged = plug(model, BDF, { kind: 'smmuv3', pageRequests: 'stall' });
    host = plugged.host;
    const { iommufd, device } = plugged;
    const queue = iommufd.allocFaultQueue();
    const ioas = iommufd.allocIoas();
    device.attach(iommufd.allocHwpt({ device, parent: ioas, faultQueue: queue, pasid: true }));
    device.attach(iommufd.allocHwpt({ device, parent: ioas, faultQueue: queue, pasid: true }), { pasid: 3 });
    for (const [asked, seen] of [
      [{}, { execute: false, privileged: false }],
      [{ execute: true }, { execute: true, privileged: false }],
      [{ privileged: true }, { execute: false, privileged: true }],
      [
        { execute: true, privileged: true },
        { execute: true, privileged: true },
      ],
    ]) {
      const reading = model.fetch(0x10000n, new Uint8Array(8), { pasid: 3, ...asked });
      const record = await queue.wait({ timeout: 5000 });
      expect(record).toMatchObject({ pasid: 3, access: { read: true, write: false, ...seen } });
      queue.respond(record, 'invalid');
      await expect(reading).rejects.toThrow(DmaError);
    }
  });

  test('rejects with a DmaError if the request is refused, or there is nobody to ask', async () => {
    using at = paged();
    const reading = model.fetch(0x10000n, new Uint8Array(8));
    at.queue.respond(await at.queue.wait({ timeout: 5000 }), 'invalid');
    await expect(reading).rejects.toThrow(DmaError);
    await expect(reading).rejects.toMatchObject({ iova: 0x10000n, length: 8, write: false });
    at.device.detach();
    await expect(model.store(0x10000n, new Uint8Array(4), { pasid: 3 })).rejects.toMatchObject({
      name: 'DmaError',
      pasid: 3,
      write: true,
    });
    expect(host.software.takeFaults()).toHaveLength(2);
  });

  test('a reset rejects it, and a late answer does nothing', async () => {
    using at = paged();
    const into = new Uint8Array(8);
    const reading = model.fetch(0x10000n, into).catch((error: unknown) => error);
    const fault = await at.queue.wait({ timeout: 5000 });
    await at.device.reset();
    expect(await reading).toBeInstanceOf(DmaError);
    at.ioas.map(at.memory, { iova: 0x10000 });
    expect(() => at.queue.respond(fault, 'success')).not.toThrow(TypeError);
    await host.software.settle();
    expect(into[0]).toBe(0);
  });

  test('the removal rejects it, and before and after there is nothing to wait for', async () => {
    await expect(model.fetch(0n, new Uint8Array(8))).rejects.toThrow(DmaError);
    using at = paged();
    const reading = model.fetch(0x10000n, new Uint8Array(8)).catch((error: unknown) => error);
    await at.queue.wait({ timeout: 5000 });
    at.device[Symbol.dispose]();
    await host.software.removeDevice(BDF);
    expect(await reading).toBeInstanceOf(DmaError);
    await collect(() => !model.plugged);
    await expect(model.fetch(0n, new Uint8Array(8))).rejects.toThrow(DmaError);
  });

  test('an array that is detached meanwhile is an error, and one that nobody looks at ends nothing', async () => {
    using at = paged();
    at.ioas.map(at.memory, { iova: 0x10000 });
    const into = new Uint8Array(8);
    const reading = model.fetch(0x10000n, into);
    structuredClone(into.buffer, { transfer: [into.buffer] });
    await expect(reading).rejects.toThrow(/an array that keeps its length/);
    const given = new Uint8Array(8).fill(1);
    const writing = model.store(0x10000n, given);
    structuredClone(given.buffer, { transfer: [given.buffer] });
    await writing;
    expect(at.memory.bytes[0]).toBe(1);
    model.write = () => void model.fetch(0x7000_0000n, new Uint8Array(4), { pasid: 200 });
    at.device.region('bar0').write32(0, 1);
    await host.software.settle();
    await turn();
    expect(model.errors).toEqual([]);
    expect(host.software.takeFaults()).toHaveLength(1);
  });

  test('wrong arguments reject in words', async () => {
    host.software.addDevice(BDF, model);
    await expect(model.fetch(-1n, new Uint8Array(1))).rejects.toThrow(
      /an unsigned 64-bit integer .* for iova/,
    );
    await expect(model.fetch(0n, 'x' as never)).rejects.toThrow(/a Uint8Array for into/);
    await expect(model.store(0n, {} as never)).rejects.toThrow(/a Uint8Array for from/);
    await expect(model.store(0n, new Uint8Array(1), { pasid: 2 ** 20 })).rejects.toThrow(/for pasid/);
    await expect(model.store(0n, new Uint8Array(1), { pasit: 1 } as never)).rejects.toThrow(/'pasit'/);
  });
});

describe('DMA to the registers of a neighbour', () => {
  /** Reads and writes memory when its test says so; its register does what the test says. */
  class Neighbour extends SimulatedDevice {
    readonly identity = { vendor: 0x1af4, device: 0x10fb, classCode: 0xff0000 };
    override readonly bars = [{ size: 4096 }];
    access: (value?: bigint) => void = () => {};
    override onRead(_: number, offset: number): number {
      this.access();
      return 0x41000000 + offset;
    }
    override onWrite(_: number, __: number, ___: number, value: bigint): void {
      this.access(value);
    }
    read(iova: bigint, into: Uint8Array): void {
      this.dmaRead(iova, into);
    }
    write(iova: bigint, from: Uint8Array): void {
      this.dmaWrite(iova, from);
    }
  }

  test('reaches them, and a model there that detaches the array does no harm', async () => {
    const [reader, peer] = [new Neighbour(), new Neighbour()];
    // Behind one conventional bridge: a request of one reaches the other before the IOMMU.
    host.software.addDevice('0000:03:04.0', reader);
    host.software.addDevice('0000:03:05.0', peer);
    for (const bdf of GROUP_OF_TWO) await host.device(bdf).bind();
    using iommufd = host.openIommufd();
    const [device, other] = ['0000:03:04.0', '0000:03:05.0'].map((bdf) => {
      const opened = host.openDevice(bdf);
      opened.bind(iommufd);
      return opened;
    });
    device!.config.busMaster = true;
    const address = BigInt((other!.config.read32(0x10) & ~0xf) >>> 0);
    const into = new Uint8Array(8);
    reader.read(address + 16n, into);
    expect([...new Uint32Array(into.buffer)]).toEqual([0x41000010, 0x41000014]);
    const stored: bigint[] = [];
    peer.access = (value) => void (value !== undefined && stored.push(value));
    reader.write(address, Uint8Array.of(1, 0, 0, 0, 2, 0, 0, 0));
    expect(stored).toEqual([1n, 2n]);

    for (const access of ['read', 'write'] as const) {
      const bytes = new Uint8Array(4096).fill(7);
      let calls = 0;
      peer.access = () => {
        calls++;
        if (bytes.length > 0) structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
      };
      reader[access](address, bytes);
      expect([bytes.length, calls]).toEqual([0, 1024]);
    }
    expect([...reader.errors, ...peer.errors]).toEqual([]);
    for (const each of [device, other]) each?.[Symbol.dispose]();
  });
});
