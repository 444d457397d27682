/**
 * The pages that were mapped in answer to page requests. Each window lies in one block of addresses of a fixed size; a block is
 * what is evicted, the oldest first.
 *
 * Life: a window is mapped by `map`; it is unmapped with its block, by `drop` or `dispose`.
 */
import { native } from '../addon/native.ts';
import type { IoPageFault, IovaRange } from '../addon/records.ts';
import { VfioError } from '../base/errors.ts';
import type { Ioas } from '../iommufd/ioas.ts';
import { DmaBuffer } from '../memory/dma-buffer.ts';
import type { Mapping } from '../memory/dma-space.ts';
import type { Area } from './areas.ts';

const PAGE = BigInt(native.pageSize);

/** A window: whole pages of one area. */
interface Window extends IovaRange {
  readonly mapping: Mapping;
  readonly buffer: DmaBuffer;
  readonly writable: boolean;
}

/** The windows of a block. */
interface Block {
  readonly windows: Window[];
  /** The group of page requests that mapped the last of them. */
  group: number;
}

/** The windows of an address space. */
export class Windows {
  readonly #ioas: Ioas;
  readonly #size: bigint;
  readonly #most: number;
  /** By number, the oldest first. */
  readonly #blocks = new Map<bigint, Block>();
  #group = 0;

  constructor(ioas: Ioas, limits: { readonly window: number; readonly most: number }) {
    this.#ioas = ioas;
    this.#size = BigInt(limits.window);
    this.#most = Math.max(1, Math.floor(limits.most / limits.window));
  }

  /** A group of page requests begins: what is mapped for it is not evicted before the next one. */
  begin(): void {
    this.#group++;
  }

  /** Maps the page of a fault, with its neighbours in `area` and `range`. Returns why it can't be mapped; undefined: it is. */
  map({ address, access }: IoPageFault, area: Area, range: IovaRange): string | undefined {
    const page = address - (address % PAGE);
    const number = page / this.#size;
    const block = this.#blocks.get(number) ?? { windows: [], group: 0 };
    const there = block.windows.find(({ start, last }) => start <= page && page <= last);
    if (there !== undefined) {
      if (there.writable || !access.write) return undefined; // another fault of the group has had it mapped
      this.#unmap(block, there); // the process has been allowed to write since
    }
    const whole = clipped(page, { start: number * this.#size, last: (number + 1n) * this.#size - 1n }, [
      area,
      range,
    ]);
    const around = between(page, whole, block.windows);
    const single = { start: page, last: page + PAGE - 1n };
    // A neighbour that can't be pinned fails the whole map, and so does memory that can be pinned for reading only.
    const tries = [
      { ...around, write: area.write },
      { ...single, write: area.write },
    ];
    if (area.write && !access.write) tries.push({ ...single, write: false });
    let refused: VfioError | undefined;
    for (const each of tries) {
      refused = this.#try(block, each);
      if (refused === undefined) {
        this.#renew(number, block);
        return undefined;
      }
    }
    if (block.windows.length === 0) this.#blocks.delete(number);
    // Memory that the program has had mapped ahead is there already.
    return refused?.code === 'EEXIST' ? undefined : (refused?.reason ?? refused?.message);
  }

  /** Unmaps the blocks that share an address with the range. */
  drop(start: bigint, last: bigint): void {
    for (const [number, block] of this.#blocks)
      if (number * this.#size <= last && (number + 1n) * this.#size > start) this.#end(number, block);
  }

  /** Unmaps everything. What can't be unmapped here is unmapped at the end of the address space. */
  dispose(): void {
    for (const [number, block] of this.#blocks)
      try {
        this.#end(number, block);
      } catch (error) {
        if (!(error instanceof VfioError)) throw error;
      }
  }

  /** Maps one window; on ENOMEM it makes room first. Returns why it can't be mapped. */
  #try(block: Block, { start, last, write }: IovaRange & { write: boolean }): VfioError | undefined {
    const buffer = DmaBuffer.unsafeFromAddress(start, last - start + 1n);
    for (;;) {
      try {
        const mapping = this.#ioas.map(buffer, { iova: start, write });
        block.windows.push({ start, last, mapping, buffer, writable: write });
        return undefined;
      } catch (error) {
        if (error instanceof VfioError && error.code === 'ENOMEM' && this.#evict()) continue;
        buffer[Symbol.dispose]();
        if (!(error instanceof VfioError)) throw error;
        return error;
      }
    }
  }

  /** The block is the newest one now; those over the limit go. */
  #renew(number: bigint, block: Block): void {
    block.group = this.#group;
    this.#blocks.delete(number);
    this.#blocks.set(number, block);
    while (this.#blocks.size > this.#most && this.#evict());
  }

  /** Unmaps the oldest block, unless the current group of requests needs it. */
  #evict(): boolean {
    for (const [number, block] of this.#blocks) {
      if (block.group === this.#group) return false;
      this.#end(number, block);
      return true;
    }
    return false;
  }

  #end(number: bigint, block: Block): void {
    for (const each of [...block.windows]) this.#unmap(block, each);
    this.#blocks.delete(number);
  }

  #unmap(block: Block, window: Window): void {
    window.mapping[Symbol.dispose]();
    window.buffer[Symbol.dispose]();
    block.windows.splice(block.windows.indexOf(window), 1);
  }
}

/** The part of a range around a page that lies in all of the others too: whole pages. */
function clipped(page: bigint, { start, last }: IovaRange, others: readonly IovaRange[]): IovaRange {
  let [from, to] = [start, last];
  for (const each of others) {
    if (each.start > from) from = each.start;
    if (each.last < to) to = each.last;
  }
  from += (PAGE - (from % PAGE)) % PAGE;
  to -= (to + 1n) % PAGE;
  return from <= page && page < to ? { start: from, last: to } : { start: page, last: page + PAGE - 1n };
}

/** The part of a range around a page that no window has. */
function between(page: bigint, { start, last }: IovaRange, windows: readonly IovaRange[]): IovaRange {
  let [from, to] = [start, last];
  for (const each of windows) {
    if (each.last < page && each.last >= from) from = each.last + 1n;
    if (each.start > page && each.start <= to) to = each.start - 1n;
  }
  return { start: from, last: to };
}
