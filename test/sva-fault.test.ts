/**
 * Shared addresses by the way 'iommufd-fault' (requirements C7 and C8: page faults are queued, resolved and answered; the device
 * can use any buffer of the process, without a map call).
 */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  DmaBuffer,
  DmaError,
  type Iommufd,
  type IommuModel,
  type SoftwareHost,
  type VfioDevice,
} from '../lib/index.ts';
import { bufferAt } from '../lib/memory/dma-buffer.ts';
import { areas } from '../lib/sva/areas.ts';
import { fault, faultWithin } from '../lib/sva/fault.ts';
import type { SvaFault } from '../lib/sva/way.ts';
import { needs } from './support/backends.ts';
import { asked, type Bonded, bonded, plug } from './support/bonding.ts';
import { Open } from './support/open-device.ts';
import { run } from './support/program.ts';

needs({ backends: ['software'], because: "QEMU's IOMMUs take no page requests of its devices" });

const BDF = '0000:00:1c.0';
const PAGE = 4096;
const BLOCK = 65536;

const pattern = (length: number, seed = 1) =>
  Uint8Array.from({ length }, (_, at) => (at * 7 + seed + (at >> 8)) & 0xff);

let host: SoftwareHost;
let model: Open;
let device: VfioDevice;
let iommufd: Iommufd;
let made: Bonded;
let o: { pasid?: number };

/** A device behind this IOMMU, bound to an iommufd and attached to nothing. */
function begin(iommu: Partial<IommuModel> = {}, kernel?: string, plugged = new Open()): void {
  model = plugged;
  ({ host, iommufd, device } = plug(model, BDF, iommu, kernel));
}

/** The same, with a bond. */
function bond(iommu?: Partial<IommuModel>, make = fault): void {
  begin(iommu);
  made = bonded(make, device);
  const pasid = made.bonding.pasid();
  o = pasid === null ? {} : { pasid };
}

/** Memory of the process that nobody has mapped for the device: an area of its own, which begins with a block. */
function memory(size: number): DmaBuffer {
  return DmaBuffer.alloc(Math.max(size, 2 ** 21)); // aligned to 2 MiB
}

afterEach(() => {
  made?.bonding.dispose();
  host?.[Symbol.dispose]();
});

describe('any pointer of the process', () => {
  for (const [name, iommu] of [
    ['with a PASID', {}],
    ['without one', { pasidBits: 0 }],
  ] as const)
    test(`is read and written by the device, ${name} (C7, C8)`, async () => {
      bond(iommu);
      expect(made.bonding.pasid()).toBe('pasidBits' in iommu ? null : 1);
      using buffer = memory(2 * PAGE);
      buffer.bytes.set(pattern(2 * PAGE));
      made.bonding.reach(buffer.address, 2 * PAGE);
      const into = new Uint8Array(2 * PAGE);
      await model.fetch(buffer.address, into, o);
      expect(into).toEqual(pattern(2 * PAGE));
      await model.store(buffer.address + 100n, pattern(PAGE, 9), o);
      expect(buffer.bytes.subarray(100, 100 + PAGE)).toEqual(pattern(PAGE, 9));
      expect(made.faults).toEqual([]);
      expect(host.software.takeFaults()).toEqual([]);
    });

  test('may lead to much memory: each group of requests has one answer', async () => {
    bond();
    const size = 3 * 2 ** 20;
    using buffer = memory(size);
    buffer.bytes.set(pattern(size));
    const into = new Uint8Array(size);
    await model.fetch(buffer.address, into, o);
    expect(Buffer.compare(into, pattern(size))).toBe(0);
    expect(made.ioas.mappings().length).toBe(size / BLOCK);
  });

  test('is refused if the device can not address it', () => {
    bond({ apertures: [{ start: 0n, last: 2n ** 39n - 1n }], pasidBits: 0 });
    const { start } = areas().findLast(({ start, write }) => write && start > 2n ** 39n) as { start: bigint };
    expect(() => made.bonding.reach(start, 8)).toThrow(
      expect.objectContaining({
        code: 'EFAULT',
        reason: expect.stringMatching(/can't address \[0x.*it reaches/),
      }),
    );
    expect(made.allocate(PAGE).address).toBeLessThan(2n ** 39n);
  });
});

describe('a request', () => {
  beforeEach(() => bond());

  test('brings neighbours of the page: the part of its block that lies in the same area', async () => {
    using buffer = memory(BLOCK);
    await model.fetch(buffer.address + BigInt(5 * PAGE), new Uint8Array(8), o);
    expect(made.ioas.mappings()).toEqual([{ iova: buffer.address, length: BigInt(BLOCK), writable: true }]);
    // The first area of the process begins in the middle of a block, or ends there.
    const area = areas().find(
      ({ start, last, read }) => read && (start % BigInt(BLOCK) !== 0n || (last + 1n) % BigInt(BLOCK) !== 0n),
    );
    if (area === undefined) throw new Error('each area is made of whole blocks');
    const at = area.start % BigInt(BLOCK) === 0n ? area.last - 7n : area.start;
    await model.fetch(at, new Uint8Array(8), o);
    const [mapped] = made.ioas.mappings().filter(({ iova, length }) => iova <= at && at < iova + length);
    expect(mapped?.iova).toBeGreaterThanOrEqual(area.start);
    expect((mapped?.iova ?? 0n) + (mapped?.length ?? 0n) - 1n).toBeLessThanOrEqual(area.last);
    expect(mapped?.writable).toBe(area.write);
  });

  test('for memory that the process has not, or may not write, is answered invalid, and the bond is told', async () => {
    const list = areas();
    const hole = list.find(({ last }, at) => (list[at + 1]?.start ?? 0n) > last + 4097n)?.last as bigint;
    const text = list.find((each) => each.execute && !each.write && each.start > 2n ** 20n)?.start as bigint;
    const bytes = new Uint8Array(8);
    await expect(model.fetch(hole + 1n, bytes, o)).rejects.toBeInstanceOf(DmaError);
    await expect(model.store(text, bytes, o)).rejects.toBeInstanceOf(DmaError);
    await model.fetch(text, bytes, o); // it may be read
    const access = { execute: false, privileged: false };
    expect(made.faults).toMatchObject([
      {
        address: hole + 1n,
        pasid: o.pasid,
        access: { ...access, read: true, write: false },
        reason: 'the process has no memory there',
      },
      {
        address: text,
        pasid: o.pasid,
        access: { ...access, read: false, write: true },
        reason: 'the process may not write there',
      },
    ]);
  });

  test('ends its group at the first page that can not be had, as in the kernel (S22)', async () => {
    const list = areas();
    const room = list.find(({ last }, at) => (list[at + 1]?.start ?? 0n) > last + BigInt(8 * PAGE))
      ?.last as bigint;
    using buffer = bufferAt(room + BigInt(PAGE) + 1n, PAGE); // nothing before it, nothing behind it
    await expect(model.fetch(buffer.address, new Uint8Array(3 * PAGE), o)).rejects.toBeInstanceOf(DmaError);
    expect(made.faults).toMatchObject([{ address: buffer.address + BigInt(PAGE) }]);
    expect(made.ioas.mappings()).toMatchObject([{ iova: buffer.address, length: BigInt(PAGE) }]);
  });

  test('whose neighbours can not be pinned gets its page alone', async () => {
    using buffer = memory(BLOCK);
    {
      using _fault = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'EFAULT', nth: 1 });
      await model.fetch(buffer.address + BigInt(PAGE), new Uint8Array(8), o);
    }
    expect(made.ioas.mappings()).toEqual([
      { iova: buffer.address + BigInt(PAGE), length: BigInt(PAGE), writable: true },
    ]);
    // The next one gets the rest of the block on its side of that page.
    await model.fetch(buffer.address + BigInt(3 * PAGE), new Uint8Array(8), o);
    expect(made.ioas.mappings()).toMatchObject([
      { iova: buffer.address + BigInt(PAGE), length: BigInt(PAGE) },
      { iova: buffer.address + BigInt(2 * PAGE), length: BigInt(BLOCK - 2 * PAGE) },
    ]);
  });

  test('for a page that can be pinned for reading only is mapped so, and again when the device writes', async () => {
    using buffer = memory(BLOCK);
    {
      using _window = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'EFAULT', nth: 1 });
      using _page = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'EFAULT', nth: 2 });
      await model.fetch(buffer.address, new Uint8Array(8), o);
    }
    expect(made.ioas.mappings()).toEqual([{ iova: buffer.address, length: BigInt(PAGE), writable: false }]);
    await model.store(buffer.address, pattern(8), o);
    expect(buffer.bytes.subarray(0, 8)).toEqual(pattern(8));
    expect(made.ioas.mappings()).toMatchObject([{ iova: buffer.address, writable: true }]);
    expect(made.faults).toEqual([]);
  });

  test('whose page can not be had at all is answered invalid', async () => {
    using buffer = memory(BLOCK);
    using _fault = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'EFAULT' });
    await expect(model.fetch(buffer.address, new Uint8Array(8), o)).rejects.toBeInstanceOf(DmaError);
    expect(made.faults).toMatchObject([
      { address: buffer.address, reason: expect.stringMatching(/can't be pinned for the device/) },
    ]);
  });

  test('that the kernel has answered by itself meanwhile, as the device was detached, is answered without harm', async () => {
    made.bonding.dispose();
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    const told: bigint[] = [];
    const events = {
      exit: () => {},
      fault: ({ address, pasid }: SvaFault) => {
        told.push(address);
        device.detach({ pasid: pasid as number });
      },
    };
    made = bonded(fault, device, { events });
    o = { pasid: made.bonding.pasid() as number };
    const reads = [0n, 0x1000n].map((at) =>
      model.fetch(at, new Uint8Array(8), o).catch((error: unknown) => error),
    );
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200); // both requests are there
    for (const each of await Promise.all(reads)) expect(each).toBeInstanceOf(DmaError);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(told).toEqual([0n, 0x1000n]);
    expect(warned.mock.calls).toEqual([]);
    warned.mockRestore();
  });

  test('that can not be resolved is refused, and the next ones are resolved', async () => {
    using buffer = memory(BLOCK);
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    const usable = vi.spyOn(made.ioas, 'iovaRanges').mockImplementationOnce(() => {
      throw new Error('no answer');
    });
    await expect(model.fetch(buffer.address, new Uint8Array(8), o)).rejects.toBeInstanceOf(DmaError);
    const told = warned.mock.calls.map(([text]) => String(text));
    for (const each of [warned, usable]) each.mockRestore();
    expect(told).toEqual([expect.stringMatching(/could not be resolved: no answer/)]);
    expect(made.faults).toMatchObject([{ address: buffer.address, reason: 'no answer' }]);
    await model.fetch(buffer.address, new Uint8Array(8), o);
  });

  test("whose event throws has its answer, and the error is the program's", async () => {
    made.bonding.dispose();
    const thrown = new Promise((resolve) => process.once('uncaughtException', resolve));
    const events = {
      exit: () => {},
      fault: () => {
        throw new Error('of the program');
      },
    };
    const listeners = process.rawListeners('uncaughtException').slice(0, -1);
    for (const each of listeners) process.off('uncaughtException', each as () => void);
    try {
      made = bonded(fault, device, { events });
      o = { pasid: made.bonding.pasid() as number };
      await expect(model.fetch(0n, new Uint8Array(8), o)).rejects.toBeInstanceOf(DmaError);
      expect(await thrown).toMatchObject({ message: 'of the program' });
    } finally {
      for (const each of listeners) process.on('uncaughtException', each as () => void);
    }
    using buffer = memory(BLOCK);
    await model.fetch(buffer.address, new Uint8Array(8), o);
  });

  test('that fails may end the bond, in its event', async () => {
    made.bonding.dispose();
    const events = { exit: () => {}, fault: () => made.bonding.dispose() };
    made = bonded(fault, device, { events });
    o = { pasid: made.bonding.pasid() as number };
    await expect(model.fetch(0n, new Uint8Array(8), o)).rejects.toBeInstanceOf(DmaError);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(made.ioas.disposed).toBe(true);
  });
});

describe('the windows', () => {
  const small = faultWithin({ window: 65536, most: 3 * BLOCK });

  test('over the limit go, the oldest first, and are mapped again when the device asks', async () => {
    bond({}, small);
    using buffer = memory(8 * BLOCK);
    buffer.bytes.set(pattern(8 * BLOCK));
    const blocks = () => made.ioas.mappings().map(({ iova }) => Number(iova - buffer.address) / BLOCK);
    const touch = async (block: number) => {
      const into = new Uint8Array(8);
      await model.fetch(buffer.address + BigInt(block * BLOCK), into, o);
      expect(into).toEqual(buffer.bytes.subarray(block * BLOCK, block * BLOCK + 8));
    };
    for (const block of [4, 1, 2]) await touch(block);
    expect(blocks()).toEqual([1, 2, 4]);
    await touch(0);
    expect(blocks()).toEqual([0, 1, 2]);
    await touch(4);
    expect(blocks()).toEqual([0, 2, 4]);
    expect(made.faults).toEqual([]);
  });

  test('that one group of requests needs all stay, even over the limit', async () => {
    bond({}, faultWithin({ window: PAGE, most: PAGE }));
    using buffer = memory(8 * PAGE);
    buffer.bytes.set(pattern(8 * PAGE));
    const into = new Uint8Array(8 * PAGE);
    await model.fetch(buffer.address, into, o);
    expect(into).toEqual(pattern(8 * PAGE));
  });

  test('make room when no more memory can be pinned', async () => {
    bond();
    using buffer = memory(4 * BLOCK);
    await model.fetch(buffer.address, new Uint8Array(8), o);
    {
      using _fault = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'ENOMEM', nth: 1 });
      await model.fetch(buffer.address + BigInt(BLOCK), new Uint8Array(8), o);
    }
    expect(made.ioas.mappings()).toMatchObject([{ iova: buffer.address + BigInt(BLOCK) }]);
    expect(made.faults).toEqual([]);
    using _fault = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'ENOMEM' });
    await expect(
      model.fetch(buffer.address + BigInt(2 * BLOCK), new Uint8Array(8), o),
    ).rejects.toBeInstanceOf(DmaError);
    expect(made.faults).toMatchObject([{ reason: expect.stringMatching(/ENOMEM|locked-memory limit/) }]);
  });

  test('of memory that a pointer is asked for are dropped: the device gets the pages that are there now', async () => {
    bond();
    using buffer = memory(4 * BLOCK);
    for (const block of [0, 1, 2])
      await model.fetch(buffer.address + BigInt(block * BLOCK), new Uint8Array(8), o);
    made.bonding.reach(buffer.address + BigInt(BLOCK), 8);
    expect(made.ioas.mappings().map(({ iova }) => iova)).toEqual([
      buffer.address,
      buffer.address + BigInt(2 * BLOCK),
    ]);
    made.bonding.reach(buffer.address, 0);
    expect(made.ioas.mappings()).toHaveLength(2);
  });

  test('that can not be unmapped are an error of the pointer, and are tried again', async () => {
    bond();
    using buffer = memory(BLOCK);
    await model.fetch(buffer.address, new Uint8Array(8), o);
    {
      using _unmap = host.software.injectFault({ request: 'IOMMU_IOAS_UNMAP', code: 'EIO' });
      expect(() => made.bonding.reach(buffer.address, 8)).toThrow(expect.objectContaining({ code: 'EIO' }));
    }
    expect(made.ioas.mappings()).toHaveLength(1);
    made.bonding.reach(buffer.address, 8);
    expect(made.ioas.mappings()).toEqual([]);
  });

  test('give way to memory that is mapped ahead, which the device reaches without a request', async () => {
    bond();
    using buffer = memory(4 * BLOCK);
    await model.fetch(buffer.address, new Uint8Array(8), o);
    made.bonding.adopt(buffer.address, 4 * BLOCK, buffer);
    const mapped = [{ iova: buffer.address, length: BigInt(4 * BLOCK), writable: true }];
    expect(made.ioas.mappings()).toEqual(mapped);
    await model.store(buffer.address + BigInt(BLOCK), pattern(8), o);
    expect(made.ioas.mappings()).toEqual(mapped);
    made.bonding.reach(buffer.address, 4 * BLOCK); // stays: it is no window
    expect(made.ioas.mappings()).toEqual(mapped);
    const { address, bytes } = made.allocate(PAGE);
    using silent = host.software.injectFault({ pageRequest: 'silent' });
    await model.store(address, pattern(8), o);
    expect(bytes.subarray(0, 8)).toEqual(pattern(8));
    expect(silent.strikes).toEqual([]);
  });
});

describe('a bonding', () => {
  test('that ends while a request is open has it answered, and nothing is left', async () => {
    bond();
    using buffer = memory(BLOCK);
    const reading = model.fetch(buffer.address, new Uint8Array(8), o).catch((error: unknown) => error);
    made.bonding.dispose();
    expect(await reading).toBeInstanceOf(DmaError);
    made.bonding.dispose();
    expect(made.ioas.disposed).toBe(true);
    await expect(model.fetch(buffer.address, new Uint8Array(8), o)).rejects.toBeInstanceOf(DmaError);
    made = bonded(fault, device);
    await model.fetch(buffer.address, new Uint8Array(8), { pasid: made.bonding.pasid() as number });
  });

  test('that is used rightly gives the sanitizer nothing to report', async () => {
    bond({}, faultWithin({ window: BLOCK, most: BLOCK }));
    device.region('bar0').write32(0, 1); // the driver has told the device to work
    using buffer = memory(4 * BLOCK);
    for (const block of [0, 1]) await model.store(buffer.address + BigInt(block * BLOCK), pattern(8), o);
    made.bonding.reach(buffer.address, BLOCK);
    made.bonding.adopt(buffer.address, BLOCK, buffer);
    await model.store(buffer.address, pattern(8), o);
    await model.store(made.allocate(PAGE).address, pattern(8), o);
    made.bonding.dispose();
    device[Symbol.dispose]();
    iommufd[Symbol.dispose]();
    expect(host.software.report.findings).toEqual([]);
  });

  test('does not keep the process alive', async () => {
    const way = JSON.stringify(new URL('../dist/lib/sva/fault.js', import.meta.url).href);
    const ended = await run(
      `const { fault } = await import(${way});
       const topology = {
         iommus: [{ kind: 'vtd', pageRequests: 'pri' }],
         devices: [{ model: 'edu', bdf: '${BDF}', driver: 'vfio-pci', pageRequests: true }],
       };
       const host = Host.open({ backend: 'software', software: { topology } });
       const device = host.openDevice('${BDF}');
       device.bind(host.openIommufd());
       globalThis.kept = fault({ device, exclusive: false, events: { fault() {}, exit() {} } });
       console.log(kept.way);`,
    );
    expect(ended).toMatchObject({ code: 0, stdout: 'iommufd-fault\n' });
  });

  test('is refused with the reason: no page requests, an old kernel, another process', () => {
    class Plain extends Open {
      override readonly pageRequests = false as never;
    }
    for (const [iommu, kernel, plugged, code, reason] of [
      [
        { pageRequests: false },
        undefined,
        new Open(),
        'ENODEV',
        /possibly the device or its IOMMU has no page requests/,
      ],
      [
        { pasidBits: 0 },
        '6.12',
        new Open(),
        'EOPNOTSUPP',
        /faultQueue on a page table of an Ioas needs Linux 6\.13/,
      ],
      [{ pasidBits: 0 }, '6.9', new Open(), 'ENOTTY', /IOMMU_FAULT_QUEUE_ALLOC needs Linux 6\.11/],
      [
        { pasidBits: 0 },
        undefined,
        new Plain(),
        'ENODEV',
        /possibly the device or its IOMMU has no page requests/,
      ],
    ] as const) {
      begin(iommu, kernel, plugged);
      const ids = iommufd.allocIoas().id;
      const answer = asked(fault, device);
      expect(answer).toMatchObject({ code, reason: expect.stringMatching(reason) });
      expect(asked(fault, device, { pid: 1 })).toMatchObject({ code: 'EOPNOTSUPP' });
      expect(iommufd.allocIoas().id).toBe(ids + 1); // nothing is left of the attempt
      host[Symbol.dispose]();
    }
    bond();
  });
});
