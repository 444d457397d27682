/**
 * Shared addresses by the way 'iommufd-mirror' (requirement C8, with memory that is mapped ahead): a pointer of the process
 * means the same memory to the device.
 */
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  DmaBuffer,
  type Host,
  type Iommufd,
  type IommuModel,
  type SoftwareHost,
  Sva,
  VfioDevice,
  VfioError,
} from '../lib/index.ts';
import { bufferAt } from '../lib/memory/dma-buffer.ts';
import { type Area, areas, areasOf } from '../lib/sva/areas.ts';
import { fault } from '../lib/sva/fault.ts';
import { mirror } from '../lib/sva/mirror.ts';
import type { BondingRequest, NoWay } from '../lib/sva/way.ts';
import { backend, needs, openHost } from './support/backends.ts';
import { asked, bonded, bytesAt, plug } from './support/bonding.ts';
import { collect, turn } from './support/collect.ts';
import { bound } from './support/iommu.ts';
import { Open } from './support/open-device.ts';

/** What the next readings of the process's areas return, in place of what is so. */
const outdated = vi.hoisted(() => [] as Area[][]);
vi.mock(import('../lib/sva/areas.ts'), async (original) => {
  const real = await original();
  return { ...real, areas: () => outdated.shift() ?? real.areas() };
});

const BDF = '0000:00:1c.0';
const MIB = 2 ** 20;
/** QEMU's edu sends addresses of 28 bits. */
const EDU_BITS = 28;

const pattern = (length: number, seed = 1) =>
  Uint8Array.from({ length }, (_, at) => (at * 7 + seed + (at >> 8)) & 0xff);
const code = (expected: string, reason?: RegExp) =>
  expect.objectContaining({ code: expected, ...(reason && { reason: expect.stringMatching(reason) }) });

describe('with the edu device', () => {
  needs({ guest: ['intel', 'amd', 'virtio'], because: 'a device without an IOMMU has no iommufd' });
  let host: Host;
  beforeEach(() => {
    host = openHost();
  });
  afterEach(() => host[Symbol.dispose]());

  // No transfer is as long as the device's buffer: QEMU's edu refuses that, and ends the machine.
  const LENGTH = 2048;

  test('a pointer is given to the device, and it reads and writes that memory (C8)', async () => {
    const { device, edu } = await bound(host);
    using made = bonded(mirror, device, { addressBits: EDU_BITS });
    const [from, to] = [made.allocate(4096), made.allocate(4096)];
    expect(from.address).toBeLessThan(2n ** 28n);
    expect(to.address).not.toBe(from.address);
    from.bytes.set(pattern(LENGTH));
    made.bonding.reach(from.address, LENGTH);
    await edu.fetch(from.address, LENGTH);
    await edu.store(to.address + 1024n, LENGTH);
    expect(to.bytes.subarray(1024, 1024 + LENGTH)).toEqual(pattern(LENGTH));
    expect(bytesAt(to.address + 1024n, LENGTH)).toEqual(pattern(LENGTH));
    expect(to.bytes.subarray(0, 1024)).toEqual(new Uint8Array(1024));
  });

  test('Sva.bind takes this way here, and says why no better one (C1, C2, C8)', async () => {
    const { device, edu } = await bound(host);
    expect(Sva.features(device).has('sva')).toBe(true);
    expect(() => Sva.bind(device)).toThrow(code('EINVAL', /not enabled/));
    Sva.features(device).enable('sva');
    expect(() => Sva.features(device).enable('sva')).toThrow(code('EBUSY'));
    using bond = Sva.bind(device, { addressBits: EDU_BITS, data: 'mine' });
    expect([bond.way, bond.pasid, bond.data, bond.fd]).toEqual(['iommufd-mirror', null, 'mine', null]);
    expect(bond.reasons).toEqual([
      expect.stringMatching(/^native: no call of this host binds a process to the device/),
      expect.stringMatching(/^iommufd-fault: ./),
    ]);
    const memory = new Uint8Array(bond.allocate(4096));
    memory.set(pattern(64));
    const pointer = bond.pointer(memory);
    await edu.fetch(pointer, 64);
    await edu.store(pointer + 64n, 64);
    expect(memory.subarray(64, 128)).toEqual(pattern(64));
    expect(() => bond.pointer(new Uint8Array(4096))).toThrow(code('EFAULT', /bond\.allocate/));
    expect(() => Sva.bind(device, { addressBits: EDU_BITS, exclusive: true })).toThrow(code('EEXIST'));
    using second = Sva.bind(device, { addressBits: EDU_BITS });
    expect(second.pointer(memory)).toBe(pointer);
    expect(() => Sva.features(device).disable('sva')).toThrow(code('EBUSY'));
    expect(() => Sva.bind(device, { mm: { pid: 1 }, ways: ['iommufd-mirror'] })).toThrow(code('EOPNOTSUPP'));
  });

  test('a pointer to other memory is refused, and the device does not reach that', async () => {
    const { device, edu } = await bound(host);
    using made = bonded(mirror, device, { addressBits: EDU_BITS });
    const { address, bytes } = made.allocate(4096);
    const outside = address + BigInt(made.ioas.mappings()[0]?.length ?? 0); // behind the only chunk
    expect(() => made.bonding.reach(outside, 8)).toThrow(code('EFAULT', /bond\.allocate returned/));
    bytes.set(pattern(64));
    await edu.fetch(address, 64);
    await edu.store(outside, 64); // aborted by the IOMMU
    await edu.store(address + 64n, 64); // and the device goes on
    expect(bytes.subarray(64, 128)).toEqual(pattern(64));
  });

  test('after the end the device faults, and the memory is gone', async () => {
    const { device, edu } = await bound(host);
    const address = await (async () => {
      using made = bonded(mirror, device, { addressBits: EDU_BITS });
      const { address, bytes } = made.allocate(4096);
      bytes.set(pattern(64));
      await edu.fetch(address, 64);
      return address;
    })();
    // Attached to an address space of its own, the same pointer leads nowhere.
    const other = (device.iommufd as Iommufd).allocIoas();
    device.attach(other);
    using memory = DmaBuffer.alloc(4096);
    const { iova } = other.map(memory, { iova: 0x1000 });
    await edu.fetch(iova + 1024n, 64); // zeroes
    await edu.fetch(address, 64); // aborted: what the device has now is not what lay there
    await edu.store(iova, 64);
    expect(memory.bytes.subarray(0, 64)).not.toEqual(pattern(64));
    const present = () => areas().some(({ start, last }) => start <= address && address <= last);
    expect(await collect(() => !present())).toBe(true);
  });

  test('memory that exists is adopted, and reached at its own address', async () => {
    const { device, edu } = await bound(host);
    // Memory in the device's range that the bond knows nothing of: that of a bond which has ended.
    const { address, bytes } = (() => {
      using other = bonded(mirror, device, { addressBits: EDU_BITS });
      return other.allocate(8192);
    })();
    using made = bonded(mirror, device, { addressBits: EDU_BITS });
    expect(() => made.bonding.reach(address, 8192)).toThrow(code('EFAULT', /bond\.allocate returned/));
    made.bonding.adopt(address + 100n, 5000, bytes);
    made.bonding.reach(address, 8192);
    bytes.set(pattern(8192));
    const to = made.allocate(4096);
    await edu.fetch(address + 4096n, LENGTH);
    await edu.store(to.address, LENGTH);
    expect(to.bytes.subarray(0, LENGTH)).toEqual(bytes.subarray(4096, 4096 + LENGTH));
  });

  test('the way with page requests says why it can not be taken', async () => {
    const { device } = await bound(host);
    expect(asked(fault, device)).toMatchObject(
      backend === 'kernel'
        ? {
            code: 'EOPNOTSUPP',
            reason: expect.stringMatching(/needs Linux 6\.13, this host answers as 6\.12/),
          }
        : {
            code: 'ENODEV',
            reason: expect.stringMatching(/possibly the device or its IOMMU has no page requests/),
          },
    );
    using made = bonded(mirror, device, { addressBits: EDU_BITS }); // nothing is left of the attempt
    expect(made.allocate(4096).bytes.length).toBe(4096);
  });

  test('memory that the kernel can not pin is refused with the reason', async () => {
    const { device } = await bound(host);
    using made = bonded(mirror, device); // the IOMMU's own width
    const readOnly = areas().find((each) => each.read && !each.write && each.name.includes('.so'));
    expect(() => made.bonding.adopt(readOnly?.start as bigint, 4096)).toThrow(
      code('EFAULT', /can't be pinned.*may only read \[0x.*\.so/),
    );
    expect(made.ioas.mappings()).toEqual([]);
  });
});

describe('of simulated devices', () => {
  needs({ backends: ['software'], because: 'a real machine has no devices of ours' });

  let host: SoftwareHost;
  let model: Open;
  let device: VfioDevice;
  let iommufd: Iommufd;

  /** A device behind this IOMMU, bound to an iommufd and attached to nothing. */
  function begin(iommu?: Partial<IommuModel>, kernel?: string): void {
    model = new Open();
    ({ host, iommufd, device } = plug(model, BDF, iommu, kernel));
  }
  afterEach(() => host[Symbol.dispose]());

  /** The words of a way that can't be taken. */
  function refusal(of: VfioDevice, o?: Partial<BondingRequest>): NoWay {
    const answer = asked(mirror, of, o);
    if (!('reason' in answer)) throw new Error('the way could be taken');
    return answer;
  }

  describe('attached with a PASID', () => {
    test('the device reaches the memory with the PASID only, and keeps its own address space', async () => {
      begin();
      const own = iommufd.allocIoas();
      device.attach(iommufd.allocHwpt({ device, parent: own, pasid: true }));
      using ring = DmaBuffer.alloc(4096);
      own.map(ring, { iova: 0x1000 });
      using made = bonded(mirror, device);
      const pasid = made.bonding.pasid() as number;
      expect(pasid).toBe(1);
      const { address, bytes } = made.allocate(4096);
      await model.store(address, pattern(4096), { pasid });
      expect(bytes).toEqual(pattern(4096));
      const into = new Uint8Array(4096);
      await model.fetch(address, into, { pasid });
      expect(into).toEqual(pattern(4096));
      await expect(model.fetch(address, into)).rejects.toMatchObject({ iova: address });
      await model.store(0x1000n, pattern(8));
      expect(ring.bytes.subarray(0, 8)).toEqual(pattern(8));
      made.bonding.dispose();
      await expect(model.fetch(address, into, { pasid })).rejects.toMatchObject({ iova: address, pasid });
      await model.fetch(0x1000n, new Uint8Array(8)); // its own attachment is as it was
      made.bonding.dispose();
    });

    test('it takes the lowest PASID that the device has not attached, and gives it back at the end', () => {
      begin();
      const table = iommufd.allocHwpt({ device, parent: iommufd.allocIoas(), pasid: true });
      device.attach(table, { pasid: 1 });
      device.attach(table, { pasid: 3 });
      const pasid = () => {
        using made = bonded(mirror, device);
        return made.bonding.pasid();
      };
      expect([pasid(), pasid()]).toEqual([2, 2]);
      device.attach(table, { pasid: 2 });
      expect(pasid()).toBe(4);
    });

    test('a PASID that the kernel has given to a process is passed over', () => {
      begin();
      {
        using _fault = host.software.injectFault({
          request: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
          code: 'EBUSY',
          nth: 1,
        });
        using second = bonded(mirror, device);
        expect(second.bonding.pasid()).toBe(2);
      }
      // If all are taken, the device's own attachment is.
      const attach = vi.spyOn(device, 'attach').mockImplementation((to, o) => {
        if (o?.pasid !== undefined) throw new VfioError(16, { syscall: 'ioctl' });
        return VfioDevice.prototype.attach.call(device, to);
      });
      using last = bonded(mirror, device);
      expect(last.bonding.pasid()).toBeNull();
      expect(attach.mock.calls.length).toBe(65);
      attach.mockRestore();
    });

    test('used rightly, it gives the sanitizer nothing to report', async () => {
      begin();
      device.region('bar0').write32(0, 1); // the driver has told the device to work
      using memory = DmaBuffer.alloc(2 * 4096);
      const { bonding, allocate } = bonded(mirror, device);
      const o = { pasid: bonding.pasid() as number };
      bonding.adopt(memory.address, 2 * 4096, memory);
      for (const address of [memory.address, allocate(4096).address, allocate(3 * MIB).address])
        await model.store(address, pattern(8), o);
      bonding.dispose();
      device[Symbol.dispose]();
      iommufd[Symbol.dispose]();
      expect(host.software.report.findings).toEqual([]);
    });

    test('the end leaves an attachment that the program has put in its place', async () => {
      begin();
      using made = bonded(mirror, device);
      const other = iommufd.allocIoas();
      using memory = DmaBuffer.alloc(4096);
      other.map(memory, { iova: 0x5000 });
      device.attach(iommufd.allocHwpt({ device, parent: other, pasid: true }), { pasid: 1 });
      made.bonding.dispose();
      await model.store(0x5000n, pattern(8), { pasid: 1 });
      expect(memory.bytes.subarray(0, 8)).toEqual(pattern(8));
    });
  });

  describe('without a PASID', () => {
    for (const [because, iommu, kernel] of [
      ['the IOMMU has none', { pasidBits: 0 }, undefined],
      ['the kernel is older than 6.15', {}, '6.12'],
    ] as const)
      test(`it takes the attachment of the device, as ${because}`, async () => {
        begin(iommu, kernel);
        using made = bonded(mirror, device);
        expect(made.bonding.pasid()).toBeNull();
        const { address, bytes } = made.allocate(4096);
        await model.store(address, pattern(4096));
        expect(bytes).toEqual(pattern(4096));
        made.bonding.dispose();
        await expect(model.fetch(address, new Uint8Array(8))).rejects.toMatchObject({ iova: address });
        using again = bonded(mirror, device);
        expect(again.bonding.pasid()).toBeNull();
      });
  });

  describe('is refused with the reason', () => {
    test('for a device without an iommufd, and for another process', () => {
      begin();
      expect(refusal(device, { pid: 1 })).toMatchObject({
        code: 'EOPNOTSUPP',
        reason: expect.stringMatching(/process 1 is another/),
      });
      host[Symbol.dispose]();
      begin();
      device[Symbol.dispose]();
      expect(refusal(host.openDevice(BDF))).toMatchObject({
        code: 'EINVAL',
        reason: expect.stringMatching(/not bound to an iommufd.*device\.bind/),
      });
    });

    test('for a device whose own page table is not for PASIDs: it says how to make one that is', () => {
      begin();
      const ioas = iommufd.allocIoas();
      device.attach(ioas);
      expect(refusal(device)).toMatchObject({
        code: 'EBUSY',
        reason: expect.stringMatching(
          /IOAS \d+: detach it first.*own page table was not made for PASIDs.*pasid: true/,
        ),
      });
      device.detach();
      device.attach(iommufd.allocHwpt({ device, parent: ioas, pasid: true }));
      expect(asked(mirror, device)).toMatchObject({ way: 'iommufd-mirror' });
    });

    test('of the call that failed, and nothing is left behind', () => {
      begin({ pasidBits: 0 });
      const before = iommufd.allocIoas().id;
      {
        using _fault = host.software.injectFault({ request: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', code: 'EBUSY' });
        expect(refusal(device)).toMatchObject({
          code: 'EBUSY',
          reason: expect.stringMatching(/^no attach: /),
        });
      }
      expect(iommufd.allocIoas().id).toBe(before + 1);
    });
  });

  describe('its heap', () => {
    test('gives zeroed whole pages, several of a chunk, and larger memory by itself', () => {
      begin();
      using made = bonded(mirror, device);
      const small = Array.from({ length: 3 }, () => made.allocate(100));
      expect(made.ioas.mappings()).toHaveLength(1);
      for (const { address, bytes } of small) {
        expect(bytes).toEqual(new Uint8Array(4096));
        expect(address % 4096n).toBe(0n);
      }
      const [first, second, third] = small.map(({ address }) => address) as [bigint, bigint, bigint];
      expect([second - first, third - second]).toEqual([4096n, 4096n]);
      const large = made.allocate(5 * MIB + 1);
      expect(large.bytes.length).toBe(5 * MIB + 4096);
      expect(made.ioas.mappings()).toHaveLength(2);
      const rest = made.allocate(2 * MIB - 3 * 4096); // what the first chunk has left
      expect(rest.address).toBe(third + 4096n);
      expect(made.ioas.mappings()).toHaveLength(2);
      expect(() => made.bonding.allocate(0)).toThrow(/Expected an integer from 1/);
      expect(() => made.bonding.allocate(1.5)).toThrow(/Expected an integer from 1/);
    });

    test('lies where the device can address it: 39 bits, and a hole in them', async () => {
      const aperture = { start: 0n, last: 2n ** 39n - 1n };
      begin({
        apertures: [aperture],
        reserved: [{ start: 0x2000_0000n, last: 2n ** 38n - 1n, type: 'reserved' }],
        pasidBits: 0,
      });
      const before = areas();
      using made = bonded(mirror, device);
      const all = [4096, 2 * MIB, 16 * MIB, 3 * MIB].map((size) => made.allocate(size));
      for (const { address, bytes } of all) {
        const last = address + BigInt(bytes.length) - 1n;
        expect(address).toBeGreaterThanOrEqual(2n ** 20n);
        expect(last).toBeLessThan(2n ** 39n);
        expect(last < 0x2000_0000n || address >= 2n ** 38n).toBe(true);
        // No mapping of the process was there.
        expect(before.filter((each) => each.start <= last && each.last >= address)).toEqual([]);
        await model.store(address, pattern(4096));
        expect(bytes.subarray(0, 4096)).toEqual(pattern(4096));
      }
    });

    test('never takes the place of other memory: another one is chosen, and after some tries it fails', () => {
      begin({ apertures: [{ start: 0n, last: 2n ** 39n - 1n }], pasidBits: 0 });
      using made = bonded(mirror, device);
      const { address, bytes } = made.allocate(4 * MIB);
      bytes.fill(0x5a);
      expect(() => bufferAt(address + 4096n, 4096)).toThrow(code('EEXIST'));
      // A reading of the areas in which only that memory's place was free: it has been taken since.
      const taken = { read: true, write: true, execute: false, name: '' };
      const stale = [
        { ...taken, start: 2n ** 20n, last: address - 1n },
        { ...taken, start: address + BigInt(4 * MIB), last: 2n ** 47n - 1n },
      ];
      outdated.push(stale, stale);
      const other = made.allocate(4 * MIB);
      expect(outdated).toEqual([]);
      expect(other.address).not.toBe(address);
      outdated.push(...Array<Area[]>(9).fill(stale));
      expect(() => made.allocate(4 * MIB)).toThrow(code('EEXIST'));
      expect(outdated).toEqual([]);
      expect(bytes.every((byte) => byte === 0x5a)).toBe(true);
    });

    test('says which addresses it needs, if the process has none of them free', () => {
      begin({ apertures: [{ start: 0n, last: 0xf_ffffn }], pasidBits: 0 });
      using made = bonded(mirror, device);
      expect(() => made.bonding.allocate(4096)).toThrow(code('ENOMEM', /0x200000 bytes free at addresses/));
    });

    test('is not inherited by a child process (a copy in the child could hold pages of the device)', () => {
      begin();
      using made = bonded(mirror, device);
      const { address } = made.allocate(4096);
      const smaps = readFileSync('/proc/self/smaps', 'utf8');
      const [area] = areasOf(smaps).filter((each) => each.start <= address && address <= each.last);
      const from = smaps.indexOf(`${area?.start.toString(16)}-`);
      expect(/^VmFlags: (.*)$/m.exec(smaps.slice(from))?.[1]?.split(' ')).toContain('dc');
    });

    test('a map that fails leaves no memory behind, and the next one works', () => {
      begin();
      using made = bonded(mirror, device);
      {
        using _fault = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'ENOMEM' });
        expect(() => made.bonding.allocate(4096)).toThrow(code('ENOMEM'));
      }
      expect(made.ioas.mappings()).toEqual([]);
      expect(made.allocate(4096).bytes.length).toBe(4096);
    });
  });

  describe('a pointer', () => {
    test('outside of the heap and adopted memory is refused, with what to do instead', () => {
      begin();
      using made = bonded(mirror, device);
      const { address } = made.allocate(4096);
      made.bonding.reach(address, 2 * MIB);
      using outside = DmaBuffer.alloc(4096);
      for (const [at, length] of [
        [outside.address, 1],
        [address - 1n, 2],
        [address + BigInt(2 * MIB) - 1n, 2],
        [0n, 8],
      ] as const)
        expect(() => made.bonding.reach(at, length)).toThrow(
          expect.objectContaining({
            code: 'EFAULT',
            reason: expect.stringMatching(
              /can't reach \[0x.*bond\.allocate returned or bond\.adopt was given/,
            ),
            hint: expect.stringMatching(/bond\.allocate\(size\).*bond\.adopt\(view\)/),
          }),
        );
    });
  });

  describe('adopted memory', () => {
    test('is mapped in whole pages: the device reaches its neighbours on them, and nothing else', async () => {
      begin();
      using made = bonded(mirror, device);
      using memory = DmaBuffer.alloc(4 * 4096);
      made.bonding.adopt(memory.address + 4096n + 8n, 4096, memory);
      expect(made.ioas.mappings()).toMatchObject([{ iova: memory.address + 4096n, length: 8192n }]);
      const pasid = made.bonding.pasid() as number;
      await model.store(memory.address + 4096n, pattern(8192), { pasid });
      expect(memory.bytes.subarray(4096, 3 * 4096)).toEqual(pattern(8192));
      for (const outside of [memory.address, memory.address + 3n * 4096n])
        await expect(model.store(outside, pattern(8), { pasid })).rejects.toMatchObject({ iova: outside });
      made.bonding.adopt(memory.address + 5000n, 10, memory); // is there already
      expect(made.ioas.mappings()).toHaveLength(1);
    });

    test('is refused where it is out of range, or can not be pinned, each in its own words', () => {
      begin({ apertures: [{ start: 0n, last: 2n ** 39n - 1n }], pasidBits: 0 });
      using low = bonded(mirror, device);
      const high = areas().findLast(({ start, write }) => write && start > 2n ** 39n)?.start as bigint;
      expect(() => low.bonding.adopt(high, 4096)).toThrow(
        code('EFAULT', /can't address \[0x.*it reaches \[/),
      );
      low.bonding.dispose();

      host[Symbol.dispose]();
      begin();
      using made = bonded(mirror, device);
      const list = areas();
      const readOnly = list.find((each) => each.read && !each.write && each.name.includes('.so'))
        ?.start as bigint;
      expect(() => made.bonding.adopt(readOnly, 4096)).toThrow(
        code('EFAULT', /can't be pinned.*may only read \[0x.*\.so/),
      );
      const hole = list.find(({ last }, at) => (list[at + 1]?.start ?? 0n) > last + 4097n)?.last as bigint;
      expect(() => made.bonding.adopt(hole + 1n, 4096)).toThrow(code('EFAULT', /nothing is mapped in \[0x/));
      expect(made.ioas.mappings()).toEqual([]);
    });

    test('may share pages with memory that is mapped already: only the others are mapped', async () => {
      begin();
      using made = bonded(mirror, device);
      using memory = DmaBuffer.alloc(8 * 4096);
      const at = (page: number) => memory.address + BigInt(page * 4096);
      made.bonding.adopt(at(1), 100, memory);
      made.bonding.adopt(at(4) + 50n, 100, memory);
      made.bonding.adopt(at(1) + 200n, 4 * 4096, memory); // the end of page 1 to page 5
      const pages = made.ioas
        .mappings()
        .map(({ iova, length }) => [Number(iova - memory.address), Number(length)]);
      expect(pages.map(([start = 0, length = 0]) => [start / 4096, length / 4096])).toEqual([
        [1, 1],
        [2, 2],
        [4, 1],
        [5, 1],
      ]);
      made.bonding.reach(at(1), 5 * 4096);
      await model.store(at(1), pattern(5 * 4096), { pasid: made.bonding.pasid() as number });
      expect(memory.bytes.subarray(4096, 6 * 4096)).toEqual(pattern(5 * 4096));
    });

    test('that can be mapped in part only is not mapped at all', () => {
      begin();
      using made = bonded(mirror, device);
      using memory = DmaBuffer.alloc(8 * 4096);
      made.bonding.adopt(memory.address + 4096n, 4096, memory);
      using fault = host.software.injectFault({ request: 'IOMMU_IOAS_MAP', code: 'ENOMEM', nth: 2 });
      expect(() => made.bonding.adopt(memory.address, 4 * 4096, memory)).toThrow(code('ENOMEM'));
      expect(fault.strikes).toHaveLength(1);
      expect(made.ioas.mappings()).toMatchObject([{ iova: memory.address + 4096n, length: 4096n }]);
    });

    test('is kept by its owner until it is unmapped, for each that was given', async () => {
      begin();
      const made = bonded(mirror, device);
      using memory = DmaBuffer.alloc(4096);
      const owners = [0, 1].map((at) => {
        const owner = {};
        made.bonding.adopt(memory.address + BigInt(at * 8), 8, owner);
        return new WeakRef(owner);
      });
      await collect();
      expect(owners.map((each) => each.deref() !== undefined)).toEqual([true, true]);
      made.bonding.dispose();
      await turn(); // what was looked at is kept until the end of its turn
      await collect();
      expect(owners.map((each) => each.deref())).toEqual([undefined, undefined]);
    });

    test('is kept by its owner for good if it is not known to be unmapped', async () => {
      begin();
      const made = bonded(mirror, device);
      using memory = DmaBuffer.alloc(4096);
      const owner = (() => {
        const owner = {};
        made.bonding.adopt(memory.address, 8, owner);
        return new WeakRef(owner);
      })();
      const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
      {
        using _unmap = host.software.injectFault({ request: 'IOMMU_IOAS_UNMAP', code: 'EIO' });
        made.bonding.dispose();
      }
      warned.mockRestore();
      await collect();
      expect(owner.deref()).toBeDefined();
    });
  });

  describe('its end', () => {
    test('unmaps what is mapped even if the device can not be detached, and says what is left', async () => {
      begin();
      const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
      using made = bonded(mirror, device);
      const pasid = made.bonding.pasid() as number;
      const { address } = made.allocate(4096);
      {
        using _fault = host.software.injectFault({ request: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', code: 'EIO' });
        made.bonding.dispose();
      }
      const told = warned.mock.calls.map(([text]) => String(text));
      warned.mockRestore();
      expect(told[0]).toMatch(/has ended, but an object of its iommufd is left until that is closed: EIO/);
      await expect(model.fetch(address, new Uint8Array(8), { pasid })).rejects.toMatchObject({
        iova: address,
      });
    });

    test('keeps memory while the kernel may still map it: the device must not write into what others get', async () => {
      begin();
      const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
      const address = (() => {
        const made = bonded(mirror, device);
        const { address } = made.allocate(4096);
        using _unmap = host.software.injectFault({ request: 'IOMMU_IOAS_UNMAP', code: 'EIO' });
        using _detach = host.software.injectFault({ request: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', code: 'EIO' });
        made.bonding.dispose();
        return address;
      })();
      const codes = warned.mock.calls.map(([, o]) => (o as { code?: string }).code);
      warned.mockRestore();
      expect(codes).toContain('VFIO_MEMORY_KEPT');
      await collect();
      await model.store(address, pattern(8), { pasid: 1 }); // the kernel does map it
      expect(bytesAt(address, 8)).toEqual(pattern(8));
    });

    test('comes after that of the device or the host, too', () => {
      begin();
      const made = bonded(mirror, device);
      made.allocate(4096);
      device[Symbol.dispose]();
      made.bonding.dispose();
      device = host.openDevice(BDF);
      device.bind(iommufd);
      const other = bonded(mirror, device);
      other.allocate(4096);
      host[Symbol.dispose]();
      other.bonding.dispose();
    });
  });
});
