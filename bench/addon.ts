/** The baselines in C++: bench/native. */
import { fileURLToPath } from 'node:url';
import type { NativeIommufd } from '../lib/addon/files.ts';

/** A thread that signals an eventfd a little after it was asked to. */
interface Bell {
  ring(eventfd: number): void;
  /** Nanoseconds since its last write. */
  elapsed(): number;
  /** Waits `times` times with epoll_wait: nanoseconds from the write on. */
  epoll(times: number): Float64Array;
  dispose(): void;
}

/** An address space of the software host with `count` mappings of `size` bytes, and a device that is attached to it. */
export interface Space {
  /**
   * Nanoseconds for a mapping to go and come again, the mean of `times` at random places: of its own memory, or of a random
   * page of another space's.
   */
  exchange(times: number, memory?: Space): number;
  /** Nanoseconds to translate an address, the mean of `times` at random places. */
  translate(times: number): number;
  /** Nanoseconds for DMA of `from` to all mappings, in the order of their IOVAs. */
  write(from: Uint8Array): number;
  /** The same memory, with memcpy of each piece. */
  copy(from: Uint8Array): number;
  /** Bytes by which the process has grown for each mapping. */
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

// From dist/bench. Not called .node, or who looks for the package's addon in build/Release might find this one.
const path = fileURLToPath(new URL('../../build/Release/vfio_bench.so', import.meta.url));

export function loadAddon(): Addon {
  const module = { exports: {} as Addon };
  process.dlopen(module, path);
  return module.exports;
}
