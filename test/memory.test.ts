/**
 * How long DMA memory lives. Its pages outlive every view, slice and mapping, and nothing that happens to an ArrayBuffer while a
 * device can write does harm. And which memory can be mapped: only that of the package, or memory that is marked unsafe.
 */
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { DmaBuffer, type Host, type MemorySlice } from '../lib/index.ts';
import { backend, openHost } from './support/backends.ts';
import { collect, descriptors } from './support/collect.ts';
import { type Job, startJob } from './support/edu.ts';
import { run } from './support/program.ts';

let host: Host;
let job: Job;
beforeEach(async () => {
  host = openHost();
  job = await startJob(host);
});
afterEach(() => {
  job[Symbol.dispose]();
  host[Symbol.dispose]();
});

const IOVA = 0x10000n;
/** The length of one transfer: QEMU's edu can not move all of its 4096 bytes at once. */
const PIECE = 2048;
const code = (expected: string | RegExp) =>
  expect.objectContaining({
    code: typeof expected === 'string' ? expected : expect.stringMatching(expected),
  });

/** Fills the device's own buffer with `value`, so that the device can store it in memory. */
async function load(value: number): Promise<void> {
  using source = DmaBuffer.alloc(4096);
  source.write(0, Buffer.alloc(4096, value));
  using mapping = job.dma.map(source, { iova: 0x8000000 });
  await job.edu.fetch(mapping.iova, PIECE);
}

/** The bytes that a device reads at `iova`: the device loads them, and stores them where the test can read them. */
async function seenByDevice(iova: bigint, count: number): Promise<Buffer> {
  using target = DmaBuffer.alloc(4096);
  using mapping = job.dma.map(target, { iova: 0x8000000 });
  await job.edu.fetch(iova, count);
  await job.edu.store(mapping.iova, count);
  const seen = Buffer.alloc(count);
  target.read(0, seen);
  return seen;
}

const all = (bytes: Uint8Array, value: number) => bytes.every((each) => each === value);

/** Whether this page is mapped in the process's address space. */
function isMapped(address: bigint): boolean {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .some((line) => {
      const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line) ?? [];
      return start !== undefined && BigInt(`0x${start}`) <= address && address < BigInt(`0x${end}`);
    });
}

/** Many buffers full of `value`, which would reuse memory that was freed by mistake. */
function crowd(value: number): DmaBuffer[] {
  return Array.from({ length: 64 }, () => {
    const each = DmaBuffer.alloc(4096);
    each.write(0, Buffer.alloc(4096, value));
    return each;
  });
}

function untouched(buffers: DmaBuffer[], value: number): boolean {
  const bytes = Buffer.alloc(4096);
  return buffers.every((each) => {
    each.read(0, bytes);
    each[Symbol.dispose]();
    return all(bytes, value);
  });
}

describe('a buffer', () => {
  test('is zeroed, page aligned, in whole pages, and 2 MiB aligned from 2 MiB on', () => {
    for (const [size, rounded, alignment] of [
      [1, 4096, 4096],
      [4096, 4096, 4096],
      [4097n, 8192, 4096],
      [2 << 20, 2 << 20, 2 << 20],
      [(2 << 20) + 1, (2 << 20) + 4096, 2 << 20],
      [5 << 20, 5 << 20, 2 << 20],
    ] as const) {
      using memory = DmaBuffer.alloc(size);
      expect(memory.size).toBe(rounded);
      expect(memory.address % BigInt(alignment)).toBe(0n);
      expect(memory.buffer.byteLength).toBe(rounded);
      expect(Buffer.compare(memory.bytes, Buffer.alloc(rounded))).toBe(0);
    }
  });

  test('is not inherited by child processes: copy-on-write would move it from under the device', () => {
    using memory = DmaBuffer.alloc(4096);
    const smaps = readFileSync('/proc/self/smaps', 'utf8').split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
    const its = smaps.find((each) => {
      const [start, end] = each
        .split(' ', 1)[0]!
        .split('-')
        .map((text) => BigInt(`0x${text}`));
      return start! <= memory.address && memory.address < end!;
    });
    expect(its).toMatch(/^VmFlags:.* dc( |$)/m);
  });

  test('its pages are freed when it is disposed and nothing else needs them', async () => {
    const memory = DmaBuffer.alloc(16 << 20);
    const { address } = memory;
    expect(isMapped(address)).toBe(true);
    memory[Symbol.dispose]();
    expect(isMapped(address)).toBe(false);
  });

  test('its pages are freed when it is collected undisposed', async () => {
    const address = (() => DmaBuffer.alloc(16 << 20).address)();
    expect(await collect(() => !isMapped(address))).toBe(true);
  });

  test('huge pages come from the pool, or the error is ENOMEM', () => {
    for (const [hugePages, kib, size] of [
      ['2M', 2048, 2 << 20],
      ['1G', 1048576, 1 << 30],
    ] as const) {
      const pool = `/sys/kernel/mm/hugepages/hugepages-${kib}kB/free_hugepages`;
      const free = existsSync(pool) ? Number(readFileSync(pool, 'utf8')) : 0;
      if (free === 0) {
        expect(() => DmaBuffer.alloc(1, { hugePages })).toThrow(code(/^(ENOMEM|EINVAL)$/));
        continue;
      }
      using memory = DmaBuffer.alloc(1, { hugePages });
      expect(memory.size).toBe(size);
      expect(memory.address % BigInt(size)).toBe(0n);
      memory.write(size - 4, Buffer.of(1, 2, 3, 4));
    }
  });

  test('failing allocations leave nothing mapped', () => {
    const lines = () => readFileSync('/proc/self/maps', 'utf8').split('\n').length;
    const before = lines();
    for (let time = 0; time < 100; time++) {
      expect(() => DmaBuffer.alloc(4 << 20, { numaNode: 1023 })).toThrow();
      expect(() => DmaBuffer.alloc(2 ** 53 - 1)).toThrow();
    }
    expect(Math.abs(lines() - before)).toBeLessThan(20);
  });
});

describe('views', () => {
  test('stay readable and writable after the buffer is disposed and collected', async () => {
    const { bytes, slice, address } = (() => {
      const memory = DmaBuffer.alloc(8192);
      const slice = memory.slice(4096, 4096).bytes;
      const view = { bytes: memory.bytes, slice, address: memory.address };
      memory[Symbol.dispose]();
      return view;
    })();
    await collect();
    const others = crowd(3);
    bytes.fill(9);
    expect(slice[0]).toBe(9);
    expect(isMapped(address)).toBe(true);
    expect(untouched(others, 3)).toBe(true);
  });

  test('keep the pages of a collected buffer, which are freed when the views are collected', async () => {
    const kept = [(() => DmaBuffer.alloc(16 << 20).buffer)()];
    await collect();
    const [buffer] = kept;
    expect(buffer?.byteLength).toBe(16 << 20);
    new Uint8Array(buffer!)[(16 << 20) - 1] = 1;
    const address = await (async () => {
      const memory = DmaBuffer.alloc(16 << 20);
      const views: unknown[] = [memory.bytes, memory.slice(0, 4096).bytes, memory.buffer];
      const { address } = memory;
      memory[Symbol.dispose]();
      await collect();
      expect(isMapped(address)).toBe(true);
      views.length = 0;
      return address;
    })();
    expect(await collect(() => !isMapped(address))).toBe(true);
  });

  test('all show the same bytes, and have the same ArrayBuffer each time', () => {
    using memory = DmaBuffer.alloc(8192);
    expect(memory.buffer).toBe(memory.buffer);
    memory.bytes[4096] = 5;
    expect(memory.slice(4096, 10).bytes[0]).toBe(5);
    expect(memory.slice(4096, 10).bytes).toHaveLength(10);
  });

  test('a slice has its address; once its buffer is disposed it can be read, but not mapped', () => {
    const memory = DmaBuffer.alloc(8192);
    const slice: MemorySlice = memory.slice(4096, 4096);
    expect([slice.address, slice.size]).toEqual([memory.address + 4096n, 4096]);
    const { bytes } = slice;
    memory[Symbol.dispose]();
    expect(bytes).toHaveLength(4096);
    expect(() => job.dma.map(slice)).toThrow(code('ERR_VFIO_DISPOSED'));
  });
});

describe('whatever happens to an ArrayBuffer while a device can write is harmless:', () => {
  /** The ways to detach an ArrayBuffer. The runtime may refuse each. */
  const ways: Record<string, (buffer: ArrayBuffer) => unknown> = {
    'structuredClone with transfer': (buffer) => structuredClone(buffer, { transfer: [buffer] }),
    'postMessage with transfer': (buffer) => {
      const { port1, port2 } = new MessageChannel();
      port1.postMessage(buffer, [buffer]);
      const received = receiveMessageOnPort(port2)?.message;
      port1.close();
      return received;
    },
    'ArrayBuffer.prototype.transfer': (buffer) =>
      (buffer as ArrayBuffer & { transfer(): unknown }).transfer(),
    'ArrayBuffer.prototype.transfer to another length': (buffer) =>
      (buffer as ArrayBuffer & { transfer(length: number): unknown }).transfer(16),
    'ArrayBuffer.prototype.transferToFixedLength': (buffer) =>
      (buffer as ArrayBuffer & { transferToFixedLength(): unknown }).transferToFixedLength(),
    'ArrayBuffer.prototype.resize': (buffer) =>
      (buffer as ArrayBuffer & { resize(n: number): void }).resize(0),
  };

  for (const [name, take] of Object.entries(ways)) {
    test(name, async () => {
      await load(0x66);
      using memory = DmaBuffer.alloc(4096);
      using mapping = job.dma.map(memory, { iova: IOVA });
      let taken: unknown[] = [];
      job.edu.start(0x40000n, mapping.iova, PIECE, true);
      try {
        taken = [take(memory.buffer)];
      } catch (error) {
        expect(error).toBeInstanceOf(Error);
      }
      await job.edu.idle();
      expect(taken.length).toBeLessThan(2);
      taken = [];
      await collect();
      const others = crowd(1);
      await job.edu.store(mapping.iova, PIECE);
      const seen = Buffer.alloc(PIECE);
      memory.read(0, seen);
      expect(all(seen, 0x66)).toBe(true);
      expect(all(memory.bytes.subarray(0, PIECE), 0x66)).toBe(true);
      expect(memory.buffer.byteLength).toBe(4096);
      expect(untouched(others, 1)).toBe(true);
    });
  }

  describe('docs/memory.md says what happens:', () => {
    const text = readFileSync(join(import.meta.dirname, '../docs/memory.md'), 'utf8');
    const rows = [...text.matchAll(/^\| `(.*buffer.*)` \| (.+, the buffer .+) \| (.+, the buffer .+) \|$/gm)];
    test('each way', () => expect(rows).toHaveLength(10));

    for (const [, code = '', old, now] of rows)
      test(code, () => {
        using memory = DmaBuffer.alloc(8192);
        const { buffer } = memory;
        const { port1, port2 } = new MessageChannel();
        let came: string;
        try {
          const result: unknown = new Function('buffer', 'port', `let moved; return ${code}`)(buffer, port1);
          const view = result instanceof ArrayBuffer ? result : receiveMessageOnPort(port2)?.message;
          memory.write(0, Buffer.of(0x5a));
          came = new Uint8Array(view)[0] === 0x5a ? 'the same pages' : 'a copy';
        } catch (error) {
          const { name, message } = error as Error;
          came = /is not a function$/.test(message) ? 'no such function' : name;
        }
        port1.close();
        const state = buffer.byteLength === 0 ? 'is detached' : 'stays';
        expect(`${came}, the buffer ${state}`).toBe(process.versions.node.startsWith('20.') ? old : now);
        memory.write(0, Buffer.of(0x33));
        expect(memory.bytes[0]).toBe(0x33);
      });
  });

  test('transferred by a worker that ends, it is readable in the thread that has it, or it was refused', async () => {
    // In a process of its own, since a defect here would end it with a segmentation fault.
    const ended = await run(`
      import { Worker } from 'node:worker_threads';
      const worker = new Worker(
        \`const { parentPort, workerData } = require('node:worker_threads');
        import(workerData).then(({ DmaBuffer }) => {
          const { buffer } = DmaBuffer.alloc(1 << 20);
          new Uint8Array(buffer).fill(7);
          const moved = buffer.transfer ? buffer.transfer() : buffer;
          try {
            parentPort.postMessage(moved, [moved]);
          } catch {
            parentPort.postMessage(null);
          }
        });\`,
        { eval: true, workerData: PACKAGE, execArgv: [] },
      );
      const ended = new Promise((resolve) => worker.once('exit', resolve)); // it may come in the same turn as the message
      const received = await new Promise((resolve) => worker.once('message', resolve));
      await ended;
      const bytes = new Uint8Array(received ?? 0);
      console.log(bytes.every((each) => each === 7 || each === 0));
    `);
    expect(ended).toEqual({ code: 0, signal: null, stdout: 'true\n', stderr: '' });
  });

  test('dropped and collected', async () => {
    await load(0x66);
    using memory = DmaBuffer.alloc(4096);
    using mapping = job.dma.map(memory, { iova: IOVA });
    memory.bytes.fill(1);
    await collect();
    await job.edu.store(mapping.iova, PIECE);
    expect(all(memory.bytes.subarray(0, PIECE), 0x66)).toBe(true);
  });
});

describe('a mapping keeps its memory', () => {
  test('after the buffer is disposed and collected, until it is unmapped', async () => {
    await load(0x66);
    const address = (() => {
      const memory = DmaBuffer.alloc(4096);
      memory.write(0, Buffer.alloc(4096, 1));
      job.dma.map(memory, { iova: IOVA });
      memory[Symbol.dispose]();
      return memory;
    })();
    expect(() => address.address).toThrow(code('ERR_VFIO_DISPOSED'));
    await collect();
    const others = crowd(2);
    expect(all(await seenByDevice(IOVA, 64), 1)).toBe(true);
    await load(0x66);
    await job.edu.store(IOVA, PIECE);
    expect(untouched(others, 2)).toBe(true);
    expect(all(await seenByDevice(IOVA, 64), 0x66)).toBe(true);
    expect(job.dma.unmap(IOVA, 4096)).toBe(4096n);
  });

  test('its pages exist as long as the mapping, and are freed with it', async () => {
    const memory = DmaBuffer.alloc(16 << 20);
    const { address } = memory;
    const mapping = job.dma.map(memory, { iova: 0x1000000 });
    memory[Symbol.dispose]();
    await collect();
    expect(isMapped(address)).toBe(true);
    mapping[Symbol.dispose]();
    expect(await collect(() => !isMapped(address))).toBe(true);
  });

  test('a copy keeps it after the original is unmapped, a slice keeps all of it', async () => {
    using memory = DmaBuffer.alloc(8192);
    memory.write(4096, Buffer.alloc(4096, 5));
    const iommufd = job.device.iommufd!;
    const source = iommufd.allocIoas();
    const first = source.map(memory.slice(4096, 4096));
    const { iova } = (job.dma as typeof source).copy(first, { iova: IOVA });
    memory[Symbol.dispose]();
    source[Symbol.dispose]();
    await collect();
    const others = crowd(2);
    expect(all(await seenByDevice(iova, PIECE), 5)).toBe(true);
    expect(untouched(others, 2)).toBe(true);
  });

  test('the address space and the buffer are collected while the device writes on: no other memory is overwritten', async () => {
    await load(0x66);
    const { dma } = job.user;
    (() => {
      const memory = DmaBuffer.alloc(4096);
      dma.map(memory, { iova: IOVA });
    })();
    await collect();
    const others = crowd(2);
    for (let time = 0; time < 8; time++) await job.edu.store(IOVA, PIECE);
    expect(untouched(others, 2)).toBe(true);
  });

  test('mapped twice, it is freed with the last mapping', async () => {
    const memory = DmaBuffer.alloc(16 << 20);
    const { address } = memory;
    const mappings = [0x1000000, 0x4000000].map((iova) => job.dma.map(memory, { iova }));
    memory[Symbol.dispose]();
    mappings[0]?.[Symbol.dispose]();
    await collect();
    expect(isMapped(address)).toBe(true);
    job.dma.unmapAll();
    expect(await collect(() => !isMapped(address))).toBe(true);
    mappings[1]?.[Symbol.dispose]();
  });

  test('mapAsync keeps it while it is under way', async () => {
    const memory = DmaBuffer.alloc(16 << 20);
    const pending = job.dma.mapAsync(memory, { iova: 0x1000000 });
    memory[Symbol.dispose]();
    await collect();
    const mapping = await pending;
    expect([mapping.iova, mapping.length]).toEqual([0x1000000n, BigInt(16 << 20)]);
    await load(0x66);
    await job.edu.store(0x1000000n, PIECE);
    expect(all(await seenByDevice(0x1000000n, 64), 0x66)).toBe(true);
  });
});

describe('only memory of the package can be mapped', () => {
  test('anything else is refused, and nothing is mapped', () => {
    using memory = DmaBuffer.alloc(4096);
    const slice = memory.slice(0, 4096);
    for (const foreign of [
      new ArrayBuffer(4096),
      new SharedArrayBuffer(4096),
      new Uint8Array(4096),
      Buffer.alloc(4096),
      memory.buffer,
      memory.bytes,
      slice.bytes,
      { ...slice },
      Object.create(slice),
      { address: memory.address, size: 4096 },
      memory.address,
      job.edu.registers,
    ])
      expect(() => job.dma.map(foreign as never)).toThrow(
        /^Expected a DmaBuffer or a slice of one for memory/,
      );
    expect(job.user.dma.mappings()).toEqual([]);
  });

  test('memory that is marked unsafe is mapped by its address; there are no views of it', async () => {
    using memory = DmaBuffer.alloc(8192);
    memory.write(4096, Buffer.alloc(4096, 8));
    using unsafe = DmaBuffer.unsafeFromAddress(memory.address + 4096n, 4096);
    expect([unsafe.address, unsafe.size]).toEqual([memory.address + 4096n, 4096]);
    using _ = job.dma.map(unsafe, { iova: IOVA });
    expect(all(await seenByDevice(IOVA, PIECE), 8)).toBe(true);
    expect(() => unsafe.buffer).toThrow(code('EOPNOTSUPP'));
    expect(() => unsafe.bytes).toThrow(code('EOPNOTSUPP'));
    expect(() => unsafe.read(0, new Uint8Array(1))).toThrow(code('EOPNOTSUPP'));
    expect(() => unsafe.write(0, new Uint8Array(1))).toThrow(code('EOPNOTSUPP'));
    expect(() => unsafe.slice(0, 4096).bytes).toThrow(code('EOPNOTSUPP'));
  });

  test('unsafe memory that does not exist can not be mapped: EFAULT', () => {
    for (const address of [0x1000n, 0x7fff_ffff_f000n, 0xffff_8000_0000_0000n, 2n ** 64n - 0x2000n]) {
      using unsafe = DmaBuffer.unsafeFromAddress(address, 4096);
      expect(() => job.dma.map(unsafe), address.toString(16)).toThrow(
        code(/^(EFAULT|EINVAL|EOVERFLOW|ERR_OUT_OF_RANGE)$/),
      );
    }
    using endless = DmaBuffer.unsafeFromAddress(0x1000, 2n ** 63n);
    expect(() => job.dma.map(endless)).toThrow();
    expect(job.user.dma.mappings()).toEqual([]);
  });

  test('unsafe memory that is freed while it is mapped does not crash the process', async () => {
    const memory = DmaBuffer.alloc(1 << 20);
    using unsafe = DmaBuffer.unsafeFromAddress(memory.address, 1 << 20);
    using mapping = job.dma.map(unsafe, { iova: 0x1000000 });
    memory[Symbol.dispose]();
    const others = crowd(4);
    await job.edu.fetch(mapping.iova, PIECE);
    await job.edu.store(mapping.iova, PIECE);
    expect(untouched(others, 4)).toBe(true);
  });
});

describe("a file's memory", () => {
  // The kernel lets a device write to pages for a long time only if they are of a memory file system.
  let folder: string;
  beforeAll(() => {
    if (!existsSync('/dev/shm')) mkdirSync('/dev/shm');
    folder = mkdtempSync('/dev/shm/vfio-test-');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  function file(size: number, flags = 'r+'): number {
    const path = join(folder, `${size}${flags}`);
    writeFileSync(path, Buffer.alloc(size));
    const fd = openSync(path, flags);
    open.add(fd);
    onTestFinished(() => {
      if (open.has(fd)) close(fd);
    });
    return fd;
  }
  // Closes it once only: afterwards another file may have its number.
  const open = new Set<number>();
  function close(fd: number): void {
    open.delete(fd);
    closeSync(fd);
  }

  test('is shared with the file, by view and by device, also when the descriptor is closed', async () => {
    const fd = file(16384);
    using memory = DmaBuffer.fromFd(fd, { offset: 4096, length: 8192 });
    expect(memory.size).toBe(8192);
    writeSync(fd, Buffer.of(1, 2, 3), 0, 3, 4096);
    expect([...memory.bytes.subarray(0, 3)]).toEqual([1, 2, 3]);
    await load(0x66);
    using _ = job.dma.map(memory, { iova: IOVA });
    await job.edu.store(IOVA + 4096n, PIECE);
    const seen = Buffer.alloc(PIECE);
    readSync(fd, seen, 0, PIECE, 8192);
    expect(all(seen, 0x66)).toBe(true);
    close(fd);
    memory.write(0, Buffer.of(9));
    expect(readFileSync(join(folder, '16384r+'))[4096]).toBe(9);
  });

  test('can not be mapped past the end of the file, unaligned, or from a file of another kind', () => {
    const fd = file(8192);
    expect(() => DmaBuffer.fromFd(fd, { length: 8193 })).toThrow(RangeError);
    expect(() => DmaBuffer.fromFd(fd, { offset: 4096, length: 4097 })).toThrow(RangeError);
    expect(() => DmaBuffer.fromFd(fd, { offset: 1, length: 1 })).toThrow(RangeError);
    expect(() => DmaBuffer.fromFd(fd, { offset: 8192, length: 1 })).toThrow(RangeError);
    using page = DmaBuffer.fromFd(fd, { offset: 4096n, length: 1n });
    expect(page.size).toBe(4096);
    expect(() => DmaBuffer.fromFd(file(4096, 'r'), { length: 4096 })).toThrow(code('EACCES'));
    const directory = openSync(folder, 'r');
    expect(() => DmaBuffer.fromFd(directory, { length: 4096 })).toThrow();
    closeSync(directory);
    const before = descriptors();
    expect(() => DmaBuffer.fromFd(1_000_000, { length: 4096 })).toThrow(code('EBADF'));
    expect(descriptors()).toBe(before);
  });

  test('may be that of a disk, whose size is known from the disk itself', (ctx) => {
    const image = join(folder, 'disk');
    writeFileSync(image, Buffer.alloc(0x100000));
    const { stdout, stderr, error } = spawnSync('losetup', ['--find', '--show', image], { encoding: 'utf8' });
    const disk = stdout?.trim();
    if (!disk) return ctx.skip(`no disk can be made of a file here: ${error?.message ?? stderr.trim()}`);
    const fd = openSync(disk, 'r+');
    try {
      using memory = DmaBuffer.fromFd(fd, { offset: 0xff000, length: 4096 });
      memory.write(4092, Buffer.from('last'));
      expect(() => DmaBuffer.fromFd(fd, { offset: 0xff000, length: 4097 })).toThrow(
        /inside the file's 1048576 bytes/,
      );
    } finally {
      closeSync(fd);
      spawnSync('losetup', ['--detach', disk]);
    }
  });

  test('does not move the offset of the file, whether the call succeeds or not', () => {
    const fd = file(8192, 'r+');
    const into = Buffer.alloc(3);
    readSync(fd, into, 0, 3, null);
    using memory = DmaBuffer.fromFd(fd, { length: 8192 });
    expect(() => DmaBuffer.fromFd(fd, { length: 8193 })).toThrow(RangeError);
    memory.write(3, Buffer.from('four'));
    expect(readSync(fd, into, 0, 3, null)).toBe(3);
    expect(into.toString()).toBe('fou');
  });
});

describe('read and write', () => {
  test('copy exactly the given range, from and to any kind of byte array', () => {
    using memory = DmaBuffer.alloc(4096);
    memory.write(10, Buffer.from('hello'));
    memory.write(4096, new Uint8Array(0));
    memory.write(4092, new Uint8Array(Uint32Array.of(0x04030201).buffer));
    const shared = new Uint8Array(new SharedArrayBuffer(7), 1, 6);
    memory.read(10, shared);
    expect(Buffer.from(shared).toString('latin1')).toBe('hello\0');
    const whole = Buffer.alloc(4096);
    memory.read(0, whole);
    expect([whole[9], whole[10], whole[15], ...whole.subarray(4092)]).toEqual([0, 104, 0, 1, 2, 3, 4]);
    memory.write(0, memory.bytes); // onto itself
    memory.write(1, memory.bytes.subarray(0, 4095)); // overlapping
    expect(Buffer.from(memory.bytes.subarray(11, 16)).toString()).toBe('hello');
  });

  test('treat a detached array as an empty one', () => {
    using memory = DmaBuffer.alloc(4096);
    const bytes = new Uint8Array(8).fill(1);
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
    memory.read(0, bytes);
    memory.write(0, bytes);
    expect(memory.bytes[0]).toBe(0);
    expect(job.device.region('config').readInto(0, bytes)).toBe(0);
  });
});

describe('where the runtime allows no external buffers (VFIO_NO_EXTERNAL_BUFFERS=1)', () => {
  beforeEach(() => {
    process.env['VFIO_NO_EXTERNAL_BUFFERS'] = '1';
  });
  afterEach(() => {
    delete process.env['VFIO_NO_EXTERNAL_BUFFERS'];
  });
  const refused = expect.objectContaining({
    code: 'EOPNOTSUPP',
    message: expect.stringMatching(/allows no ArrayBuffer .* use the accessor calls/),
  });

  test('a view is refused, and the error says what to use instead', () => {
    using memory = DmaBuffer.alloc(4096);
    expect(() => memory.buffer).toThrow(refused);
    expect(() => memory.bytes).toThrow(refused);
    expect(() => memory.slice(0, 4).bytes).toThrow(refused);
    if (backend === 'kernel') expect(() => job.edu.registers.buffer).toThrow(refused);
    else expect(() => job.edu.registers.buffer).toThrow(code('EOPNOTSUPP'));
    delete process.env['VFIO_NO_EXTERNAL_BUFFERS'];
    expect(memory.buffer.byteLength).toBe(4096);
  });

  test('the accessors suffice for registers, DMA both ways and an interrupt', async () => {
    using memory = DmaBuffer.alloc(8192);
    using mapping = job.dma.map(memory);
    using interrupt = job.msi();
    memory.write(0, Buffer.from('through the accessors'));
    await job.edu.fetch(mapping.iova, 32);
    job.edu.start(0x40000n, mapping.iova + 4096n, 32, true, true);
    expect(await interrupt.wait({ timeout: 20_000 })).toBe(1n);
    const back = Buffer.alloc(21);
    memory.read(4096, back);
    expect(back.toString()).toBe('through the accessors');
  });
});

test('a file that shrinks loses its pages: errors or zeroes, and no crash', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-shrink-'));
  const fd = openSync(join(folder, 'pages'), 'w+');
  try {
    ftruncateSync(fd, 8192);
    using memory = DmaBuffer.fromFd(fd, { length: 8192 });
    memory.bytes.fill(7);
    const { bytes } = memory;
    ftruncateSync(fd, 4096);
    const into = new Uint8Array(16);
    expect(() => memory.read(4096, into)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(() => memory.write(4096, into)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    expect(bytes[0]).toBe(7);
    expect(bytes[5000]).toBe(0);
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
});

test('overlapping copies within a buffer are right', () => {
  using memory = DmaBuffer.alloc(4096);
  for (const [from, to] of [
    [0, 3],
    [3, 0],
    [0, 1000],
  ] as const) {
    const { bytes } = memory;
    bytes.forEach((_, i) => {
      bytes[i] = (i * 7) & 0xff;
    });
    const expected = Uint8Array.from(bytes);
    expected.copyWithin(to, from, from + 2000);
    memory.write(to, bytes.subarray(from, from + 2000));
    expect(Buffer.compare(bytes, expected)).toBe(0);
  }
});
