/**
 * One sequence of calls: a machine, its live objects, and calls on all of them, one after the other. The calls are found in
 * the exports, in their prototypes, and in the objects that calls return. Every choice depends only on the seed, the sequence
 * and the number of the call, so that any part of a sequence can be run again.
 */
import { readdirSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { memberOf } from './declarations.mjs';
import { MACHINES } from './machines.mjs';
import { hash, hashText, Random } from './random.mjs';
import { Hostile, name as named, shown, Values } from './values.mjs';

/** How many objects of a kind are kept. Older ones are dropped without being disposed. */
const KEPT = 8;
/** After so many calls the event loop runs. */
const TURN = 16;
/** A number larger than the number of different calls. */
const MOST_TARGETS = 1024;
/** How deep the calls of hostile values may be nested. */
const NESTED = 2;
/** After so many calls another machine is added. */
const MACHINE = 250;
const ENDS = /dispose|destroy|remove|become|unset|release|lost|abandon/i;
const BUILT_IN = new Set([Object.prototype, Function.prototype, Error.prototype, Array.prototype]);

/** Errors that are documented with a code of their own. */
const DOCUMENTED = new Set(['ERR_VFIO_DISPOSED', 'EOPNOTSUPP', 'ENOSPC']);

/** The outcome of a failed call: a code; undefined: no call may fail with this error. */
export function outcomeOf(vfio, error) {
  if (error instanceof Hostile) return 'hostile';
  if (error instanceof vfio.VfioError) return error.code;
  if (typeof error !== 'object' || error === null) return undefined;
  if (DOCUMENTED.has(error.code)) return error.code;
  for (const type of [TypeError, RangeError, SyntaxError])
    if (error instanceof type) return error.code === undefined ? `plain ${type.name}` : error.code;
  return undefined;
}

/** All disposable objects: a pending wait may keep some alive that nothing else refers to. */
let leftovers = [];

/** Disposes the objects that were not collected, because a wait on them is pending. */
export function disposeLeftovers() {
  for (const each of leftovers) quiet(() => each.deref()?.[Symbol.dispose]());
  leftovers = [];
}

const memberName = (key) =>
  typeof key === 'symbol' ? `[${key.description?.replace('nodejs.', 'Symbol.')}]` : key;

export class Session {
  vfio;
  declarations;
  #seed;
  #number;
  #report;
  #trace;
  /** Kinds by name: live objects, and the calls on them. */
  #kinds = new Map();
  #targets = [];
  #known = new Set();
  #buffers = [];
  #pending = [];
  #at = -1;
  #nested = 0;
  #target;
  #worker;
  #workerFile;

  /** `report`: receives each outcome and each finding. `trace`: receives each call before it is made. */
  constructor({ vfio, declarations, seed, number, report, trace, workerFile }) {
    this.vfio = vfio;
    this.declarations = declarations;
    this.#seed = seed;
    this.#number = number;
    this.#report = report;
    this.#trace = trace;
    this.#workerFile = workerFile;
    for (const [kind, value] of Object.entries(vfio)) {
      if (typeof value !== 'function') continue;
      this.#add({
        kind,
        type: 'new',
        name: `new ${kind}`,
        key: 'constructor',
        run: (args) => Reflect.construct(value, args),
      });
      for (
        let each = value;
        each && !BUILT_IN.has(each) && each !== Error;
        each = Object.getPrototypeOf(each)
      )
        this.#addMembers(kind, each, 'static ');
      this.#addMembersOf(kind, value.prototype);
    }
  }

  /** Makes the calls from `from` to `to` - 1 for which `wanted` holds; `before` receives each number. */
  async run({ from, to, wanted, before }) {
    for (let at = from; at < to; at++) {
      if (at === from || at % MACHINE === 0) this.#prepare(at - (at % MACHINE));
      if (wanted(at)) {
        before(at);
        this.#at = at;
        this.#call(new Random(this.#seed, this.#number, at + 100));
      }
      if (at % TURN === TURN - 1) await this.#turn();
    }
    await this.#end();
  }

  /** Opens and prepares a machine for the calls from `at` on. */
  #prepare(at) {
    const random = new Random(this.#seed, this.#number, at, 2);
    const machine = random.pick(MACHINES);
    this.#at = at - 0.5;
    const keep = (value) => {
      this.#keep(value, undefined);
      return value;
    };
    this.#trace?.(`#${at} a new host: ${machine.name}`);
    try {
      const host = keep(this.vfio.Host.open(machine.options));
      this.#keep(host.software, { is: 'name', name: 'SoftwareControls', of: [] });
      machine.prepare(this.vfio, host, keep);
    } catch (error) {
      this.#report.finding(`the machine '${machine.name}' is not what the fuzzer expects: ${error?.stack}`);
    }
  }

  // The targets: the calls that can be made.

  #kind(kind) {
    let found = this.#kinds.get(kind);
    if (found === undefined) {
      found = { objects: [], prototypes: new Set() };
      this.#kinds.set(kind, found);
    }
    return found;
  }

  #add(target) {
    const place = `${target.kind}.${target.name}`;
    if (this.#known.has(place) || this.#targets.length === MOST_TARGETS) return;
    this.#known.add(place);
    this.#targets.push(target);
    const { kind } = target;
    this.#kind(kind);
    const path = target.name.replace(/^new .*/, 'constructor');
    const member = memberOf(this.declarations, kind, path);
    const bound = member?.bound;
    if (target.type === 'set')
      target.parameters = [{ name: target.member, type: member?.parameters?.[0]?.type ?? member?.type }];
    else if (target.type !== 'get')
      target.parameters = member?.parameters ?? [{ name: 'what' }, { name: 'o' }];
    target.parameters = (target.parameters ?? []).map((each) => ({
      ...each,
      type: each.type ?? { is: 'unknown' },
      bound,
    }));
    target.returns = member?.returns ?? member?.type;
    target.bound = bound;
    target.public = member !== undefined && !member.internal;
    target.weight = (ENDS.test(target.name) ? 0.15 : 1) * (target.public ? 1 : 0.1);
  }

  #addMembersOf(kind, prototype) {
    const seen = this.#kind(kind).prototypes;
    if (seen.has(prototype)) return;
    seen.add(prototype);
    for (let each = prototype; each && !BUILT_IN.has(each); each = Object.getPrototypeOf(each))
      this.#addMembers(kind, each, '');
  }

  #addMembers(kind, from, prefix) {
    for (const key of Reflect.ownKeys(from)) {
      if (key === 'constructor' || (prefix !== '' && ['prototype', 'name', 'length'].includes(key))) continue;
      const { get, set, value } = Object.getOwnPropertyDescriptor(from, key);
      const member = memberName(key);
      const base = { kind, member, static: prefix !== '' };
      if (get) this.#add({ ...base, type: 'get', name: `${prefix}${member}`, run: (_, on) => get.call(on) });
      if (set)
        this.#add({ ...base, type: 'set', name: `${prefix}${member}=`, run: ([to], on) => set.call(on, to) });
      if (typeof value === 'function')
        this.#add({
          ...base,
          type: 'method',
          name: `${prefix}${member}`,
          run: (args, on) => Reflect.apply(value, on, args),
          of: prefix === '' ? undefined : from,
          fresh: Object.hasOwn(from, key) && BUILT_IN.has(Object.getPrototypeOf(from)) ? key : undefined,
        });
    }
  }

  // The live objects.

  #keep(value, type, depth = 0) {
    if (typeof value !== 'object' || value === null || value instanceof Promise) return;
    if (Array.isArray(value)) {
      const of = type?.is === 'array' ? type.of : undefined;
      for (const each of value.slice(0, 3)) this.#keep(each, of, depth);
      return;
    }
    if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
      this.#buffers.push({ key: hash(this.#at + 1, this.#buffers.length), value });
      if (this.#buffers.length > KEPT) this.#buffers.shift();
      return;
    }
    const kind = this.#kindOf(value, type);
    if (kind === undefined) return;
    const { objects } = this.#kind(kind);
    if (objects.some((each) => each.value === value)) return;
    if (Symbol.dispose in value) leftovers.push(new WeakRef(value));
    objects.push({ key: hash(this.#at + 1, objects.length, hashText(kind)), value });
    named(value, `${kind}@${this.#at}`);
    if (objects.length > KEPT) objects.shift();
    const prototype = Object.getPrototypeOf(value);
    if (prototype !== null && prototype !== Object.prototype) this.#addMembersOf(kind, prototype);
    else this.#addOwn(kind, value);
    if (depth >= 2) return;
    for (const [key, { value: its }] of Object.entries(Object.getOwnPropertyDescriptors(value)))
      this.#keep(its, memberOf(this.declarations, kind, key)?.type, depth + 1);
  }

  /** Adds the functions of an object without a class. */
  #addOwn(kind, value) {
    for (const key of Reflect.ownKeys(value)) {
      if (typeof Object.getOwnPropertyDescriptor(value, key).value !== 'function') continue;
      const member = memberName(key);
      this.#add({
        kind,
        member,
        type: 'method',
        name: member,
        run: (args, on) => Reflect.apply(on[key], on, args),
      });
    }
  }

  #kindOf(value, type) {
    const maker = Object.getPrototypeOf(value)?.constructor;
    const own = typeof maker === 'function' ? maker.name : undefined;
    if (own !== undefined && this.vfio[own] === maker) return own;
    const declared = this.declarations.get(own)?.roles?.[0] ?? nameOf(type);
    if (declared !== undefined && this.declarations.get(declared)?.members !== undefined) return declared;
    if (own === undefined) return 'AsyncIterator';
    return globalThis[own] === maker ? undefined : own;
  }

  /** A live object of a kind; undefined: there is none. */
  liveOf(kind, random) {
    const objects = this.#kinds.get(kind)?.objects ?? [];
    // Objects of derived classes belong to the kind too.
    const abstract = objects.length === 0 && this.declarations.get(kind)?.members?.has('#private');
    const all = abstract
      ? [...this.#kinds.values()]
          .flatMap((each) => each.objects)
          .filter(({ value }) => chainOf(value).includes(kind))
      : objects;
    if (all.length === 0) return undefined;
    const alive = all.filter(({ value }) => !isDisposed(value));
    return random.stable(alive.length > 0 && random.chance(0.93) ? alive : all).value;
  }

  anyLive(random) {
    const kinds = [...this.#kinds].map(([kind, { objects }]) => ({ key: hashText(kind), objects }));
    const kind = random.stable(kinds.filter(({ objects }) => objects.length > 0));
    return kind === undefined ? {} : random.stable(kind.objects).value;
  }

  anyPrototype(random, name) {
    const classes = Object.entries(this.vfio).filter(([, value]) => typeof value === 'function');
    const [kind, { prototype }] = random.pick(classes);
    if (random.chance(0.3)) return prototype;
    return name(Object.create(prototype), `Object.create(${kind}.prototype)`);
  }

  bytes(random) {
    const size = random.pick([0, 1, 2, 4, 8, 64, 4096]);
    switch (random.below(8)) {
      case 0:
      case 1: {
        const found = random.stable(this.#buffers)?.value;
        if (found === undefined) return new Uint8Array(size);
        return found instanceof ArrayBuffer ? new Uint8Array(found) : found;
      }
      case 2: {
        const buffer = new ArrayBuffer(size, { maxByteLength: 8192 });
        this.#buffers.push({ key: random.next(), value: new Uint8Array(buffer) });
        return named(this.#buffers.at(-1).value, `a Uint8Array of a resizable buffer of ${size}`);
      }
      case 3: {
        const buffer = new SharedArrayBuffer(size, { maxByteLength: 8192 });
        return named(new Uint8Array(buffer), `a Uint8Array of a growable shared buffer of ${size}`);
      }
      case 4:
        return named(Buffer.from('some bytes of the pool'), 'a Buffer');
      default:
        return named(new Uint8Array(size), `a Uint8Array of ${size}`);
    }
  }

  /** A descriptor of a live object, or some number. */
  descriptor(random) {
    for (let attempt = 0; attempt < 3; attempt++) {
      const object = this.anyLive(random);
      const found = attempt === 0 ? quiet(() => object.fd) : quiet(() => object.eventfd);
      if (typeof found === 'number') return found;
    }
    return random.below(40);
  }

  /** The id of a live object, or some number. */
  id(random) {
    const object = this.anyLive(random);
    const found = quiet(() => object.id);
    return typeof found === 'number' ? found : random.below(12);
  }

  // The actions of hostile values.

  act(kind, salt) {
    const random = new Random(this.#seed, this.#number, this.#at, salt);
    switch (kind) {
      case 0:
      case 1:
        quiet(() => this.#target?.[Symbol.dispose]?.());
        return;
      case 2:
      case 3:
        quiet(() => this.anyLive(random)[Symbol.dispose]?.());
        return;
      case 4:
        quiet(() => this.liveOf('Host', random)?.[Symbol.dispose]());
        return;
      case 5:
        globalThis.gc({ type: random.chance(0.05) ? 'major' : 'minor' });
        return;
      case 6:
      case 7: {
        const found = random.stable(this.#buffers)?.value;
        const buffer = found instanceof ArrayBuffer ? found : found?.buffer;
        if (buffer === undefined) return;
        if (buffer.resizable) quiet(() => buffer.resize(random.below(8192)));
        else quiet(() => structuredClone(buffer, { transfer: [buffer] }));
        return;
      }
      case 8:
      case 9:
        throw new Hostile('from a hostile value');
      case 10:
        this.#startWorker(random);
        return;
      default:
        if (this.#nested >= NESTED) return;
        this.#nested++;
        try {
          this.#call(random);
        } finally {
          this.#nested--;
        }
    }
  }

  #startWorker(random) {
    if (this.#workerFile === undefined || this.#worker !== undefined || !random.chance(0.02)) return;
    const descriptors = Array.from({ length: 4 }, () => this.descriptor(random));
    const worker = new Worker(this.#workerFile.file, {
      workerData: {
        seed: random.next(),
        descriptors,
        calls: 100 + random.below(300),
        dist: this.#workerFile.dist,
      },
    });
    worker.on('message', (message) => this.#report.fromWorker(message));
    worker.on('error', (error) => this.#report.uncaught(error));
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = undefined;
    });
    worker.unref();
    this.#worker = worker;
  }

  // Calls.

  #call(random) {
    const outer = this.#target;
    const target = this.#choose(random);
    const call = `${target.kind}.${target.member ?? 'constructor'}`;
    let on = target.of ?? this.vfio[target.kind];
    let args = [];
    let right = true;
    // Making the values may run hostile code: a Proxy is read while it is wrapped.
    try {
      const values = new Values(this, random, call);
      right = random.chance(0.94);
      if (!target.static && target.type !== 'new')
        on = right ? this.liveOf(target.kind, random) : values.hostile();
      this.#target = on;
      args = values.arguments(target.parameters);
    } catch (error) {
      if (outcomeOf(this.vfio, error) === undefined) throw error;
    }
    const text = () => `${'  '.repeat(this.#nested)}#${this.#at} ${describe(target, on, args)}`;
    this.#trace?.(text());
    let result;
    try {
      result = target.run(args, on);
    } catch (error) {
      this.#failed(target, error, args, text, right);
      this.#target = outer;
      return;
    }
    this.#target = outer;
    // The result may be hostile too, since some calls return an argument.
    if (quiet(() => result instanceof Promise && Object.getPrototypeOf(result) === Promise.prototype)) {
      const pending = { target, at: this.#at, done: false, value: undefined };
      this.#pending.push(pending);
      result.then(
        (value) => {
          this.#report.outcome(target, 'ok');
          pending.done = true;
          pending.value = value;
        },
        (error) => {
          this.#failed(target, error, args, text, right);
          pending.done = true;
        },
      );
      return;
    }
    this.#report.outcome(target, 'ok');
    // The result of an internal constructor is not kept: it is no object of this package.
    if (target.type !== 'new' && !args.includes(result)) quiet(() => this.#keep(result, target.returns));
  }

  /** Chooses the next call. The choice among the present targets stays the same if more targets are added. */
  #choose(random) {
    for (;;) {
      const target = this.#targets[random.below(MOST_TARGETS)];
      if (target === undefined || !random.chance(target.weight)) continue;
      if (target.static || target.type === 'new' || this.#kinds.get(target.kind).objects.length > 0)
        return target;
    }
  }

  #failed(target, error, args, text, right) {
    // An iterator's throw() throws its argument.
    const outcome =
      args.includes(error) || (error === undefined && target.name === 'throw')
        ? 'hostile'
        : outcomeOf(this.vfio, error);
    this.#report.outcome(target, outcome ?? 'finding');
    if (outcome === undefined)
      this.#report.finding(
        `${text()} fails with an error that no call may give: ${error?.stack ?? String(error)}`,
      );
    else if (right && outcome.startsWith('plain')) this.#report.plain(target, error, text);
  }

  async #turn() {
    await new Promise((resolve) => setImmediate(resolve));
    const random = new Random(this.#seed, this.#number, this.#at, 3);
    if (this.#worker !== undefined && random.chance(0.1)) void this.#worker.terminate();
    if (random.chance(0.02)) globalThis.gc();
    for (const each of this.#pending.filter(({ done }) => done)) {
      this.#pending.splice(this.#pending.indexOf(each), 1);
      quiet(() => this.#keep(each.value, each.target.returns?.of?.[0]));
    }
  }

  /** Drops all objects in a random order. Half of them are disposed before. */
  async #end() {
    const random = new Random(this.#seed, this.#number, 4);
    const all = [...this.#kinds.values()].flatMap(({ objects }) => objects);
    while (all.length > 0) {
      const [{ value }] = all.splice(random.below(all.length), 1);
      if (random.chance(0.5)) quiet(() => value[Symbol.dispose]?.());
    }
    this.#target = undefined;
    this.#kinds.clear();
    this.#targets.length = 0;
    this.#buffers.length = 0;
    await this.#worker?.terminate();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function describe(target, on, args) {
  const list = args.map((each) => shown(each)).join(', ');
  if (target.type === 'new') return `new ${target.kind}(${list})`;
  const object = target.static ? target.kind : shown(on);
  const member = target.member.startsWith('[') ? target.member : `.${target.member}`;
  if (target.type === 'get') return `${object}${member}`;
  if (target.type === 'set') return `${object}${member} = ${list}`;
  return `${object}${member}(${list})`;
}

/** The name of the type of a value that is neither null nor undefined. */
function nameOf(type) {
  if (type?.is === 'name') return type.name === 'Promise' ? nameOf(type.of[0]) : type.name;
  if (type?.is !== 'union') return undefined;
  return type.of.map(nameOf).find((each) => each !== undefined && each !== 'null' && each !== 'undefined');
}

function chainOf(value) {
  const found = [];
  for (let each = Object.getPrototypeOf(value); each; each = Object.getPrototypeOf(each))
    found.push(each.constructor?.name);
  return found;
}

/** Makes a call that is not under test; undefined if it fails. */
function quiet(call) {
  try {
    return call();
  } catch {
    return undefined;
  }
}

const isDisposed = (value) => quiet(() => value.disposed) === true;

/** How many descriptors this process has open. */
export const descriptors = () => readdirSync('/proc/self/fd').length - 1;
