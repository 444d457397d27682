/**
 * Handles: used after disposal, disposed in every order, foreign, collected undisposed, half made. None of this may crash the
 * process, leave a descriptor open, or let a device reach memory that was freed.
 */
import { readdirSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { OURS } from '../lib/base/private.ts';
import { fileOf } from '../lib/handles/handle.ts';
import {
  DmaBuffer,
  Host,
  type Hwpt,
  type Interrupt,
  type Ioas,
  Iommufd,
  type MappedRegion,
  type Mapping,
  type PciDevice,
  type UserDevice,
  VfioDevice,
  Viommu,
} from '../lib/index.ts';
import { nativeSpaceOf } from '../lib/memory/address-space.ts';
import { windowOf } from '../lib/memory/dma-buffer.ts';
import { backend, EDU, GROUP_OF_TWO, IVSHMEM, needs, openHost } from './support/backends.ts';
import { collect, descriptors, descriptorsAtRest, descriptorsSettle, turn } from './support/collect.ts';
import { dropsOnPurpose } from './support/dropped.ts';
import { BUFFER, Edu, startJob } from './support/edu.ts';
import { callsOf } from './support/surface.ts';

interface Everything {
  readonly host: Host;
  readonly iommufd: Iommufd;
  readonly device: VfioDevice;
  readonly ioas: Ioas;
  readonly memory: DmaBuffer;
  readonly mapping: Mapping;
  readonly edu: Edu;
  readonly mapped: MappedRegion;
  readonly interrupt: Interrupt;
}

/** One handle of each kind, made step by step and not by Host.attach, so that each can be disposed alone. */
async function everything(): Promise<Everything> {
  const host = openHost();
  for (const bdf of [EDU, IVSHMEM]) await host.device(bdf).bind();
  const iommufd = host.openIommufd();
  const device = host.openDevice(EDU);
  device.bind(iommufd);
  const ioas = iommufd.allocIoas();
  device.attach(ioas);
  const memory = DmaBuffer.alloc(4096);
  const mapping = ioas.map(memory, { iova: 0x10000 });
  const edu = new Edu(device);
  const [interrupt] = device.irq('msi').enable(1);
  return { host, iommufd, device, ioas, memory, mapping, edu, mapped: edu.registers, interrupt: interrupt! };
}

const outcome = (call: () => unknown): Promise<unknown> =>
  Promise.resolve()
    .then(call)
    .then(
      (value) => value,
      (error: unknown) => error,
    );

describe('after disposal', () => {
  // The members that stay valid after disposal, and those that are internal to the package.
  const exempt = new Set([
    'Handle.disposed',
    'Handle.[Symbol.dispose]',
    'DmaBuffer.[Symbol.dispose]',
    'VfioDevice.bdf',
    'VfioDevice.id',
    'VfioDevice.iommufd',
    'Ioas.iommufd',
    'Group.container',
    'Container.iommufd',
    'IommufdObject.iommufd',
    'IommufdObject.[Symbol.dispose]',
    'RecordQueue.[Symbol.asyncIterator]', // ends
    'MappedRegion.length',
    'Interrupt.[Symbol.asyncIterator]', // ends
    'Interrupt.off',
    // A Region, an Irq or a PciConfig is no handle: the values that it was made with stay valid.
    'Region.size',
    'Region.readable',
    'Region.writable',
    'Region.mmapable',
    'Region.sparse',
    'Region.type',
    'Irq.count',
    'Irq.maskable',
    'Irq.automasked',
    'Irq.resizable',
    'PciConfig.size',
    'PciConfig.extendedCapabilities', // of a conventional device: none, whatever config space says
  ]);
  // Good arguments, for calls that check their arguments first.
  const good: Record<string, unknown[]> = {
    'Host.device': [EDU],
    'Host.openDevice': [EDU],
    'Host.attach': [EDU],
    'Host.grant': [EDU, 0],
    'Host.openGroup': [0],
    'PciConfig.busMaster=': [true],
    'PciConfig.memory=': [true],
    'Region.mmap': [{ length: 4096 }],
  };

  test('every method, getter and setter throws ERR_VFIO_DISPOSED', async () => {
    const all = await everything();
    const { host, iommufd, device, ioas, memory, mapped, interrupt } = all;
    const views = [device.region('bar0'), device.irq('msi'), device.config];
    const objects = [
      iommufd.allocHwpt({ device, parent: ioas }),
      iommufd.allocFaultQueue(),
      iommufd.container(),
      host.openContainer(),
      host.openGroup(host.device(IVSHMEM).group ?? -1),
    ];
    // No IOMMU here can make one: only its handle is made.
    objects.push(
      new Viommu(
        OURS,
        iommufd,
        objects[0] as Hwpt,
        fileOf(iommufd),
        { object: fileOf(iommufd).faultQueueAlloc().object, mmap: null },
        'arm-smmuv3',
      ) as never,
    );
    device.irq('msi').disable();
    memory[Symbol.dispose]();
    host[Symbol.dispose]();
    const tried: string[] = [];
    for (const handle of [host, iommufd, device, ioas, memory, mapped, interrupt, ...views, ...objects]) {
      for (const { name, call } of callsOf(Object.getPrototypeOf(handle))) {
        if (exempt.has(name)) continue;
        tried.push(name);
        const error = await outcome(() => call.apply(handle, good[name] ?? []));
        expect(error, name).toMatchObject({ code: 'ERR_VFIO_DISPOSED' });
        expect(error, name).toHaveProperty(
          'message',
          expect.stringMatching(/^The .+ was used after it was disposed$/),
        );
      }
    }
    expect(tried.length).toBeGreaterThan(110);
  });

  test('the members that stay valid answer as before, and a loop over an interrupt ends', async () => {
    const { host, device, iommufd, mapped, interrupt } = await everything();
    const { id } = device;
    const fired: bigint[] = [];
    const loop = (async () => {
      for await (const count of interrupt) fired.push(count);
    })();
    host[Symbol.dispose]();
    await loop;
    expect(fired).toEqual([]);
    expect([device.id, device.bdf, device.iommufd, mapped.length]).toEqual([id, EDU, iommufd, 0x100000]);
    for (const each of [host, device, iommufd, mapped, interrupt]) expect(each.disposed).toBe(true);
    interrupt.off('interrupt', () => {});
  });

  test('disposing it again has no effect', async () => {
    const all = await everything();
    const before = descriptors();
    for (const each of [
      all.mapping,
      all.interrupt,
      all.mapped,
      all.memory,
      all.ioas,
      all.device,
      all.iommufd,
    ])
      for (let time = 0; time < 3; time++) each[Symbol.dispose]();
    for (let time = 0; time < 3; time++) all.host[Symbol.dispose]();
    await turn();
    expect(descriptors()).toBeLessThan(before);
  });

  test('a pending wait is rejected, and a listener is not called any more', async () => {
    const { host, device, interrupt } = await everything();
    using _ = host;
    const heard: bigint[] = [];
    interrupt.on('interrupt', (count) => heard.push(count));
    const waiting = [interrupt.wait(), interrupt.wait({ timeout: 60_000 })].map((each) =>
      outcome(() => each),
    );
    device[Symbol.dispose]();
    for (const each of await Promise.all(waiting)) expect(each).toMatchObject({ code: 'ERR_VFIO_DISPOSED' });
    await turn();
    expect(heard).toEqual([]);
  });

  test('an address space that was destroyed by its id, or is still in use, can be disposed without an error', async () => {
    const { host, iommufd, device, ioas, memory } = await everything();
    using _ = host;
    const gone = iommufd.allocIoas();
    gone.map(memory);
    iommufd.destroy(gone.id);
    gone[Symbol.dispose]();
    ioas[Symbol.dispose]();
    const last = iommufd.allocIoas();
    iommufd.destroy(last.id);
    iommufd[Symbol.dispose]();
    expect([iommufd.disposed, last.disposed, device.disposed]).toEqual([true, true, false]);
  });

  test('using disposes everything at the end of the block', async () => {
    const before = await descriptorsAtRest();
    await (async () => {
      using host = openHost();
      using job = await startJob(host);
      using memory = DmaBuffer.alloc(4096);
      using mapping = job.dma.map(memory);
      using interrupt = job.msi();
      expect(mapping.iova > 0n && interrupt.eventfd > 0).toBe(true);
    })();
    expect(await descriptorsSettle(before)).toBe(before);
  });
});

function* permutations<T>(of: readonly T[]): Generator<T[]> {
  if (of.length === 0) yield [];
  for (const [at, first] of of.entries())
    for (const rest of permutations([...of.slice(0, at), ...of.slice(at + 1)])) yield [first, ...rest];
}

describe('in whatever order they are disposed', () => {
  const names = ['host', 'iommufd', 'ioas', 'mapping', 'device', 'mapped', 'interrupt'] as const;
  const owners: Readonly<Record<string, readonly string[]>> = {
    iommufd: ['host'],
    ioas: ['host', 'iommufd'],
    mapping: ['host', 'iommufd', 'ioas'],
    device: ['host'],
    mapped: ['host', 'device'],
    interrupt: ['host', 'device'],
  };
  // Orders that differ only in handles that were disposed with their owners already count as one.
  const distinct = new Map(
    [...permutations(names)].map((order) => [
      order
        .filter((name, at) => !owners[name]?.some((owner) => order.slice(0, at).includes(owner as never)))
        .join(),
      order,
    ]),
  );
  // For each order the device is opened again, which is slow in the guest: there only a sample of the orders is run.
  const orders = [...distinct.values()].filter((_, at) => backend === 'software' || at % 5 === 0);

  test('with DMA in flight: no crash, no descriptor left, and freed memory is not written', async () => {
    const count = await descriptorsAtRest();
    // A function of its own, so that the test's stack does not refer to the disposed handles.
    const dispose = async (order: readonly (typeof names)[number][], at: number) => {
      const each = await everything();
      const { memory, edu, interrupt } = each;
      const waiting = outcome(() => interrupt.wait());
      memory.write(0, Buffer.alloc(4096, 1));
      edu.start(BUFFER, 0x10000n, 2048, true, true);
      // The buffer itself is disposed first, last or in between.
      for (const [position, name] of order.entries()) {
        if (position === at % (names.length + 1)) memory[Symbol.dispose]();
        each[name][Symbol.dispose]();
      }
      memory[Symbol.dispose]();
      using next = DmaBuffer.alloc(4096);
      next.write(0, Buffer.alloc(4096, 2));
      const seen = Buffer.alloc(4096);
      next.read(0, seen);
      expect(seen.every((byte) => byte === 2)).toBe(true);
      expect(await waiting).toSatisfy(
        (end) => end === 1n || (end as { code: string }).code === 'ERR_VFIO_DISPOSED',
      );
      await turn();
    };
    for (const [at, order] of orders.entries()) await dispose(order, at);
    expect(orders.length).toBeGreaterThan(10);
    expect(await descriptorsSettle(count)).toBe(count);
  }, 120_000);

  test('a device can not reach a mapping any more once any of its owners is disposed', async () => {
    for (const name of ['host', 'iommufd', 'ioas', 'mapping'] as const) {
      const each = await everything();
      each.memory.write(0, Buffer.alloc(4096, 7));
      each[name][Symbol.dispose]();
      if (!each.device.disposed) {
        await each.edu.store(0x10000n, 64);
        expect(each.memory.bytes[0], name).toBe(7);
      }
      each.host[Symbol.dispose]();
      each.memory[Symbol.dispose]();
    }
  });

  test('an address space that is disposed during mapAsync unmaps the late mapping too', async () => {
    const { host, iommufd, ioas, device, edu } = await everything();
    using _ = host;
    using memory = DmaBuffer.alloc(4 << 20);
    memory.write(0, Buffer.alloc(4096, 7));
    const late = [0x400000, 0x800000, 0xc00000].map((iova) => outcome(() => ioas.mapAsync(memory, { iova })));
    ioas[Symbol.dispose]();
    // No other space may get the id meanwhile, or the late mapping would be made there.
    const next = iommufd.allocIoas();
    for (const each of await Promise.all(late)) expect(each).toBeInstanceOf(Error);
    expect(next.mappings()).toEqual([]);
    // The device is still attached to the kernel's object, which is empty.
    for (const iova of [0x400000n, 0x800000n, 0xc00000n]) await edu.store(iova, 64);
    expect(memory.bytes[0]).toBe(7);
    device.attach(next);
    for (const iova of [0x400000n, 0x800000n, 0xc00000n]) await edu.store(iova, 64);
    expect(memory.bytes[0]).toBe(7);
    expect(next.unmapAll()).toBe(0n);
  });
});

describe('foreign handles', () => {
  test('an address space of another iommufd is refused, though its id exists here too', async () => {
    const { host, device, ioas, memory, edu } = await everything();
    using _ = host;
    using stranger = host.openIommufd();
    const others = [stranger.allocIoas(), stranger.allocIoas(), stranger.allocIoas()];
    const same = others.find((each) => each.id === ioas.id);
    expect(same).toBeDefined();
    for (const each of others)
      expect(() => device.attach(each)).toThrow(
        /^Expected an Ioas or a Hwpt of the iommufd that the device is bound to for to/,
      );
    // The device is still attached to its own space.
    memory.write(0, Buffer.of(1, 2, 3, 4));
    await edu.fetch(0x10000n, 4);
    await edu.store(0x10100n, 4);
    expect([...memory.bytes.subarray(0x100, 0x104)]).toEqual([1, 2, 3, 4]);
  });

  test('an iommufd from a descriptor may be the same: the kernel decides', async () => {
    const { host, device, iommufd } = await everything();
    using _ = host;
    using twin = Iommufd.fromFd(iommufd.fd);
    const space = twin.allocIoas();
    expect(device.attach(space)).toBeGreaterThan(0);
    device.detach();
  });

  test('a mapping of another iommufd can not be copied', async () => {
    const { host, ioas } = await everything();
    using _ = host;
    using stranger = host.openIommufd();
    using memory = DmaBuffer.alloc(4096);
    const theirs = stranger.allocIoas().map(memory);
    expect(() => ioas.copy(theirs)).toThrow(/^Expected a mapping of the same iommufd for from/);
    expect(ioas.mappings()).toHaveLength(1);
  });

  test('an iommufd of another host is refused by the call', async () => {
    using host = openHost();
    await host.device(EDU).bind();
    using elsewhere = Host.open({ backend: 'software' });
    using device = host.openDevice(EDU);
    using stranger = elsewhere.openIommufd();
    expect(() => device.bind(stranger)).toThrow(
      expect.objectContaining({ name: 'VfioError', code: expect.stringMatching(/^E(BADFD?|INVAL)$/) }),
    );
    using iommufd = host.openIommufd();
    device.bind(iommufd);
    expect(device.id).toBe(1);
  });

  test('a foreign this is a TypeError in every method, getter and setter', async () => {
    const all = await everything();
    using _ = all.host;
    const { memory, device } = all;
    const objects = [
      all.host,
      all.iommufd,
      device,
      all.ioas,
      memory,
      all.mapping,
      all.mapped,
      all.interrupt,
      all.iommufd.allocHwpt({ device, parent: all.ioas }),
      all.iommufd.allocFaultQueue(),
      all.iommufd.container(),
      all.host.openContainer(),
      all.host.openGroup(all.host.device(IVSHMEM).group ?? -1),
      device.region('bar0'),
      device.irq('msi'),
      device.config,
      all.host.device(EDU),
      all.host.group(all.host.device(EDU).group!),
    ];
    // These do not check `this` before they have something to do, or accept every object whose properties can be read.
    const idle =
      /\.(\[Symbol\.asyncIterator\]|extendedCapabilities|bytes|off|on)$|^(PciConfig|SpaceMapping)\./;
    for (const object of objects) {
      const prototype = Object.getPrototypeOf(object) as object;
      for (const { name, call } of callsOf(prototype)) {
        const impostors = [
          undefined,
          null,
          5,
          'x',
          {},
          () => {},
          Object.create(prototype),
          Object.create(object),
          new Proxy(object, {}),
          ...objects.filter((each) => callsOf(Object.getPrototypeOf(each)).every((its) => its.call !== call)),
        ];
        for (const impostor of impostors) {
          const result = await outcome(() => call.call(impostor));
          // The error may be about an undefined bound instead: it is refused nevertheless.
          const refused = result instanceof TypeError || result instanceof RangeError;
          if (!idle.test(name)) expect(refused, `${name} on ${typeof impostor}: ${result}`).toBe(true);
        }
      }
    }
    expect(all.ioas.mappings()).toHaveLength(1);
    expect(device.disposed || memory.address === 0n).toBe(false);
  });

  test('the addon, if a program reaches it, refuses a foreign this, an empty object and other types', async () => {
    const all = await everything();
    using _ = all.host;
    const file = fileOf(all.iommufd);
    const memory = windowOf(all.memory).pages.native;
    const { object } = file.faultQueueAlloc();
    const natives: object[] = [file, memory, nativeSpaceOf(all.ioas), object];
    const junk = [undefined, null, 0, -1, 1n, 'x', {}, file, memory, new Uint8Array(4), Symbol('x')];
    for (const native of natives) {
      const made = Object.getPrototypeOf(native).constructor as new () => object;
      const empty = [new made(), Reflect.construct(made, [], Object) as object];
      const methods = Reflect.ownKeys(made.prototype).filter((key) => key !== 'constructor');
      expect(methods.length).toBeGreaterThan(3);
      for (const key of methods) {
        const { get, value } = Object.getOwnPropertyDescriptor(made.prototype, key)!;
        const call = (get ?? value) as (...args: unknown[]) => unknown;
        for (const on of [{}, null, ...natives.filter((each) => each !== native), Object.create(native)])
          expect(await outcome(() => call.call(on)), String(key)).toBeInstanceOf(Error);
        for (const on of empty)
          for (const argument of junk)
            await outcome(() =>
              call.call(on, argument, argument, argument, argument, argument, argument, argument),
            );
        if (key === 'dispose' || key === 'destroy') continue;
        for (const argument of junk) await outcome(() => call.call(native, argument, argument, argument));
      }
    }
    expect(all.ioas.mappings()).toHaveLength(1);
  });
});

describe('a handle that is collected undisposed', () => {
  async function warnings(): Promise<NodeJS.ErrnoException[]> {
    const heard: NodeJS.ErrnoException[] = [];
    const hear = (warning: NodeJS.ErrnoException) => {
      if (warning.name === 'VfioLeakWarning') heard.push(warning);
    };
    await collect(); // the handles of earlier tests are collected before
    dropsOnPurpose();
    process.on('warning', hear);
    onTestFinished(() => void process.off('warning', hear));
    return heard;
  }

  /** Runs in a stack frame of its own, so that nothing on the stack refers to the handles that it makes. */
  const forget = (make: () => unknown) => void make();

  test('is closed when it is collected, with a warning that names where it was opened', async () => {
    const heard = await warnings();
    using host = openHost();
    await host.device(EDU).bind();
    const before = descriptors();
    forget(() => host.openIommufd());
    forget(() => host.openDevice(EDU));
    expect(descriptors()).toBeGreaterThan(before);
    await collect(() => heard.length === 2);
    expect(heard.map((each) => each.code)).toEqual(['VFIO_LEAK', 'VFIO_LEAK']);
    for (const kind of ['An Iommufd', 'A VfioDevice 0000:00:10.0']) {
      const { message } = heard.find((each) => each.message.startsWith(kind)) ?? { message: '' };
      expect(message).toContain(`${kind} was collected without being disposed: it is closed now. Opened`);
      expect(message).toContain('handles.test.ts');
    }
    expect(descriptors()).toBe(before);
    // The device can be opened again.
    using user = host.attach(EDU);
    expect(user.device.id).toBe(1);
  });

  test('in production: the warning says how to learn where it was opened', async () => {
    const heard = await warnings();
    using host = openHost();
    const { NODE_ENV } = process.env;
    process.env['NODE_ENV'] = 'production';
    try {
      forget(() => host.openIommufd());
    } finally {
      if (NODE_ENV === undefined) delete process.env['NODE_ENV'];
      else process.env['NODE_ENV'] = NODE_ENV;
    }
    await collect(() => heard.length === 1);
    expect(heard[0]?.message).toMatch(/Set NODE_ENV to other than "production"/);
    expect(heard[0]?.message).not.toMatch(/handles\.test\.ts/);
  });

  test('may be a device with all that was made of it: registers, interrupts, DMA in flight', async () => {
    const heard = await warnings();
    const before = await descriptorsAtRest();
    await (async () => {
      const each = await everything();
      each.edu.start(BUFFER, 0x10000n, 2048, true, true);
    })();
    await collect(() => heard.length === 5 && descriptors() === before);
    expect(heard.map((each) => /^An? (\w+)/.exec(each.message)?.[1]).sort()).toEqual([
      'Interrupt',
      'Ioas',
      'Iommufd',
      'MappedRegion',
      'VfioDevice',
    ]);
    expect(await descriptorsSettle(before)).toBe(before);
  });

  test('may be a device by its group, with its container', async () => {
    const heard = await warnings();
    const before = await descriptorsAtRest();
    await (async () => {
      const host = openHost();
      await host.device(EDU).bind();
      host.attach(EDU, { via: 'group-type1' }).dma.map(DmaBuffer.alloc(4096));
    })();
    await collect(() => heard.length === 3 && descriptors() === before);
    expect(heard.map((each) => /^A (\w+)/.exec(each.message)?.[1]).sort()).toEqual([
      'Container',
      'Group',
      'VfioDevice',
    ]);
  });

  test.each(['group-type1', 'group-iommufd'] as const)(
    'is never one that a device opened by its group needs: %s',
    async (via) => {
      const heard = await warnings();
      using host = openHost();
      await host.device(EDU).bind();
      const memory = DmaBuffer.alloc(4096);
      const { device, iova } = (() => {
        const { device, dma } = host.attach(EDU, { via });
        return { device, iova: dma.map(memory).iova };
      })();
      await collect();
      memory.write(0, Buffer.from('still there'));
      const edu = new Edu(device);
      await edu.fetch(iova, 11);
      await edu.store(iova + 64n, 11);
      const back = Buffer.alloc(11);
      memory.read(64, back);
      expect(back.toString()).toBe('still there');
      expect(heard).toEqual([]);
      device[Symbol.dispose]();
      memory[Symbol.dispose]();
    },
  );

  test('is never a group whose container is still referred to', async () => {
    const heard = await warnings();
    using host = openHost();
    await host.device(EDU).bind();
    const container = host.openContainer();
    forget(() => {
      host.openGroup(host.device(EDU).group ?? -1).setContainer(container);
      container.setIommu('type1v2');
    });
    await collect();
    expect(container.info().dmaAvailable).toBe(65535);
    expect(heard).toEqual([]);
  });

  test('a disposed handle is collected without a warning', async () => {
    const heard = await warnings();
    const { host, memory } = await everything();
    memory[Symbol.dispose]();
    host[Symbol.dispose]();
    await collect();
    expect(heard).toEqual([]);
  });

  test('a mapping or a buffer is collected without a warning', async () => {
    const heard = await warnings();
    using host = openHost();
    using iommufd = host.openIommufd();
    const ioas = iommufd.allocIoas();
    forget(() => ioas.map(DmaBuffer.alloc(4096)));
    await collect();
    expect(heard).toEqual([]);
    expect(ioas.unmapAll()).toBe(4096n);
  });

  test('an address space is emptied and destroyed when it is collected, but not while a device is attached to it', async () => {
    const heard = await warnings();
    using host = openHost();
    using iommufd = host.openIommufd();
    forget(() => iommufd.allocIoas().map(DmaBuffer.alloc(4096)));
    await collect(() => heard.length === 1);
    expect(heard[0]?.message).toMatch(/^An Ioas was collected/);
    using next = iommufd.allocIoas();
    expect(next.id).toBe(1);
    await host.device(EDU).bind();
    using device = host.openDevice(EDU);
    device.bind(iommufd);
    forget(() => device.attach(iommufd.allocIoas()));
    await collect();
    expect(heard).toHaveLength(1);
  });

  test('a handle with a pending wait is not collected', async () => {
    const heard = await warnings();
    using host = openHost();
    using job = await startJob(host);
    const waiting = (() => job.msi().wait({ timeout: 20_000 }))();
    await collect();
    job.device.irq('msi').trigger(0);
    expect(await waiting).toBe(1n);
    expect(heard).toEqual([]);
  });
});

describe('failing half-way undoes what was done', () => {
  test('attach of a device that is in use leaves nothing open, and the first user undisturbed', async () => {
    using host = openHost();
    using job = await startJob(host);
    const before = descriptors();
    expect(() => host.attach(EDU)).toThrow(expect.objectContaining({ name: 'VfioError' }));
    expect(descriptors()).toBe(before);
    expect(job.device.config.vendor).toBe(0x1234);
    expect(host.group(host.device(EDU).group!).dmaOwner).toBe('user');
  });

  test('attach of a device whose group belongs to another iommufd leaves nothing open', async (ctx) => {
    needs(ctx, {
      guest: ['intel', 'amd'],
      because: 'a group of two needs a bridge that the IOMMU sees as one',
    });
    using host = openHost();
    for (const each of GROUP_OF_TWO) await host.device(each).bind();
    using first = host.attach(GROUP_OF_TWO[0]);
    const before = descriptors();
    expect(() => host.attach(GROUP_OF_TWO[1])).toThrow(expect.objectContaining({ code: 'EPERM' }));
    expect(descriptors()).toBe(before);
    first[Symbol.dispose]();
    using second = host.attach(GROUP_OF_TWO[1]);
    expect(second.device.id).toBe(1);
  });

  test('attach that fails in any of its steps leaves no descriptor and no bound device', async () => {
    using host = openHost();
    await host.device(EDU).bind();
    const before = descriptors();
    const steps: [object, string][] = [
      [Host.prototype, 'openDevice'],
      [Host.prototype, 'openIommufd'],
      [VfioDevice.prototype, 'bind'],
      [Iommufd.prototype, 'allocIoas'],
      [VfioDevice.prototype, 'attach'],
    ];
    for (const [prototype, name] of steps) {
      const real = Object.getOwnPropertyDescriptor(prototype, name)!;
      for (const when of ['before', 'after'] as const) {
        Object.defineProperty(prototype, name, {
          ...real,
          value(this: object, ...args: unknown[]) {
            // A step that fails undoes its own work. Of the calls here only bind and attach return no new handle.
            if (when === 'after' && (name === 'bind' || name === 'attach')) real.value.apply(this, args);
            throw new Error(`${name} failed`);
          },
        });
        try {
          expect(() => host.attach(EDU)).toThrow(`${name} failed`);
        } finally {
          Object.defineProperty(prototype, name, real);
        }
        expect(descriptors(), `${name} fails ${when}`).toBe(before);
        expect(host.group(host.device(EDU).group!).dmaOwner).toBe('none');
        const user: UserDevice = host.attach(EDU);
        expect(user.device.id).toBe(1);
        user[Symbol.dispose]();
        user[Symbol.dispose]();
      }
    }
    expect(descriptors()).toBe(before);
  });

  test('enabling a kind of interrupt that is refused leaves no eventfd', async () => {
    using host = openHost();
    using job = await startJob(host);
    using interrupt = job.msi();
    const before = await descriptorsAtRest();
    for (let time = 0; time < 10; time++)
      expect(() => job.device.irq('intx').enable()).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(await descriptorsSettle(before)).toBe(before);
    job.device.irq('msi').trigger(0);
    expect(await interrupt.wait({ timeout: 20_000 })).toBe(1n);
  });

  test('binding to a driver that refuses puts the old one back', async () => {
    using host = openHost();
    const device: PciDevice = host.device(EDU);
    await device.bind();
    const had = [device.driver, device.driverOverride];
    await expect(device.bind('pcieport')).rejects.toMatchObject({ name: 'VfioError' });
    expect([device.driver, device.driverOverride]).toEqual(had);
  });

  test('opening that fails leaves no descriptor open, however often', () => {
    using host = openHost();
    const before = readdirSync('/proc/self/fd').length;
    for (let time = 0; time < 50; time++) {
      expect(() => host.openDevice({ path: '/dev/vfio/devices/none' })).toThrow();
      expect(() => host.openDevice('0000:7f:1f.7')).toThrow();
      expect(() => Iommufd.fromFd(1_000_000)).toThrow();
    }
    expect(readdirSync('/proc/self/fd').length).toBe(before);
  });
});
