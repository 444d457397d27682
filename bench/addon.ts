/** Loads the addon with the C++ baselines (bench/native), and declares its types. */
import { fileURLToPath } from 'node:url';
import type { NativeIommufd } from '../lib/addon/files.ts';

/** A thread that signals an eventfd a short time after it was asked to. */
interface Bell {
  ring(eventfd: number): void;
  /** Nanoseconds since its last write. */
  elapsed(): number;
  /** Waits `times` times with epoll_wait; returns the nanoseconds from each write to the return of epoll_wait. */
  epoll(times: number): Float64Array;
  dispose(): void;
}

/** An address space of the software host with `count` mappings of `size` bytes, and a device that is attached to it. */
export interface Space {
  /**
   * Nanoseconds to unmap one mapping and map it again, the mean of `times` at random places. It maps its own memory again, or
   * a random page of another space's.
   */
  exchange(times: number, memory?: Space): number;
  /** Nanoseconds to translate an address, the mean of `times` at random places. */
  translate(times: number): number;
  /** Nanoseconds to write `from` to all mappings by DMA, in the order of their IOVAs. */
  write(from: Uint8Array): number;
  /** Nanoseconds to copy `from` to the same memory, with a memcpy for each mapping. */
  copy(from: Uint8Array): number;
  /** Bytes by which the process's resident memory has grown for each mapping. */
  bytesEach(): number;
  dispose(): void;
}

interface Addon {
  loads(words: Uint32Array, times: number, first: number): number;
  stores(words: Uint32Array, times: number, first: number): number;
  mapUnmap(
    file: NativeIommufd,
    ioas: number,
    address: bigint,
    length: number,
    iova: bigint | undefined,
    times: number,
  ): void;
  firstDma(): void;
  Bell: new () => Bell;
  Space: new (count: number, size: number) => Space;
}

// The path as seen from dist/bench. Its name does not end in .node: node-gyp-build might take it for the package's addon.
const path = fileURLToPath(new URL('../../build/Release/vfio_bench.so', import.meta.url));

export function loadAddon(): Addon {
  const module = { exports: {} as Addon };
  process.dlopen(module, path);
  return module.exports;
}
