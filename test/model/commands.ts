/**
 * The steps of sequences, and how they are chosen. A step is a name and four numbers. The numbers select among the objects that
 * exist when the step runs (the n-th mapping, modulo their number). So any step can be left out of a sequence, and a failing
 * sequence can be shortened.
 */
import fc from 'fast-check';
import { DmaBuffer, Iommufd, type Mapping, type MemorySlice } from '../../lib/index.ts';
import {
  type Answer,
  attempt,
  type Buffer_,
  type Fd,
  type Handle,
  type Machine,
  type Pending,
} from './machine.ts';
import { type Kind, type Outcome, PAGE, Space } from './model.ts';

export type Step = readonly [name: string, a: number, b: number, c: number, d: number];
/** The steps, the sort of the sequence, and a number that says how it ends. */
export interface Sequence {
  readonly steps: readonly Step[];
  readonly sort: number;
  readonly ending: number;
}

/** Given IOVAs are in this small range, so that ranges overlap. */
const BASE = 0x10_0000;
const WINDOW = 16;
export const ADDRESSES = Array.from({ length: WINDOW + 4 }, (_, page) => BASE + page * PAGE);
const place = (n: number) => BASE + (n % WINDOW) * PAGE;
const hex = (value: number | bigint) => `0x${value.toString(16)}`;
const pick = <T>(list: readonly T[], n: number): T | undefined => list[n % list.length];

type Run = (m: Machine, a: number, b: number, c: number, d: number) => void | Promise<void>;

/** Garbage collections and a worker make a sequence slow: only a few of 256 sorts have them. */
export const sorts = {
  collecting: (sort: number) => sort >= 254,
  worker: (sort: number) => sort >= 250 && sort < 254,
};

// -------------------------------------------------------------------- shared by several steps

interface Wanted {
  readonly memory: Buffer_;
  readonly part: DmaBuffer | MemorySlice;
  readonly offset: number;
  readonly length: number;
  readonly iova: number | undefined;
  readonly writable: boolean;
  readonly options: { iova?: number; write?: boolean };
  readonly text: string;
}

/** Selects the memory and the IOVA of a map by three numbers. */
function wanted(m: Machine, b: number, c: number, d: number): Wanted | undefined {
  const memory = pick(
    m.buffers.filter((each) => each.handle === 'live' && each.real !== undefined),
    b,
  );
  if (memory?.real === undefined) return undefined;
  const sliced = d % 5 === 0 && memory.pages > 1;
  const offset = sliced ? PAGE : 0;
  const length = sliced ? (memory.pages - 1) * PAGE : memory.pages * PAGE;
  const iova = d % 7 === 6 ? undefined : place(c);
  const writable = d % 11 !== 10;
  const options = { ...(iova === undefined ? {} : { iova }), ...(writable ? {} : { write: false }) };
  const said = [
    ...(iova === undefined ? [] : [`iova: ${hex(iova)}`]),
    ...(writable ? [] : ['write: false']),
  ].join(', ');
  return {
    memory,
    part: sliced ? memory.real.slice(offset, length) : memory.real,
    offset,
    length,
    iova,
    writable,
    options,
    text: `${memory.name}${sliced ? `.slice(${hex(offset)}, ${hex(length)})` : ''}, { ${said} }`,
  };
}

/** Compares the answer of a map with the model's expectation, and maps in the model too. */
function mapped(
  m: Machine,
  answer: Answer<Mapping>,
  want: Wanted,
  space: Space | null,
  by: { handle: Handle | undefined; fd: Fd | undefined },
): void {
  const taken = want.iova !== undefined && space !== null && space.within(want.iova, want.length).length > 0;
  if ('code' in answer) {
    m.say(() => `// ${answer.code}`);
    if (space !== null && !taken) m.differ(`map failed: ${answer.code}, ${answer.message}`);
    if (taken && answer.code !== 'EEXIST') m.differ(`map failed with ${answer.code}, expected EEXIST`);
    return;
  }
  const iova = Number(answer.value.iova);
  if (space === null) m.differ('map succeeded in a space that has ended');
  if (taken) m.differ('map succeeded where something is mapped');
  if (want.iova !== undefined && iova !== want.iova) m.differ(`mapped at ${hex(iova)}`);
  if (space.within(iova, want.length).length > 0) m.differ(`mapped at ${hex(iova)}, where something is`);
  const held = m.adopt({ ...want, ...by }, space, iova);
  held.real = answer.value;
  m.say(() => `const ${held.mapped.name} = it; // at ${hex(iova)}`);
}

function later(
  m: Machine,
  promise: Promise<Mapping>,
  want: Wanted,
  by: { handle: Handle | undefined; fd: Fd | undefined; over?: Handle },
): void {
  const pending: Pending = {
    ...want,
    ...by,
    over: by.over,
    name: m.name('p'),
    container: by.handle ? undefined : (by.fd?.container ?? m.rig.container),
    done: undefined,
    settled: undefined,
  };
  m.say(() => `const ${pending.name} = it;`);
  promise.then(
    (mapping) => {
      pending.settled = { mapping };
    },
    (error: { code?: string; name: string }) => {
      pending.settled = { code: error.code ?? error.name };
    },
  );
  want.memory.calls++;
  m.pending.push(pending);
  m.count('mapAsync');
}

/** Compares the answer of an unmap with the model's. */
function outcome(m: Machine, answer: Answer<bigint>, expected: Outcome): void {
  const said = 'code' in answer ? answer.code : `${answer.value}n`;
  m.say(() => `// ${said}`);
  const right = 'code' in expected ? expected.code === said : `${expected.bytes}n` === said;
  if (!right)
    m.differ(`it answered ${said}, expected ${'code' in expected ? expected.code : `${expected.bytes}n`}`);
}

/** A call on a space that has ended must fail. */
function refused(m: Machine, answer: Answer<unknown>): void {
  m.say(() => `// ${'code' in answer ? answer.code : 'success'}`);
  if (!('code' in answer)) m.differ('it succeeded in a space that has ended');
}

/** Mostly a live handle; sometimes one that has ended. */
function someHandle(m: Machine, a: number, d: number): Handle | undefined {
  const mine = m.handles.filter((each) => each.real !== undefined);
  return pick(d % 9 === 8 ? mine : mine.filter((each) => each.live), a);
}

function someFd(m: Machine, a: number): Fd | undefined {
  return pick(
    m.fds.filter((each) => each.live),
    a,
  );
}

// -------------------------------------------------------------------- steps of all kinds

const common: Record<string, Run> = {
  buffer(m, a) {
    if (m.buffers.length < 8) m.newBuffer((a % 4) + 1);
  },

  disposeBuffer(m, a) {
    const buffer = pick(
      m.buffers.filter((each) => each.real !== undefined),
      a,
    );
    if (buffer) m.disposeBuffer(buffer);
  },

  run(m, a) {
    const waiting = m.pending.flatMap((each, i) => (each.done === undefined ? [i] : []));
    const index = pick(waiting, a);
    if (index !== undefined) m.run(index);
  },

  async deliver(m, a) {
    const done = m.pending.flatMap((each, i) => (each.done === undefined ? [] : [i]));
    const index = pick(done, a);
    if (index !== undefined) await m.deliver(index);
  },

  disposeMapping(m, a) {
    const held = pick(
      m.held.filter((each) => each.real !== undefined),
      a,
    );
    if (!held) return;
    const { space, handle, mapped, disposed } = held;
    if (handle && !handle.live && space.alive && !m.handleOf(space)) return; // no handle is left that shows the effect
    m.say(() => `${mapped.name}[Symbol.dispose]();`);
    held.real?.[Symbol.dispose]();
    held.disposed = true;
    const left = space.of(mapped);
    if (left.length === 0) return;
    if (disposed) m.differ(`${mapped.name} was disposed before, and is still mapped`);
    const without = space.pieces.filter((each) => each.of !== mapped);
    // Its Ioas has ended, but another Ioas of the same kernel object has not.
    if (handle && !handle.live) {
      m.choose(space, 'it', without, space.pieces);
      held.disposed = space.of(mapped).length === 0;
    } else {
      space.pieces = without;
    }
  },

  view(m, a) {
    const buffer = pick(
      m.buffers.filter((each) => each.handle === 'live' && each.real !== undefined),
      a,
    );
    if (!buffer?.real) return;
    m.say(() => `let view = ${buffer.name}.buffer;`);
    buffer.bytes = buffer.real.buffer;
    buffer.view = 'held';
  },

  dropView(m, a) {
    const buffer = pick(
      m.buffers.filter((each) => each.view === 'held'),
      a,
    );
    if (!buffer) return;
    m.say(() => `view = undefined; // of ${buffer.name}`);
    buffer.bytes = undefined;
    buffer.view = 'dropped';
  },

  dropBuffer(m, a) {
    const buffer = pick(
      m.buffers.filter((each) => each.handle === 'live' && each.real !== undefined),
      a,
    );
    if (!buffer) return;
    m.say(() => `${buffer.name} = undefined;`);
    buffer.real = undefined;
    buffer.handle = 'dropped';
  },

  async collect(m) {
    await m.collect();
  },
};

// -------------------------------------------------------------------- steps of iommufds

const ofIommufd: Record<string, Run> = {
  space(m, a) {
    const fd = someFd(m, a);
    if (fd && m.spaces.filter((each) => each.alive).length < 3) m.newSpace(fd);
  },

  map(m, a, b, c, d) {
    const handle = someHandle(m, a, d);
    const want = wanted(m, b, c, d);
    if (!handle?.real || !want) return;
    m.say(() => `it = ${handle.name}.map(${want.text});`);
    const { real, live, space, fd } = handle;
    mapped(
      m,
      attempt(() => real.map(want.part, want.options)),
      want,
      live ? space : null,
      { handle, fd },
    );
  },

  mapAsync(m, a, b, c, d) {
    const handle = someHandle(m, a, 0);
    const want = wanted(m, b, c, d);
    if (!handle?.real || !want || m.pending.length >= 4) return;
    m.say(() => `it = ${handle.name}.mapAsync(${want.text});`);
    later(m, handle.real.mapAsync(want.part, want.options), want, { handle, fd: handle.fd });
  },

  unmap(m, a, b, c, d) {
    const handle = someHandle(m, a, d);
    if (!handle?.real) return;
    const { real, live, space } = handle;
    const [start, length] = range(space, b, c, d);
    m.say(() => `${handle.name}.unmap(${hex(start)}, ${hex(length)});`);
    const answer = attempt(() => real.unmap(start, length));
    if (live) outcome(m, answer, space.unmap(start, length));
    else refused(m, answer);
  },

  unmapAll(m, a, _b, _c, d) {
    const handle = someHandle(m, a, d);
    if (!handle?.real) return;
    const { real, live, space } = handle;
    m.say(() => `${handle.name}.unmapAll();`);
    const answer = attempt(() => real.unmapAll());
    if (live) outcome(m, answer, { bytes: space.clear() });
    else refused(m, answer);
  },

  copy(m, a, b, c, d) {
    const handle = someHandle(m, a, 0);
    const source = pick(
      m.held.filter((each) => each.real !== undefined && each.handle?.fd === handle?.fd),
      b,
    );
    if (!handle?.real || !source?.real) return;
    const { real, space, fd } = handle;
    const from = source.real;
    const iova = d % 5 === 4 ? undefined : place(c);
    m.say(
      () =>
        `it = ${handle.name}.copy(${source.mapped.name}, { iova: ${iova === undefined ? iova : hex(iova)} });`,
    );
    const answer = attempt(() => real.copy(from, iova === undefined ? {} : { iova }));
    const whole = !source.disposed && source.handle?.live === true && source.space.whole(source.mapped);
    if (!whole) {
      // The source was unmapped or cut, or its Ioas has ended: other mappings at its address don't count.
      m.say(() => `// ${'code' in answer ? answer.code : 'success'}`);
      if (!('code' in answer)) m.differ('copy succeeded, but its source is not wholly mapped any more');
      return;
    }
    const { memory, offset, length, writable } = source.mapped;
    const want = {
      memory: memory as Buffer_,
      offset,
      length,
      iova,
      writable,
      part: undefined as never,
      options: {},
      text: '',
    };
    mapped(m, answer, want, space, { handle, fd });
  },

  disposeSpace(m, a, _b, _c, d) {
    const handle = someHandle(m, a, d);
    if (!handle?.real || (m.remoteOpen && m.pending.length > 0)) return;
    m.say(() => `${handle.name}[Symbol.dispose]();`);
    handle.real[Symbol.dispose]();
    m.endHandle(handle);
  },

  destroy(m, a, b) {
    const fd = someFd(m, a);
    const space = pick(
      m.spaces.filter((each) => each.alive),
      b,
    );
    if (!fd || !space) return;
    const { id } = space;
    m.say(() => `${fd.name}.destroy(${id});`);
    const answer = attempt(() => fd.real.destroy(id));
    const code = 'code' in answer ? answer.code : 'success';
    m.say(() => `// ${code}`);
    const forgotten = m.forgotten.get(space);
    if (m.attached === space) {
      if (code !== 'EBUSY') m.differ(`destroy answered ${code}, expected EBUSY: a device is attached`);
      return;
    }
    if (code !== 'success' && !(forgotten && code === 'ENOENT')) m.differ(`destroy answered ${code}`);
    // The handle's finalizer must not change a later object with that id.
    m.endSpace(space);
  },

  compat(m, a, b) {
    const fd = someFd(m, a);
    const handle = pick(
      m.handles.filter((each) => each.live && each.fd === fd && each.real !== undefined),
      b,
    );
    if (!fd) return;
    m.setCompat(fd, b % 5 === 4 ? null : (handle?.space ?? null));
  },

  twin(m) {
    const [main] = m.fds;
    if (!main?.live || m.fds.filter((each) => each.live).length > 1) return;
    const real = Iommufd.fromFd(main.real.fd);
    const fd: Fd = { name: m.name('twin'), real, container: real.container(), live: true };
    m.say(() => `const ${fd.name} = Iommufd.fromFd(f.fd);`);
    m.fds.push(fd);
    m.compatHandle(fd);
  },

  twinSpace(m, a) {
    const fd = someFd(m, a);
    if (fd) m.compatHandle(fd);
  },

  disposeTwin(m) {
    const fd = m.fds.find((each, i) => i > 0 && each.live);
    if (!fd || (m.remoteOpen && m.pending.length > 0)) return;
    m.say(() => `${fd.name}[Symbol.dispose]();`);
    fd.real[Symbol.dispose]();
    m.endFd(fd);
  },

  attach(m, a) {
    const handle = someHandle(m, a, 0);
    if (!handle?.real || !m.rig.device) return;
    m.say(() => `device.attach(${handle.name});`);
    m.rig.device.attach(handle.real);
    m.attached = handle.space;
  },

  detach(m) {
    m.say(() => 'device.detach();');
    m.rig.device?.detach();
    m.attached = null;
  },

  forget(m, a) {
    const handle = pick(
      m.handles.filter((each) => {
        const { space, live, real } = each;
        const wantedBy = m.pending.some(
          (one) => one.handle?.space === space || one.done?.held?.space === space,
        );
        return (
          live &&
          real !== undefined &&
          m.liveHandles(space).length === 1 &&
          m.attached !== space &&
          m.compat !== space &&
          !wantedBy
        );
      }),
      a,
    );
    if (handle?.real === undefined) return;
    const state = { collected: false };
    m.say(() => `${handle.name} = undefined; // and its mappings`);
    finalized.register(handle.real, state);
    m.forgotten.set(handle.space, state);
    handle.real = undefined;
    handle.live = false;
    for (const each of m.held) if (each.handle === handle) each.real = undefined;
  },
};

const finalized = new FinalizationRegistry<{ collected: boolean }>((state) => {
  state.collected = true;
});

/** The range to unmap: mostly that of an existing mapping, else any range. */
function range(space: Space, b: number, c: number, d: number): [number, number] {
  const piece = pick(space.pieces, b);
  if (piece && d % 3 !== 0) return [piece.iova, piece.length];
  return [place(b), ((c % 8) + 1) * PAGE];
}

// -------------------------------------------------------------------- steps of containers over an iommufd

/** The container to call, and the space that its requests use; undefined: there is none now. */
function compatOf(m: Machine, a: number): { fd: Fd; handle: Handle | undefined } | undefined {
  const fd = someFd(m, a);
  if (!fd) return undefined;
  return { fd, handle: m.compatHandle(fd) };
}

const ofCompat: Record<string, Run> = {
  cmap(m, a, b, c, d) {
    const at = compatOf(m, a);
    const want = wanted(m, b, c, d);
    if (!at || !want) return;
    m.say(() => `it = ${at.fd.name}.container().map(${want.text});`);
    const answer = attempt(() => at.fd.container.map(want.part, want.options));
    mapped(m, answer, want, m.compat, { handle: at.handle, fd: at.fd });
  },

  cmapAsync(m, a, b, c, d) {
    const at = compatOf(m, a);
    const want = wanted(m, b, c, d);
    if (!at?.handle || !want || m.pending.length >= 4) return;
    m.say(() => `it = ${at.fd.name}.container().mapAsync(${want.text});`);
    later(m, at.fd.container.mapAsync(want.part, want.options), want, {
      handle: undefined,
      fd: at.fd,
      over: at.handle,
    });
  },

  cunmap(m, a, b, c, d) {
    const at = compatOf(m, a);
    if (!at?.handle || m.compat === null) return;
    const { space } = at.handle;
    const [start, length] = range(space, b, c, d);
    m.say(() => `${at.fd.name}.container().unmap(${hex(start)}, ${hex(length)});`);
    const answer = attempt(() => at.fd.container.unmap(start, length));
    outcome(m, answer, space.unmapCompat(start, length));
  },

  cunmapAll(m, a) {
    const at = compatOf(m, a);
    if (!at?.handle) return;
    const { space } = at.handle;
    m.say(() => `${at.fd.name}.container().unmapAll();`);
    outcome(
      m,
      attempt(() => at.fd.container.unmapAll()),
      { bytes: space.clear() },
    );
  },

  hugePages(m, a, b) {
    const handle = someHandle(m, a, 0);
    if (!handle?.real) return;
    const { real, space } = handle;
    const on = b % 2 === 0;
    m.say(() => `${handle.name}.hugePages = ${on};`);
    const answer = attempt(() => {
      real.hugePages = on;
    });
    const fails = !on && space.hugePages && m.attached === space && space.pieces.length > 0;
    if (fails !== 'code' in answer)
      m.differ(`hugePages = ${on}: ${'code' in answer ? answer.message : 'success'}`);
    if (!fails) space.hugePages = on;
  },
};

// -------------------------------------------------------------------- steps of containers without an iommufd

const ofOwn: Record<string, Run> = {
  map(m, _a, b, c, d) {
    const { container } = m.rig;
    const want = wanted(m, b, c, d);
    if (!container || !want) return;
    m.say(() => `it = c.map(${want.text});`);
    const space = m.own.alive ? m.own : null;
    mapped(
      m,
      attempt(() => container.map(want.part, want.options)),
      want,
      space,
      none,
    );
  },

  mapAsync(m, _a, b, c, d) {
    const { container } = m.rig;
    const want = wanted(m, b, c, d);
    if (!container || !want || m.pending.length >= 4) return;
    m.say(() => `it = c.mapAsync(${want.text});`);
    if (m.own.alive || want.iova !== undefined)
      later(m, container.mapAsync(want.part, want.options), want, none);
  },

  unmap(m, _a, b, c, d) {
    const { container } = m.rig;
    if (!container) return;
    const [start, length] = range(m.own, b, c, d);
    m.say(() => `c.unmap(${hex(start)}, ${hex(length)});`);
    const answer = attempt(() => container.unmap(start, length));
    if (m.own.alive) outcome(m, answer, m.own.unmapType1(start, length, m.rig.type1 === 'type1v2'));
    else refused(m, answer);
  },

  unmapAll(m) {
    const { container } = m.rig;
    if (!container) return;
    m.say(() => 'c.unmapAll();');
    const answer = attempt(() => container.unmapAll());
    if (m.own.alive) outcome(m, answer, { bytes: m.own.clear() });
    else refused(m, answer);
  },

  detach(m) {
    m.say(() => 'device[Symbol.dispose]();');
    m.rig.closeDevice();
  },

  attach(m) {
    if (!m.own.alive || m.rig.device) return;
    m.say(() => 'const device = group.openDevice(EDU);');
    m.rig.openDevice();
  },

  /** The last group leaves. The container loses its IOMMU and all mappings. */
  leave(m) {
    if (!m.own.alive) return;
    m.say(() => 'device[Symbol.dispose](); group.unsetContainer();');
    m.rig.closeDevice();
    m.rig.group?.unsetContainer();
    m.own.end();
  },

  join(m) {
    if (m.own.alive) return;
    m.say(() => `group.setContainer(c); c.setIommu('${m.rig.type1}');`);
    m.rig.join();
    m.spaces.push(new Space('c'));
  },

  /** Disposes the container, the device and the group, and opens all of them again. */
  disposeSpace(m) {
    m.say(() => 'c[Symbol.dispose](); // and all is opened again, under the same names');
    m.rig.container?.[Symbol.dispose]();
    m.rig.closeDevice();
    m.rig.group?.[Symbol.dispose](); // a group that has left is not disposed with the container
    m.own.end();
    m.checkPages();
    m.rig.openContainer();
    m.rig.openDevice();
    m.spaces.push(new Space('c'));
  },
};

const none = { handle: undefined, fd: undefined };

// -------------------------------------------------------------------- steps of a worker

const ofWorker: Record<string, Run> = {
  async workerOpen(m) {
    const [main] = m.fds;
    if (!main?.live || m.compat === null || !m.remote || m.remoteOpen) return;
    m.say(() => 'worker: w = Iommufd.fromFd(f.fd); ws = w.vfioCompatIoas;');
    await m.remote.ask({ do: 'open', fd: main.real.fd });
    const { there } = await m.remote.ask({ do: 'compat' });
    if (there !== true) m.differ('the worker sees no compatibility IOAS');
    m.remoteOpen = true;
    m.handles.push({ name: 'ws', space: m.compat, fd: undefined, owner: false, real: undefined, live: true });
  },

  async workerMap(m, _a, b, c) {
    const handle = m.handles.find((each) => each.fd === undefined && each.live);
    if (!handle || !m.remote) return;
    const pages = (b % 3) + 1;
    const iova = place(c);
    const tag = m.newTag();
    const answer = await m.remote.ask({ do: 'map', iova, pages, tag, at: 0x800 });
    m.say(
      () =>
        `worker: ws.map(DmaBuffer.alloc(${hex(pages * PAGE)}), { iova: ${hex(iova)} }); // ${answer.code ?? 'mapped'}`,
    );
    const taken = handle.space.within(iova, pages * PAGE).length > 0;
    if (taken !== (answer.code === 'EEXIST'))
      m.differ(`the worker's map answered ${answer.code ?? 'success'}: ${answer.message}`);
    if (taken || answer.address === undefined) return;
    const memory: Buffer_ = {
      name: m.name('wb'),
      address: answer.address,
      pages,
      tag,
      handle: 'live',
      view: 'none',
      calls: 0,
      done: 0,
      real: undefined,
      bytes: undefined,
    };
    m.buffers.push(memory);
    m.adopt(
      { memory, offset: 0, length: pages * PAGE, writable: true, handle, fd: undefined },
      handle.space,
      iova,
    );
  },

  async workerUnmap(m, _a, b, c, d) {
    const handle = m.handles.find((each) => each.fd === undefined && each.live);
    if (!handle || !m.remote) return;
    const [start, length] = range(handle.space, b, c, d);
    m.say(() => `worker: ws.unmap(${hex(start)}, ${hex(length)});`);
    const answer = await m.remote.ask({ do: 'unmap', iova: start, length });
    outcome(
      m,
      answer.code === undefined ? { value: BigInt(answer.bytes ?? 0) } : { code: answer.code, message: '' },
      handle.space.unmap(start, length),
    );
  },

  async workerDrop(m, a) {
    const memory = pick(
      m.buffers.filter((each) => each.name.startsWith('wb') && each.handle === 'live'),
      a,
    );
    if (!memory || !m.remote) return;
    m.say(() => `worker: ${memory.name}[Symbol.dispose]();`);
    await m.remote.ask({ do: 'drop', address: memory.address });
    memory.handle = 'disposed';
  },

  async workerMappings(m) {
    const handle = m.handles.find((each) => each.fd === undefined && each.live);
    if (!handle || !m.remote) return;
    m.say(() => 'worker: ws.mappings();');
    const { mappings, code } = await m.remote.ask({ do: 'mappings' });
    const said = mappings?.map(({ iova, length }) => `${hex(iova)}+${hex(length)}`).join(' ') ?? code;
    const expected = handle.space.pieces.map(({ iova, length }) => `${hex(iova)}+${hex(length)}`).join(' ');
    if (said !== expected) m.differ(`the worker's mappings() is ${said}, expected ${expected}`);
  },

  async workerLeave(m) {
    const handle = m.handles.find((each) => each.fd === undefined && each.live);
    if (!handle || !m.remote) return;
    m.say(() => 'worker: ws[Symbol.dispose]();');
    await m.remote.ask({ do: 'leave' });
    m.endHandle(handle);
  },
};

// -------------------------------------------------------------------- choosing

/** The weights of the steps: how often each is chosen. */
const weights: Record<string, number> = {
  map: 6,
  mapAsync: 5,
  run: 5,
  deliver: 4,
  unmap: 5,
  unmapAll: 1,
  disposeMapping: 4,
  disposeBuffer: 3,
  buffer: 2,
  copy: 3,
  space: 2,
  disposeSpace: 2,
  destroy: 2,
  compat: 2,
  twin: 1,
  twinSpace: 1,
  disposeTwin: 1,
  attach: 2,
  detach: 1,
  view: 1,
  dropView: 1,
  cmap: 5,
  cmapAsync: 5,
  cunmap: 6,
  cunmapAll: 1,
  hugePages: 1,
  leave: 1,
  join: 2,
  dropBuffer: 2,
  forget: 4,
  collect: 2,
  workerOpen: 4,
  workerMap: 5,
  workerUnmap: 4,
  workerDrop: 2,
  workerMappings: 2,
  workerLeave: 1,
};

/** The steps that only some sequences contain. */
const collecting = new Set(['dropBuffer', 'forget', 'collect']);

const isOwn = (kind: Kind) => kind.startsWith('container');
function stepsOf(kind: Kind): Record<string, Run> {
  if (isOwn(kind)) return { ...common, ...ofOwn };
  return { ...common, ...ofIommufd, ...ofWorker, ...(kind === 'ioas' ? {} : ofCompat) };
}
const table = new Map<Kind, Record<string, Run>>();

export function perform(m: Machine, [name, a, b, c, d]: Step, sort: number): void | Promise<void> {
  if (collecting.has(name) && !sorts.collecting(sort)) return;
  if (name in ofWorker && !sorts.worker(sort)) return;
  const steps = table.get(m.rig.kind) ?? stepsOf(m.rig.kind);
  table.set(m.rig.kind, steps);
  return steps[name]?.(m, a, b, c, d);
}

/** `without`: steps that are left out. */
export function sequences(kind: Kind, without: readonly string[] = []): fc.Arbitrary<Sequence> {
  const steps = Object.keys(stepsOf(kind)).filter((name) => !without.includes(name));
  const choices = steps.flatMap((name) => new Array<string>(weights[name] ?? 1).fill(name));
  const number = fc.nat(999);
  // Without bias: fast-check would otherwise choose extreme numbers too often, and these are the slow sorts.
  return fc.noBias(
    fc.record({
      steps: fc.array(fc.tuple(fc.constantFrom(...choices), number, number, number, number), {
        minLength: 1,
        maxLength: 24,
        size: 'max',
      }),
      sort: fc.nat(255),
      ending: fc.nat(999),
    }),
  );
}

// -------------------------------------------------------------------- the end of a sequence

/**
 * Ends a sequence: runs the waiting calls in any order, makes DMA to every address, unmaps the pieces one by one to compare
 * them with the kernel's, and disposes everything. Or it disposes everything first, while the calls are waiting.
 */
export async function finish(m: Machine, { sort, ending }: Sequence, dma: boolean): Promise<void> {
  const early = ending % 16 === 15 && !m.remoteOpen;
  if (early) disposeAll(m, ending);
  for (let n = ending; m.pending.length > 0; n = (n * 31 + 7) % 1_000_003) {
    const index = n % m.pending.length;
    if (m.pending[index]?.done === undefined) m.run(index);
    else await m.deliver(index);
    m.check();
  }
  if (sorts.collecting(sort)) {
    await m.collect();
    m.check();
  }
  if (!early) {
    if (dma) {
      await m.dma(ADDRESSES);
      m.check();
    }
    if (m.rig.type1 === undefined) detach(m);
    else if (m.own.alive) checkDying(m);
    m.check(); // memory that was released too early, and was only pinned, is freed by now
    for (const space of m.spaces) emptied(m, space);
    m.check();
    if (m.rig.type1 === undefined) disposeAll(m, 0);
  } else if (!m.rig.spent) {
    detach(m);
    disposeAll(m, 0); // handles that have been made since
  }
  for (const fd of m.fds.slice(1)) {
    if (!fd.live) continue;
    m.say(() => `${fd.name}[Symbol.dispose]();`);
    fd.real[Symbol.dispose]();
    m.endFd(fd);
  }
  if (m.remoteOpen) {
    m.say(() => 'worker: all is disposed');
    await m.remote?.ask({ do: 'close' });
    m.remoteOpen = false;
    for (const each of m.handles) if (each.fd === undefined) m.endHandle(each);
    for (const each of m.buffers) if (each.name.startsWith('wb')) each.handle = 'disposed';
  }
  m.sweep();
  for (const each of m.held) each.real?.[Symbol.dispose]();
  for (const each of m.buffers) if (each.real) m.disposeBuffer(each);
  m.check();
}

function detach(m: Machine): void {
  if (m.rig.type1 !== undefined) return;
  m.say(() => 'device.detach();');
  m.rig.device?.detach();
  m.attached = null;
}

/** Disposes the container and its group, or the address spaces of the main iommufd, or sometimes that iommufd itself. */
function disposeAll(m: Machine, ending: number): void {
  const [main] = m.fds;
  if (main === undefined) {
    if (m.rig.type1 && ending === 0) return;
    ofOwn['disposeSpace']?.(m, 0, 0, 0, 0);
  } else if (ending % 64 === 63) {
    m.say(() => `${main.name}[Symbol.dispose]();`);
    m.rig.spent = true;
    main.real[Symbol.dispose]();
    m.endFd(main);
  } else {
    for (const each of m.handles)
      if (each.live && each.fd === main) {
        m.say(() => `${each.name}[Symbol.dispose]();`);
        each.real?.[Symbol.dispose]();
        m.endHandle(each);
      }
    main.container[Symbol.dispose]();
  }
  m.check();
}

/** Unmaps each piece, which must return its length. Then nothing may be mapped. */
function emptied(m: Machine, space: Space): void {
  const real = m.handleOf(space)?.real ?? (m.rig.type1 && space === m.own ? m.rig.container : undefined);
  if (!real || !space.alive) return;
  const names = m.handleOf(space)?.name ?? 'c';
  for (const { iova, length } of [...space.pieces].reverse()) {
    m.say(() => `${names}.unmap(${hex(iova)}, ${hex(length)});`);
    outcome(
      m,
      attempt(() => real.unmap(iova, length)),
      { bytes: length },
    );
  }
  space.clear();
  m.say(() => `${names}.unmapAll();`);
  outcome(
    m,
    attempt(() => real.unmapAll()),
    { bytes: 0 },
  );
}

/**
 * Checks that no mapped memory was released: the software host keeps pinned pages that were released until their last pin ends,
 * and such a page can't be mapped again.
 */
function checkDying(m: Machine): void {
  for (const buffer of m.buffers) {
    if (!m.own.pieces.some((each) => each.of.memory === buffer)) continue;
    const same = DmaBuffer.unsafeFromAddress(buffer.address, PAGE);
    const answer = attempt(() => m.rig.container?.map(same, { iova: 0x800_0000 })?.[Symbol.dispose]());
    same[Symbol.dispose]();
    if ('code' in answer)
      m.differ(
        `${buffer.name} was given back while it was mapped: mapping it again is ${answer.code}, ${answer.message}`,
      );
  }
}
