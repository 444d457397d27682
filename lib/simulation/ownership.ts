/**
 * The memory that belongs to a device: descriptors that a driver has given to it, until it gives them back. A copy of the bytes
 * shows whether the driver has changed them meanwhile.
 *
 * Life: of a device, from its first `own` on; a reset gives all memory back, unseen. Only a host with a sanitizer has a use for it.
 */

/** Memory of a device that its driver has changed. */
export interface OwnedChange {
  /** The first and the last byte that differ are in it. */
  readonly iova: bigint;
  readonly pasid: number | null;
  /** The bytes there when the device took them, and now. */
  readonly before: Uint8Array;
  readonly after: Uint8Array;
  /** What the device had taken. */
  readonly owned: { readonly iova: bigint; readonly length: bigint };
  /** When it took it, as process.hrtime.bigint() returns it. */
  readonly since: bigint;
}

interface Range {
  readonly iova: bigint;
  readonly pasid: number | undefined;
  readonly bytes: Uint8Array;
  readonly since: bigint;
}

/** What a device can do with its memory, and whom it tells of changes. */
export interface Owner {
  /** Whether all bytes were read. */
  read(iova: bigint, into: Uint8Array, pasid: number | undefined): boolean;
  changed(change: OwnedChange): void;
}

/** So many ranges are kept, the newest ones: a model that gives nothing back fills no memory. */
const MOST = 4096;

const now = process.hrtime.bigint;

const endOf = ({ iova, bytes }: Range) => iova + BigInt(bytes.length);

const NONE: readonly Range[] = [];

/** Which bytes of a range are in this memory. */
function part(range: Range, iova: bigint, length: number): { at: number; end: number } {
  const from = Number(iova - range.iova);
  return { at: Math.max(0, from), end: Math.min(range.bytes.length, from + length) };
}

/** Where two arrays of one length differ: the first place, and one past the last; undefined: nowhere. */
function difference(a: Uint8Array, b: Uint8Array): [first: number, end: number] | undefined {
  const first = a.findIndex((each, at) => each !== b[at]);
  return first < 0 ? undefined : [first, 1 + a.findLastIndex((each, at) => each !== b[at])];
}

export class Ownership {
  readonly #owner: Owner;
  readonly #ranges = new Set<Range>();

  constructor(owner: Owner) {
    this.#owner = owner;
  }

  /** The device takes memory. What it can't read is not taken: the fault that it has there is told anyway. */
  take(iova: bigint, length: number, pasid: number | undefined): void {
    const since = now();
    const bytes = new Uint8Array(length);
    if (!this.#owner.read(iova, bytes, pasid)) return;
    const [oldest] = this.#ranges;
    if (this.#ranges.size >= MOST && oldest !== undefined) this.#ranges.delete(oldest);
    this.#ranges.add({ iova, pasid, bytes, since });
  }

  /** The device gives memory back: the parts of other ranges that are beside it stay its own. */
  give(iova: bigint, length: number, pasid: number | undefined): void {
    const end = iova + BigInt(length);
    for (const each of this.#overlapping(iova, length, pasid)) {
      this.#compare(each, iova, length);
      this.#ranges.delete(each);
      const { bytes } = each;
      if (each.iova < iova) this.#ranges.add({ ...each, bytes: bytes.slice(0, Number(iova - each.iova)) });
      if (end < endOf(each))
        this.#ranges.add({ ...each, iova: end, bytes: bytes.slice(Number(end - each.iova)) });
    }
  }

  /** The device is going to access this memory. */
  check(iova: bigint, length: number, pasid: number | undefined): void {
    for (const each of this.#overlapping(iova, length, pasid)) this.#compare(each, iova, length);
  }

  /** The device has written there: what is there now is what it owns. */
  wrote(iova: bigint, length: number, pasid: number | undefined): void {
    for (const each of this.#overlapping(iova, length, pasid)) {
      const { at, end } = part(each, iova, length);
      if (!this.#owner.read(each.iova + BigInt(at), each.bytes.subarray(at, end), pasid))
        this.#ranges.delete(each);
    }
  }

  /** All ranges that this memory is a part of are given back, without a look. */
  drop(iova: bigint, length: number, pasid: number | undefined): void {
    for (const each of this.#overlapping(iova, length, pasid)) this.#ranges.delete(each);
  }

  clear(): void {
    this.#ranges.clear();
  }

  #overlapping(iova: bigint, length: number, pasid: number | undefined): readonly Range[] {
    if (this.#ranges.size === 0) return NONE;
    const end = iova + BigInt(length);
    return [...this.#ranges].filter((each) => each.pasid === pasid && each.iova < end && iova < endOf(each));
  }

  /** Looks at what is both in a range and in this memory. */
  #compare(range: Range, iova: bigint, length: number): void {
    const { at, end } = part(range, iova, length);
    const start = range.iova + BigInt(at);
    const current = new Uint8Array(end - at);
    if (!this.#owner.read(start, current, range.pasid)) return;
    const kept = range.bytes.subarray(at, end);
    const found = difference(kept, current);
    if (found === undefined) return;
    const [first, last] = found;
    const change: OwnedChange = {
      iova: start + BigInt(first),
      pasid: range.pasid ?? null,
      before: kept.slice(first, last),
      after: current.slice(first, last),
      owned: { iova: range.iova, length: BigInt(range.bytes.length) },
      since: range.since,
    };
    kept.set(current); // each change is told once
    this.#owner.changed(change);
  }
}
