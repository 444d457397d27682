/**
 * One sequence: the library's objects and the model's beside each other. Each step (commands.ts) does something to both;
 * then `check` compares. What the library may decide (where a mapping goes, whether a call that was overtaken succeeds)
 * is looked up in what it says it has done, and must be one of the allowed answers.
 */

import { native } from '../../lib/addon/native.ts';
import { type Container, DmaBuffer, type Ioas, type Iommufd, type Mapping } from '../../lib/index.ts';
import { collect } from '../support/collect.ts';
import { type Mapped, type Memory, PAGE, type Piece, pagesOf, Space } from './model.ts';
import type { Remote } from './remote.ts';
import { LANDING, PATTERNS, patternOf, peek, poke, type Rig } from './rig.ts';

/** Library and model disagree. */
export class Difference extends Error {}

/** An Iommufd of this process, and a container over it. */
export interface Fd {
  readonly name: string;
  readonly real: Iommufd;
  readonly container: Container;
  live: boolean;
}

/** An Ioas object; `fd` undefined: the worker's. */
export interface Handle {
  readonly name: string;
  readonly space: Space;
  readonly fd: Fd | undefined;
  /** It has allocated the space, which ends with it. */
  readonly owner: boolean;
  real: Ioas | undefined;
  live: boolean;
}

export interface Buffer_ extends Memory {
  real: DmaBuffer | undefined;
  bytes: ArrayBuffer | undefined;
}

export interface Held {
  readonly mapped: Mapped;
  readonly space: Space;
  /** The Ioas that it belongs to; undefined: a container of its own. */
  readonly handle: Handle | undefined;
  real: Mapping | undefined;
  disposed: boolean;
}

/** A mapAsync that was not delivered yet. */
export interface Pending {
  readonly name: string;
  readonly memory: Buffer_;
  readonly offset: number;
  readonly length: number;
  /** Undefined: the kernel's or the library's choice. */
  readonly iova: number | undefined;
  readonly writable: boolean;
  /** The Ioas that was asked; undefined: the container of `fd`, or the one of its own. */
  readonly handle: Handle | undefined;
  readonly fd: Fd | undefined;
  /** The container that was asked, and the Ioas that it worked on then. */
  readonly container: Container | undefined;
  readonly over: Handle | undefined;
  /** After its call: what it has mapped; null: nothing. */
  done: { held: Held | null; code: string | null; space: Space | null } | undefined;
  settled: { mapping?: Mapping; code?: string } | undefined;
}

export type Answer<T> = { readonly value: T } | { readonly code: string; readonly message: string };

export function attempt<T>(call: () => T): Answer<T> {
  try {
    return { value: call() };
  } catch (error) {
    const { code, name, message } = error as { code?: string; name: string; message: string };
    return { code: code ?? name, message };
  }
}

const TAG = 0x800;
const hex = (value: number | bigint) => `0x${value.toString(16)}`;
let serial = 0n;

export class Machine {
  readonly rig: Rig;
  readonly fds: Fd[] = [];
  readonly spaces: Space[] = [];
  readonly handles: Handle[] = [];
  readonly buffers: Buffer_[] = [];
  readonly held: Held[] = [];
  /** In the schedule's order. */
  readonly pending: Pending[] = [];
  readonly remote: Remote | undefined;
  /** Has it anything open in the worker? */
  remoteOpen = false;
  /** Ioas objects that nobody holds any more; their spaces end when they are collected. */
  readonly forgotten = new Map<Space, { collected: boolean }>();
  /** The compatibility IOAS. */
  compat: Space | null = null;
  /** What the device is attached to. */
  attached: Space | null = null;
  /** The program, as far as it has come; undefined: nobody wants to read it. */
  readonly program: string[] | undefined;
  /** How often it has done what. */
  readonly counts: Map<string, number>;
  #names = new Map<string, number>();
  /** How often memory had come to be kept in this process. */
  readonly #doubts = native.doubts();

  constructor(rig: Rig, remote: Remote | undefined, counts: Map<string, number>, program?: string[]) {
    this.rig = rig;
    this.remote = remote;
    this.counts = counts;
    this.program = program;
    if (rig.iommufd) {
      this.fds.push({ name: 'f', real: rig.iommufd, container: rig.iommufd.container(), live: true });
      this.say(() => 'const f = host.openIommufd(), c = f.container(); device.bind(f);');
      this.newSpace(this.fds[0] as Fd);
      this.setCompat(this.fds[0] as Fd, this.spaces[0] as Space);
    } else {
      this.say(
        () =>
          `const c = host.openContainer(); group.setContainer(c); c.setIommu('${rig.type1}'); // the device is open`,
      );
      rig.openDevice();
      this.spaces.push(new Space('c'));
    }
    this.newBuffer(2);
    this.newBuffer(3);
  }

  say(line: () => string): void {
    this.program?.push(line());
  }

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  name(prefix: string): string {
    const next = this.#names.get(prefix) ?? 0;
    this.#names.set(prefix, next + 1);
    return `${prefix}${next}`;
  }

  // ------------------------------------------------------------------ what there is

  /** The space of a container of its own, as long as it has an IOMMU. */
  get own(): Space {
    return this.spaces.at(-1) as Space;
  }

  newBuffer(pages: number): Buffer_ {
    const real = DmaBuffer.alloc(pages * PAGE);
    const buffer: Buffer_ = {
      name: this.name('b'),
      address: Number(real.address),
      pages,
      tag: this.newTag(),
      handle: 'live',
      view: 'none',
      calls: 0,
      done: 0,
      real,
      bytes: undefined,
    };
    this.say(() => `const ${buffer.name} = DmaBuffer.alloc(${hex(pages * PAGE)});`);
    const tag = new Uint8Array(new BigUint64Array([buffer.tag]).buffer);
    for (let page = 0; page < pages; page++) real.write(page * PAGE + TAG, tag);
    this.buffers.push(buffer);
    return buffer;
  }

  newTag(): bigint {
    return 0x5a5a_0000_0000_0000n + ++serial;
  }

  newSpace(fd: Fd): void {
    const real = fd.real.allocIoas();
    const space = new Space(`id ${real.id}`, real.id);
    const handle = { name: this.name('s'), space, fd, owner: true, real, live: true };
    this.say(() => `const ${handle.name} = ${fd.name}.allocIoas(); // ${space.name}`);
    if (this.rig.kind === 'compat-type1') {
      real.hugePages = false;
      space.hugePages = false;
      this.say(() => `${handle.name}.hugePages = false; // containers cut`);
    }
    this.spaces.push(space);
    this.handles.push(handle);
  }

  liveHandles(space: Space): Handle[] {
    return this.handles.filter((each) => each.live && each.space === space);
  }

  /** An Ioas of this thread that shows a space. */
  handleOf(space: Space): Handle | undefined {
    return this.handles.find((each) => each.live && each.space === space && each.real !== undefined);
  }

  /** The Ioas object that an iommufd has for its compatibility IOAS; it may be a new one. */
  compatHandle(fd: Fd): Handle | undefined {
    const real = fd.real.vfioCompatIoas;
    if ((real === null) !== (this.compat === null))
      this.differ(
        `${fd.name}.vfioCompatIoas is ${real === null ? 'null' : real.disposed ? 'disposed' : `id ${real.id}`}, expected ${this.compat?.name ?? 'null'}`,
      );
    if (real === null || this.compat === null) return undefined;
    const known = this.handles.find((each) => each.real === real);
    if (known) {
      if (known.space !== this.compat || !known.live)
        this.differ(`${fd.name}.vfioCompatIoas is ${known.name}, which is not ${this.compat.name} of now`);
      return known;
    }
    const handle = { name: this.name('s'), space: this.compat, fd, owner: false, real, live: true };
    this.say(() => `const ${handle.name} = ${fd.name}.vfioCompatIoas; // ${handle.space.name}`);
    this.handles.push(handle);
    return handle;
  }

  setCompat(fd: Fd, space: Space | null): void {
    const handle = space === null ? null : this.liveHandles(space).find((each) => each.fd === fd);
    if (handle === undefined) return;
    this.say(() => `${fd.name}.vfioCompatIoas = ${handle?.name ?? null};`);
    fd.real.vfioCompatIoas = handle?.real ?? null;
    this.compat = space;
  }

  // ------------------------------------------------------------------ ends

  /**
   * An Ioas object comes to its end. The one that allocated the space ends that too; the last one of a space that
   * outlived it (a device was attached) empties it.
   */
  endHandle(handle: Handle): void {
    if (!handle.live) return;
    handle.live = false;
    const { space, owner } = handle;
    if (owner && this.attached !== space) this.endSpace(space);
    else if (owner || this.liveHandles(space).length === 0) space.clear();
  }

  endSpace(space: Space): void {
    space.end();
    for (const each of this.handles) if (each.space === space) each.live = false;
    if (this.compat === space) this.compat = null;
  }

  endFd(fd: Fd): void {
    fd.live = false;
    for (const each of this.handles) if (each.fd === fd) this.endHandle(each);
  }

  /** What outlived its handles, since a device was attached, goes by its id. */
  sweep(): void {
    const fd = this.fds.find((each) => each.live);
    for (const space of this.spaces) {
      if (fd === undefined || !space.alive || this.liveHandles(space).length > 0) continue;
      this.say(() => `${fd.name}.destroy(${space.id});`);
      const answer = attempt(() => fd.real.destroy(space.id));
      if ('code' in answer) this.differ(`destroying ${space.name}: ${answer.message}`);
      this.endSpace(space);
    }
  }

  // ------------------------------------------------------------------ comparing

  differ(what: string): never {
    throw new Difference(what);
  }

  /** What the library says is mapped in a space; undefined: nobody in this thread can tell. */
  observe(space: Space): Map<number, { length: number; writable: boolean }> | undefined {
    const handle = this.handleOf(space);
    const own = this.rig.type1 !== undefined && space === this.own ? this.rig.container : undefined;
    const list = (handle?.real ?? own)?.mappings();
    if (list === undefined) return undefined;
    return new Map(
      list.map(({ iova, length, writable }) => [Number(iova), { length: Number(length), writable }]),
    );
  }

  /** What of a space is as observed? The first of the allowed ones is taken. */
  choose(space: Space, what: string, ...allowed: Piece[][]): void {
    const list = this.handleOf(space)?.real?.mappings() ?? this.#ownMappings(space);
    if (list !== undefined)
      for (const pieces of allowed)
        if (same(list, pieces)) {
          space.pieces = pieces;
          return;
        }
    this.differ(
      `after ${what}, ${space.name} has ${list ? show(list) : 'nobody who could tell'}, expected ${allowed.map(showPieces).join(' or ')}`,
    );
  }

  check(): void {
    for (const { name, live, real, space } of this.handles) {
      if (!live || real === undefined || !space.alive) continue;
      const list = real.mappings();
      if (!same(list, space.pieces))
        this.differ(`${name}.mappings() is ${show(list)}, expected ${showPieces(space.pieces)}`);
    }
    if (this.rig.type1) {
      const list = this.#ownMappings(this.own) ?? [];
      if (!same(list, this.own.pieces))
        this.differ(`c.mappings() is ${show(list)}, expected ${showPieces(this.own.pieces)}`);
    }
    this.checkPages();
    // One thread at a time, each kind of space known: there is nothing that can't be known.
    if (native.doubts() !== this.#doubts)
      this.differ(`memory is kept: ${native.kept().map(({ reason }) => reason)}`);
  }

  checkPages(): void {
    for (const buffer of this.buffers) {
      const expected = pagesOf(buffer, this.#certain());
      if (expected === 'either') continue;
      const there = isThere(buffer);
      if (there !== (expected === 'there') && !this.#maybe(buffer))
        this.differ(
          `the pages of ${buffer.name} are ${there ? 'there' : 'gone'}: expected ${expected === 'there' ? 'there, since it is in use or mapped' : 'gone'}`,
        );
    }
  }

  #certain(): Space[] {
    return this.spaces.filter((each) => !this.forgotten.has(each));
  }

  /** Is it mapped where a finalizer may come at any time? */
  #maybe(buffer: Memory): boolean {
    return [...this.forgotten.keys()].some((space) => space.pieces.some((each) => each.of.memory === buffer));
  }

  #ownMappings(space: Space): ReturnType<Ioas['mappings']> | undefined {
    return this.rig.type1 !== undefined && space === this.own ? this.rig.container?.mappings() : undefined;
  }

  // ------------------------------------------------------------------ calls under way

  /** The kernel's call of one that waits. */
  run(index: number): void {
    const pending = this.pending[index] as Pending;
    this.say(() => `schedule.run(${index}); // ${pending.name}`);
    const space = this.#target(pending);
    native.schedule.run(index);
    pending.memory.calls--;
    pending.memory.done++;
    const code = space === null || !space.alive ? 'any' : null;
    if (code !== null || space === null) {
      pending.done = { held: null, code, space };
      return;
    }
    if (pending.iova !== undefined) {
      const taken = space.within(pending.iova, pending.length).length > 0;
      pending.done = taken
        ? { held: null, code: 'EEXIST', space }
        : { held: this.adopt(pending, space, pending.iova), code: null, space };
      return;
    }
    // A space that outlived its handles, since a device is attached, is seen by a new one.
    if (pending.fd && space === this.compat && !this.handleOf(space)) this.compatHandle(pending.fd);
    const fresh = [...(this.observe(space) ?? [])].filter(
      ([iova]) => !space.pieces.some((each) => each.iova === iova),
    );
    const [at] = fresh;
    if (at === undefined) {
      // An iommufd always finds room. The library's choice for a container may be outdated.
      pending.done = { held: null, code: pending.handle ? 'none' : 'EEXIST', space };
      return;
    }
    if (fresh.length > 1 || at[1].length !== pending.length || space.within(at[0], pending.length).length > 0)
      this.differ(
        `${pending.name} mapped ${fresh.map(([iova, { length }]) => `${hex(iova)}+${hex(length)}`)}`,
      );
    pending.done = { held: this.adopt(pending, space, at[0]), code: null, space };
  }

  /** Where a call maps that begins now; null: nowhere. */
  #target(pending: Pending): Space | null {
    if (pending.handle) return pending.handle.live ? pending.handle.space : null;
    if (pending.fd) return pending.fd.live ? this.compat : null;
    return pending.container === this.rig.container && this.own.alive ? this.own : null;
  }

  adopt(
    {
      memory,
      offset,
      length,
      writable,
      handle,
      fd,
    }: Pick<Pending, 'memory' | 'offset' | 'length' | 'writable' | 'handle' | 'fd'>,
    space: Space,
    iova: number,
  ): Held {
    const mapped: Mapped = { name: this.name('m'), memory, offset, length, iova, writable };
    space.add(mapped);
    const its =
      handle ??
      (fd ? this.handles.find((each) => each.live && each.space === space && each.fd === fd) : undefined);
    const held: Held = { mapped, space, handle: its, real: undefined, disposed: false };
    this.held.push(held);
    return held;
  }

  async deliver(index: number): Promise<void> {
    const pending = this.pending[index] as Pending;
    this.say(() => `schedule.deliver(${index}); // ${pending.name}`);
    const before = native.schedule.waiting().length;
    native.schedule.deliver(index);
    for (let turn = 0; turn < 30 && pending.settled === undefined; turn++) await null;
    const { done } = pending;
    if (done === undefined) throw new Error('it was not run');
    pending.memory.done--;
    if (pending.settled === undefined) {
      // An outdated place was refused: the next one is tried.
      const again = native.schedule.waiting().length === before && done.held === null;
      if (!again || pending.iova !== undefined || pending.handle)
        this.differ(`${pending.name} is not settled`);
      this.pending.splice(index, 1);
      this.pending.push(pending);
      pending.memory.calls++;
      pending.done = undefined;
      return;
    }
    this.pending.splice(index, 1);
    this.#settled(pending, done, pending.settled);
  }

  #settled(
    pending: Pending,
    { held, code, space: reached }: NonNullable<Pending['done']>,
    settled: NonNullable<Pending['settled']>,
  ): void {
    const { name } = pending;
    const said = settled.code ?? 'a mapping';
    // Is what was asked still to be used?
    const asked =
      reached?.alive !== false &&
      (pending.handle?.live ??
        (pending.fd ? pending.fd.live && pending.over?.live : pending.container === this.rig.container));
    // A container's is placed again, which needs the buffer and an address space.
    const again =
      pending.iova === undefined &&
      pending.handle === undefined &&
      ((pending.memory.handle === 'disposed' && said === 'ERR_VFIO_DISPOSED') ||
        (this.#target(pending) === null && said === 'ENODEV'));
    this.say(() => `// ${name}: ${said}`);
    if (held === null) {
      if (settled.code === undefined) this.differ(`${name} resolved, but nothing was mapped`);
      if (
        asked &&
        !again &&
        code !== 'any' &&
        code !== settled.code &&
        !(code === 'none' && settled.code === 'ENOSPC')
      )
        this.differ(`${name} was rejected with ${settled.code}, expected ${code}`);
      return;
    }
    const { mapped, space } = held;
    const left = space.of(mapped);
    if (settled.mapping !== undefined) {
      if (left.length === 0) this.differ(`${name} resolved, but its mapping is gone`);
      if (Number(settled.mapping.iova) !== mapped.iova || Number(settled.mapping.length) !== mapped.length)
        this.differ(`${name} is at ${hex(settled.mapping.iova)}, expected ${hex(mapped.iova)}`);
      held.real = settled.mapping;
      this.say(() => `const ${mapped.name} = await ${name}; // at ${hex(mapped.iova)}`);
      return;
    }
    held.disposed = true;
    const whole = space.whole(mapped);
    if (whole && asked && space.alive) this.differ(`${name} was rejected with ${said}, but it is mapped`);
    if (left.length === 0) {
      if (space.alive && asked && said !== 'ECANCELED')
        this.differ(`${name} was rejected with ${said}, expected ECANCELED, since it was unmapped`);
      return;
    }
    // Cut meanwhile, or its handle is gone and the space is not: it may be undone.
    const without = space.pieces.filter((each) => each.of !== mapped);
    this.choose(space, `${name} was rejected`, without, space.pieces);
  }

  // ------------------------------------------------------------------ the end

  /** Garbage is collected until everything that nobody holds is gone. */
  async collect(): Promise<void> {
    if (this.forgotten.size === 0 && this.buffers.every((each) => pagesOf(each, this.spaces) !== 'either'))
      return;
    // A mapping that is gone may keep the memory as long as the object is held.
    for (const each of this.held)
      if (each.real && each.mapped.memory.handle === 'dropped' && each.space.of(each.mapped).length === 0) {
        this.say(() => `${each.mapped.name} = undefined;`);
        each.real = undefined;
      }
    this.say(() => 'await collect();');
    const reached = () =>
      [...this.forgotten.values()].every((each) => each.collected) &&
      this.buffers.every(
        // What a promise is yet to hear of may be held until then.
        (each) => each.done > 0 || pagesOf(each, this.#certain()) !== 'either' || !isThere(each),
      );
    const done = await collect(reached);
    for (const [space, { collected }] of this.forgotten) {
      if (!collected) this.differ(`the Ioas of ${space.name} is not collected, though nobody holds it`);
      this.endSpace(space);
    }
    this.forgotten.clear();
    if (!done) this.differ('memory that nobody holds is still there after a garbage collection');
    for (const each of this.buffers) {
      if (isThere(each)) continue; // mapped: it is for a later collection
      if (each.handle === 'dropped') each.handle = 'disposed';
      if (each.view === 'dropped') each.view = 'none';
    }
  }

  /** DMA to every address: it lands where the model says, or nowhere. */
  async dma(pages: readonly number[]): Promise<void> {
    // Whatever was let go of too early is somebody else's by then.
    const crowd = Array.from({ length: 6 }, (_, i) => this.newBuffer((i % 3) + 1));
    for (const space of this.spaces.filter((each) => each.alive)) {
      if (this.rig.iommufd) {
        const handle = this.handleOf(space);
        if (!handle?.real || !this.rig.device) continue;
        this.say(() => `device.attach(${handle.name}); // and DMA to every address`);
        this.rig.device.attach(handle.real);
        this.attached = space;
      } else if (this.rig.device === undefined) continue;
      await this.#dmaTo(space, pages);
    }
    for (const each of crowd) this.disposeBuffer(each);
  }

  async #dmaTo(space: Space, pages: readonly number[]): Promise<void> {
    const present = this.buffers.filter((each) => isThere(each));
    const slots = present.flatMap((buffer) =>
      Array.from({ length: buffer.pages }, (_, page) => buffer.address + page * PAGE),
    );
    const zero = new Uint8Array(LANDING);
    for (const slot of slots) poke(slot, zero);
    const expected = new Map<number, bigint>();
    const addresses = new Set(pages);
    for (const piece of space.pieces)
      for (let at = piece.iova; at < piece.iova + piece.length; at += PAGE) addresses.add(at);
    let sent = 0;
    for (const iova of addresses) {
      const pattern = sent++ % PATTERNS;
      if (!(await this.rig.send(iova, pattern))) continue;
      const [piece] = space.within(iova, 1);
      if (piece?.of.writable)
        expected.set(piece.of.memory.address + piece.of.offset + (iova - piece.of.iova), patternOf(pattern));
    }
    this.rig.takeFaults();
    this.count('DMA transfers');
    const bytes = new BigUint64Array(1);
    for (const slot of slots) {
      const there = peek(slot, new Uint8Array(bytes.buffer));
      const found = there ? bytes[0] : 'nothing';
      if (found !== (expected.get(slot) ?? 0n)) {
        const buffer = present.find(
          (each) => each.address <= slot && slot < each.address + each.pages * PAGE,
        );
        this.differ(
          `after DMA in ${space.name}, ${buffer?.name}+${hex(slot - (buffer?.address ?? 0))} has ${found === 'nothing' ? found : hex(found as bigint)}, expected ${hex(expected.get(slot) ?? 0n)}`,
        );
      }
    }
  }

  disposeBuffer(buffer: Buffer_): void {
    this.say(() => `${buffer.name}[Symbol.dispose]();`);
    buffer.real?.[Symbol.dispose]();
    buffer.handle = 'disposed';
  }
}

/** Are the pages of a buffer there, and still its own? */
function isThere(buffer: Memory): boolean {
  const word = new BigUint64Array(1);
  return peek(buffer.address + TAG, new Uint8Array(word.buffer)) && word[0] === buffer.tag;
}

type Listed = { iova: bigint; length: bigint; writable: boolean }[];

function same(list: Listed, pieces: readonly Piece[]): boolean {
  return (
    list.length === pieces.length &&
    pieces.every((piece, i) => {
      const listed = list[i] as Listed[number];
      return (
        Number(listed.iova) === piece.iova &&
        Number(listed.length) === piece.length &&
        listed.writable === piece.of.writable
      );
    })
  );
}

const show = (list: Listed) =>
  `[${list.map(({ iova, length, writable }) => `${hex(iova)}+${hex(length)}${writable ? '' : ' read-only'}`).join(', ')}]`;
const showPieces = (pieces: readonly Piece[]) =>
  show(
    pieces.map(({ iova, length, of }) => ({
      iova: BigInt(iova),
      length: BigInt(length),
      writable: of.writable,
    })),
  );
