/**
 * The state of one sequence: the objects of the library and those of the model. Each step (commands.ts) changes both; then
 * `check` compares them. If the library may decide something (the IOVA of a mapping, the result of a call that another one
 * has overtaken), its decision is read from `mappings()`, and must be one of the allowed ones.
 */

import { native } from '../../lib/addon/native.ts';
import { type Container, DmaBuffer, type Ioas, type Iommufd, type Mapping } from '../../lib/index.ts';
import { collect } from '../support/collect.ts';
import { type Mapped, type Memory, PAGE, type Piece, pagesOf, Space } from './model.ts';
import type { Remote } from './remote.ts';
import { LANDING, PATTERNS, patternOf, peek, poke, type Rig } from './rig.ts';

/** The library and the model differ. */
export class Difference extends Error {}

/** An Iommufd of this process, and a container over it. */
export interface Fd {
  readonly name: string;
  readonly real: Iommufd;
  readonly container: Container;
  live: boolean;
}

/** An Ioas object. `fd` undefined: it belongs to the worker. */
export interface Handle {
  readonly name: string;
  readonly space: Space;
  readonly fd: Fd | undefined;
  /** True: it allocated the space, which ends with it. */
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
  /** The Ioas that it belongs to; undefined: a container without an iommufd. */
  readonly handle: Handle | undefined;
  real: Mapping | undefined;
  disposed: boolean;
}

/** A mapAsync whose promise is not settled yet. */
export interface Pending {
  readonly name: string;
  readonly memory: Buffer_;
  readonly offset: number;
  readonly length: number;
  /** Undefined: the kernel or the library chooses the IOVA. */
  readonly iova: number | undefined;
  readonly writable: boolean;
  /** The Ioas that was called; undefined: the container of `fd`, or the container without an iommufd. */
  readonly handle: Handle | undefined;
  readonly fd: Fd | undefined;
  /** The container that was called, and the Ioas that it used at that time. */
  readonly container: Container | undefined;
  readonly over: Handle | undefined;
  /** The result of its kernel call, once it was made. `held` is the mapping; null: nothing was mapped. */
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
  /** In the order of the schedule. */
  readonly pending: Pending[] = [];
  readonly remote: Remote | undefined;
  /** Is anything open in the worker? */
  remoteOpen = false;
  /** The spaces whose Ioas objects nothing refers to any more. They end when these are collected. */
  readonly forgotten = new Map<Space, { collected: boolean }>();
  /** The compatibility IOAS. */
  compat: Space | null = null;
  /** The space that the device is attached to. */
  attached: Space | null = null;
  /** The text of the program so far; undefined: no text is wanted. */
  readonly program: string[] | undefined;
  /** How often each step was done. */
  readonly counts: Map<string, number>;
  #names = new Map<string, number>();
  /** How many times memory had to be kept in this process before. */
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

  // ------------------------------------------------------------------ objects

  /** The space of the container without an iommufd, as long as the container has an IOMMU. */
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

  /** An Ioas of this thread for a space. */
  handleOf(space: Space): Handle | undefined {
    return this.handles.find((each) => each.live && each.space === space && each.real !== undefined);
  }

  /** The Ioas object of an iommufd for its compatibility IOAS. It may be a new object. */
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
   * Ends an Ioas object. If it allocated the space, the space ends too. If a device is attached, the space stays, and its last
   * Ioas object empties it.
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

  /** Destroys, by id, the spaces that still exist without a handle, because a device was attached. */
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

  /** The mappings that the library reports for a space; undefined: this thread has no handle of it. */
  observe(space: Space): Map<number, { length: number; writable: boolean }> | undefined {
    const handle = this.handleOf(space);
    const own = this.rig.type1 !== undefined && space === this.own ? this.rig.container : undefined;
    const list = (handle?.real ?? own)?.mappings();
    if (list === undefined) return undefined;
    return new Map(
      list.map(({ iova, length, writable }) => [Number(iova), { length: Number(length), writable }]),
    );
  }

  /** Compares a space with the allowed results, and takes the first one that is equal. */
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
    // Only one thread runs at a time, and the kind of each space is known. So the library always knows what is mapped.
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

  /** Is it mapped in a space that a finalizer may end at any time? */
  #maybe(buffer: Memory): boolean {
    return [...this.forgotten.keys()].some((space) => space.pieces.some((each) => each.of.memory === buffer));
  }

  #ownMappings(space: Space): ReturnType<Ioas['mappings']> | undefined {
    return this.rig.type1 !== undefined && space === this.own ? this.rig.container?.mappings() : undefined;
  }

  // ------------------------------------------------------------------ running calls

  /** Makes the kernel call of a waiting mapAsync. */
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
    // If a space still exists without a handle, because a device is attached, a new handle is made for it.
    if (pending.fd && space === this.compat && !this.handleOf(space)) this.compatHandle(pending.fd);
    const fresh = [...(this.observe(space) ?? [])].filter(
      ([iova]) => !space.pieces.some((each) => each.iova === iova),
    );
    const [at] = fresh;
    if (at === undefined) {
      // An iommufd always finds a free range. The library's choice for a container may be occupied by now.
      pending.done = { held: null, code: pending.handle ? 'none' : 'EEXIST', space };
      return;
    }
    if (fresh.length > 1 || at[1].length !== pending.length || space.within(at[0], pending.length).length > 0)
      this.differ(
        `${pending.name} mapped ${fresh.map(([iova, { length }]) => `${hex(iova)}+${hex(length)}`)}`,
      );
    pending.done = { held: this.adopt(pending, space, at[0]), code: null, space };
  }

  /** The space in which a call that begins now maps; null: there is none. */
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
      // The chosen range was occupied, so the library tries the next one.
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
    // Can the object that was called still be used?
    const asked =
      reached?.alive !== false &&
      (pending.handle?.live ??
        (pending.fd ? pending.fd.live && pending.over?.live : pending.container === this.rig.container));
    // A container chooses a range again. That needs the buffer and an address space.
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
    // The mapping was cut meanwhile, or its handle has ended and the space has not: the library may unmap the rest.
    const without = space.pieces.filter((each) => each.of !== mapped);
    this.choose(space, `${name} was rejected`, without, space.pieces);
  }

  // ------------------------------------------------------------------ the end

  /** Collects garbage until everything has ended that nothing refers to. */
  async collect(): Promise<void> {
    if (this.forgotten.size === 0 && this.buffers.every((each) => pagesOf(each, this.spaces) !== 'either'))
      return;
    // A mapping that was unmapped may keep the memory as long as its object exists.
    for (const each of this.held)
      if (each.real && each.mapped.memory.handle === 'dropped' && each.space.of(each.mapped).length === 0) {
        this.say(() => `${each.mapped.name} = undefined;`);
        each.real = undefined;
      }
    this.say(() => 'await collect();');
    const reached = () =>
      [...this.forgotten.values()].every((each) => each.collected) &&
      this.buffers.every(
        // A promise that is not settled yet may keep the memory until then.
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
      if (isThere(each)) continue; // it is mapped: a later collection frees it
      if (each.handle === 'dropped') each.handle = 'disposed';
      if (each.view === 'dropped') each.view = 'none';
    }
  }

  /** Makes DMA to every address: it must reach the memory that the model says, or none. */
  async dma(pages: readonly number[]): Promise<void> {
    // New buffers, so that memory that was freed too early belongs to another buffer by now.
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

/** Do the pages of a buffer exist, and still belong to it? */
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
