/**
 * What was mapped in an address space, and when.
 *
 * Life: made with the space's first mapping, and kept for some time after the space has ended. The mappings that there are
 * are all known; of those that ended, the last 512.
 */
import type { MadeMapping } from '../../../handles/observer.ts';
import type { Stack } from './stacks.ts';

/** A mapping of this program's. Times are those of process.hrtime.bigint(). */
export interface Record extends MadeMapping {
  readonly mapped: Stack;
  readonly from: bigint;
  unmapped: Stack | undefined;
  until: bigint | undefined;
}

const KEPT = 512;

export class History {
  readonly #live = new Map<number, Record>();
  readonly #byIova = new Map<bigint, Record>();
  readonly #ended: Record[] = [];
  #next = 0;

  add(mapping: MadeMapping, mapped: Stack, from: bigint): Record {
    const record: Record = { ...mapping, mapped, from, unmapped: undefined, until: undefined };
    this.#live.set(record.number, record);
    this.#byIova.set(record.iova, record);
    return record;
  }

  /** The mappings that an unmap of this range ends, if it succeeds. */
  within(iova: bigint, length: bigint): Record[] {
    const exact = this.#byIova.get(iova);
    if (exact !== undefined && exact.length === length) return [exact];
    return [...this.#live.values()].filter(
      (each) => each.iova >= iova && each.iova + each.length <= iova + length,
    );
  }

  byNumber(number: number): Record | undefined {
    return this.#live.get(number);
  }

  /** Moves a mapping to those that ended. */
  end(record: Record, unmapped: Stack | undefined, until: bigint): void {
    if (!this.#live.delete(record.number)) return;
    if (this.#byIova.get(record.iova) === record) this.#byIova.delete(record.iova);
    record.unmapped = unmapped;
    record.until = until;
    const at = this.#next++ % KEPT;
    const old = this.#ended[at];
    old?.mapped.drop();
    // Mappings that one call has unmapped share the stack, and follow each other here.
    if (old?.unmapped !== this.#ended[(at + 1) % KEPT]?.unmapped) old?.unmapped?.drop();
    this.#ended[at] = record;
  }

  /** Takes back an end: the unmap has failed. */
  revive(record: Record): void {
    const at = this.#ended.indexOf(record);
    if (at < 0) return;
    this.#ended.splice(at, 1);
    this.#next = this.#ended.length;
    record.unmapped = undefined;
    record.until = undefined;
    this.#live.set(record.number, record);
    this.#byIova.set(record.iova, record);
  }

  get live(): readonly Record[] {
    return [...this.#live.values()];
  }

  /** The mapping that is or was at an address: the one that was there at that time, else the latest that had ended by then. */
  at(iova: bigint, time: bigint): Record | undefined {
    let found: Record | undefined;
    for (const each of this.#all()) {
      if (each.from > time || iova < each.iova || iova >= each.iova + each.length) continue;
      if (each.until === undefined || each.until > time) return each;
      if (found?.until === undefined || each.until > found.until) found = each;
    }
    return found;
  }

  /** The mappings that there were at that time, in no order. */
  alive(time: bigint): Record[] {
    return this.#all().filter((each) => each.from <= time && (each.until === undefined || each.until > time));
  }

  #all(): Record[] {
    return [...this.#live.values(), ...this.#ended];
  }
}
