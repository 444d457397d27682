/**
 * Fault queues (requirement C7: page faults are queued, answered and flushed): a device accesses memory that is not mapped, and
 * waits. The queue itself is tested on both backends; the faults come from a simulated IOMMU, since QEMU's has no page requests.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  DmaBuffer,
  type FaultQueue,
  Host,
  type Ioas,
  type Iommufd,
  type IoPageFault,
  type VfioDevice,
} from '../lib/index.ts';
import { backend, EDU, needs, openHost } from './support/backends.ts';
import { collect, descriptors, descriptorsAtRest, descriptorsSettle, turn } from './support/collect.ts';
import { dropsOnPurpose } from './support/dropped.ts';
import { BUFFER, type Edu, Reg } from './support/edu.ts';
import { bound, machine } from './support/iommu.ts';
import { run } from './support/program.ts';

const code = (expected: string) => expect.objectContaining({ code: expected });

describe('a queue', () => {
  let host: Host;
  let iommufd: Iommufd;
  beforeEach(() => {
    host = openHost();
    iommufd = host.openIommufd();
  });
  afterEach(() => host[Symbol.dispose]());

  test('has an id among all objects and a descriptor of its own, and its disposal ends both', async () => {
    const before = descriptors();
    const queue = iommufd.allocFaultQueue();
    expect(queue.id).toBe(1);
    expect(descriptors()).toBeGreaterThan(before);
    expect(() => iommufd.destroy(queue.id)).toThrow(
      expect.objectContaining({ code: 'EBUSY', reason: expect.stringMatching(/its descriptor is open/) }),
    );
    queue[Symbol.dispose]();
    queue[Symbol.dispose]();
    expect(() => iommufd.destroy(1)).toThrow(code('ENOENT'));
    await turn();
    expect(descriptors()).toBe(before);
    expect(iommufd.allocFaultQueue().id).toBe(1);
  });

  test('that is empty gives null, and waiting ends by timeout or signal (64)', async () => {
    const queue = iommufd.allocFaultQueue();
    expect(queue.poll()).toBeNull();
    await expect(queue.wait({ timeout: 20 })).rejects.toMatchObject({ code: 'ETIMEDOUT', syscall: 'poll' });
    const stop = new AbortController();
    const waiting = queue.wait({ signal: stop.signal });
    stop.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    await expect(queue.wait({ signal: stop.signal })).rejects.toThrow('enough');
    expect(queue.poll()).toBeNull();
  });

  test('rejects pending waits when it is disposed, and ends a loop', async () => {
    const queue = iommufd.allocFaultQueue();
    const waiting = [queue.wait(), queue.wait({ timeout: 60_000 })].map((each) =>
      each.catch((error: unknown) => error),
    );
    const seen: IoPageFault[] = [];
    const loop = (async () => {
      for await (const fault of queue) seen.push(fault);
    })();
    iommufd[Symbol.dispose]();
    for (const each of await Promise.all(waiting)) expect(each).toMatchObject({ code: 'ERR_VFIO_DISPOSED' });
    await loop;
    expect(seen).toEqual([]);
  });

  test('keeps the process alive only while a wait is pending', async () => {
    const ended = await run(
      `const host = Host.open({ backend: ${JSON.stringify(backend)} });
       const queue = host.openIommufd().allocFaultQueue();
       globalThis.kept = queue;
       const before = Date.now();
       await queue.wait({ timeout: 50 }).catch(() => {});
       console.log(Date.now() - before >= 45);`,
    );
    expect(ended).toMatchObject({ code: 0, stdout: 'true\n' });
  });

  test('that is dropped is closed when it is collected, but not while a wait is pending', async () => {
    dropsOnPurpose();
    const before = await descriptorsAtRest();
    const open = () => void iommufd.allocFaultQueue();
    open();
    expect(await descriptorsSettle(before)).toBe(before);
    const waiting = (() => iommufd.allocFaultQueue().wait())().catch((error) => error.code);
    await collect();
    expect(descriptors()).toBeGreaterThan(before);
    iommufd[Symbol.dispose]();
    expect(await waiting).toBe('ERR_VFIO_DISPOSED');
  });

  test('a thousand of them leave nothing open', async () => {
    const before = await descriptorsAtRest();
    for (let each = 0; each < 1000; each++) {
      const queue = iommufd.allocFaultQueue();
      if (each % 100 === 0) void queue.wait().catch(() => {});
      queue[Symbol.dispose]();
    }
    expect(await descriptorsSettle(before)).toBe(before);
    expect(iommufd.allocFaultQueue().id).toBe(1);
  });
});

describe('faults', () => {
  let host: Host;
  let iommufd: Iommufd;
  let device: VfioDevice;
  let edu: Edu;
  let ioas: Ioas;
  let queue: FaultQueue;
  let memory: DmaBuffer;

  beforeEach(async (ctx) => {
    needs(ctx, { backends: ['software'], because: "QEMU's VT-d of this version passes no page requests on" });
    host = machine({ kind: 'vtd', pageRequests: 'pri' });
    ({ iommufd, device, edu } = await bound(host));
    ioas = iommufd.allocIoas();
    queue = iommufd.allocFaultQueue();
    device.attach(iommufd.allocHwpt({ device, parent: ioas, faultQueue: queue }));
    memory = DmaBuffer.alloc(0x4000);
    memory.bytes.fill(0x5a);
    return () => {
      host[Symbol.dispose]();
      memory[Symbol.dispose]();
    };
  });

  test('the device waits until the page is mapped and the fault answered, then goes on', async () => {
    edu.start(BUFFER, 0x10000n, 8, true);
    const fault = await queue.wait({ timeout: 5000 });
    expect(fault).toMatchObject({
      deviceId: device.id,
      pasid: null,
      last: true,
      access: { write: true, execute: false },
    });
    expect(fault.address & ~0xfffn).toBe(0x10000n);
    expect(memory.bytes[0]).toBe(0x5a);
    ioas.map(memory, { iova: 0x10000 });
    queue.respond(fault, 'success');
    await edu.idle();
    expect(memory.bytes[0]).toBe(0);
    expect(host.software?.takeFaults()).toEqual([]);
  });

  test("S27: answered with 'invalid', the access fails as one that is not mapped", async () => {
    edu.start(BUFFER, 0x10000n, 8, true);
    queue.respond(await queue.wait({ timeout: 5000 }), 'invalid');
    await edu.idle();
    expect(host.software?.takeFaults()).toHaveLength(1);
  });

  test('a loop serves them as they come', async () => {
    const served: bigint[] = [];
    const serve = (async () => {
      for await (const fault of queue) {
        served.push(fault.address & ~0xfffn);
        ioas.map(memory.slice(0, 4096), { iova: fault.address & ~0xfffn });
        queue.respond(fault, 'success');
      }
    })();
    for (const iova of [0x10000n, 0x20000n, 0x30000n]) await edu.store(iova, 8);
    expect(served).toEqual([0x10000n, 0x20000n, 0x30000n]);
    device.detach();
    queue[Symbol.dispose]();
    await serve;
  });

  test('S27: one answer for a group: a second is refused, a made-up fault too', async () => {
    edu.start(BUFFER, 0x10000n, 8, true);
    const fault = await queue.wait({ timeout: 5000 });
    expect(() => queue.respond({ ...fault }, 'success')).toThrow(/^Expected a fault of this queue/);
    // PCI has a third response, which no kernel takes: the fault stays unanswered.
    expect(() => queue.respond(fault, 'failure')).toThrow(
      expect.objectContaining({
        code: 'EINVAL',
        reason: expect.stringMatching(/'success' and 'invalid' only/),
      }),
    );
    queue.respondGroup({ cookie: fault.cookie }, 'invalid');
    expect(() => queue.respond(fault, 'success')).toThrow(/that has no answer yet/);
    expect(() => queue.respondGroup(fault, 'success')).toThrow(/that has no answer yet/);
    await edu.idle();
  });

  test('detaching answers what is open: an answer that comes later is EINVAL, with words (64)', async () => {
    edu.start(BUFFER, 0x10000n, 8, true);
    const fault = await queue.wait({ timeout: 5000 });
    device.detach();
    expect(() => queue.respond(fault, 'success')).toThrow(
      expect.objectContaining({
        code: 'EINVAL',
        reason: expect.stringMatching(/the kernel has answered it/),
      }),
    );
    await edu.idle();
  });

  test('of two pending waits, each gets a fault of its own, in order', async () => {
    const first = queue.wait({ timeout: 5000 });
    const second = queue.wait({ timeout: 5000 });
    edu.start(BUFFER, 0x10000n, 8, true);
    const one = await first;
    queue.respond(one, 'invalid');
    await edu.idle();
    edu.start(BUFFER, 0x20000n, 8, true);
    const two = await second;
    queue.respond(two, 'invalid');
    expect([one, two].map((each) => each.address & ~0xfffn)).toEqual([0x10000n, 0x20000n]);
    await edu.idle();
  });

  test('a page table that uses the queue is destroyed before it, which fails while a device is attached', () => {
    expect(() => queue[Symbol.dispose]()).toThrow(
      expect.objectContaining({ code: 'EBUSY', reason: expect.stringMatching(/is attached to it/) }),
    );
    expect(queue.disposed).toBe(false);
    expect(queue.poll()).toBeNull();
    device.detach();
    queue[Symbol.dispose]();
    expect(queue.disposed).toBe(true);
  });

  test('S29: a fault that nobody answers has no time-out', async () => {
    using virtual = Host.open({
      backend: 'software',
      software: {
        deterministic: true,
        topology: {
          iommus: [{ kind: 'vtd', pageRequests: 'pri' }],
          devices: [{ model: 'edu', bdf: EDU, driver: 'vfio-pci', pageRequests: true }],
        },
      },
    });
    const its = await bound(virtual);
    const space = its.iommufd.allocIoas();
    const faults = its.iommufd.allocFaultQueue();
    its.device.attach(its.iommufd.allocHwpt({ device: its.device, parent: space, faultQueue: faults }));
    its.edu.start(BUFFER, 0x10000n, 8, true);
    virtual.software.advance(24 * 3_600_000);
    const fault = faults.poll();
    expect(fault).toMatchObject({ last: true });
    virtual.software.advance(24 * 3_600_000);
    expect(its.edu.registers.read64(Reg.command) & 1n).toBe(1n);
    expect(virtual.software.takeFaults()).toEqual([]);
    space.map(memory, { iova: 0x10000 });
    faults.respond(fault as IoPageFault, 'success');
    virtual.software.advance(0);
    expect(its.edu.registers.read64(Reg.command) & 1n).toBe(0n);
    expect(memory.bytes[0]).toBe(0);
  });

  test('disposing the host while a fault is open and a wait is pending is harmless', async () => {
    edu.start(BUFFER, 0x10000n, 8, true);
    await queue.wait({ timeout: 5000 });
    const waiting = queue.wait().catch((error: unknown) => error);
    host[Symbol.dispose]();
    expect(await waiting).toMatchObject({ code: 'ERR_VFIO_DISPOSED' });
  });
});
