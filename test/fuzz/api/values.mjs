/**
 * Arguments: valid ones, made from the declarations and the live objects, and hostile ones. When a hostile value is read, it
 * may do anything that JavaScript can do: dispose the object of the call, make another call, detach a buffer, throw.
 */
import { ADDRESSES, TOKEN, TOPOLOGIES } from './machines.mjs';

/** The error that hostile code throws. The caller must get exactly this error. */
export class Hostile extends Error {}

const PAGE = 0x1000;
const REGISTERS = [0, 4, 8, 0x0c, 0x10, 0x20, 0x24, 0x34, 0x60, 0x64, 0x80, 0x88, 0x90, 0x98, 0x100];
const NUMBERS = [
  0,
  -0,
  1,
  -1,
  0.5,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  255,
  256,
  4095,
  4096,
  65536,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 47,
  2 ** 53 - 1,
  2 ** 53,
  2 ** 63,
  2 ** 64,
  Number.MAX_VALUE,
  Number.MIN_VALUE,
  -(2 ** 31),
  -(2 ** 53),
];
const BIGINTS = [
  0n,
  1n,
  -1n,
  4096n,
  2n ** 31n,
  2n ** 32n,
  2n ** 47n,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 4096n,
  2n ** 64n - 1n,
  2n ** 64n,
  2n ** 64n + 1n,
  -(2n ** 63n),
  2n ** 200n,
  -(2n ** 200n),
];
const LONG = 'x'.repeat(1 << 20);
const TEXTS = [
  '',
  'x',
  '0',
  '0x1000',
  '\0',
  '0000:00:10.0\0',
  '/dev/vfio/devices/vfio0\0x',
  '../../../etc',
  '__proto__',
  'constructor',
  'toString',
  '\ud800',
  '\u202e',
  '%s%n',
  '\x1b[31m',
  LONG,
  '0000:ff:1f.7',
  '-1',
  '{}',
  '[]',
];
const DRIVERS = ['vfio-pci', 'nvme', 'pci-stub', 'edu', 'none-such', 'mlx5_vfio_pci'];
const KERNELS = ['6.6', '6.8', '6.12', '6.18', '7.0', '7.3'];

/** Valid or nearly valid numbers, by the name of the parameter. */
const byName = {
  length: (random) => PAGE * (1 + random.below(8)),
  size: (random) => PAGE * (1 + random.below(16)),
  offset: (random) => random.pick([0, PAGE, 2 * PAGE, 8, 16]),
  pageSize: (random) => random.pick([PAGE, PAGE, PAGE, 1, 2 << 20]),
  o: (random) => random.pick(REGISTERS),
  v: (random) => random.pick([0, 1, 3, 5, 64, 0x40000, 0x100000, 0x200000, 0xff]),
  uid: (random) => random.pick([0, 0, 1000]),
  vectors: () => 1,
  vector: (random) => random.below(2),
  which: (random) => random.below(10),
  pasid: (random) => random.below(4),
  depth: (random) => 1 + random.below(4),
  timeout: (random) => random.below(3),
  count: (random) => random.below(5),
  npages: (random) => random.pick([1, 4, 512]),
  addrWidth: (random) => random.pick([48, 57]),
  virtId: (random) => random.below(16),
  index: (random) => random.below(3),
  cookie: (random) => random.below(3),
  id: (random) => random.below(12),
  iommu: () => 0,
  numaNode: () => 0,
  errno: (random) => random.below(134),
  memory: (random) => PAGE * random.below(1000),
};
const address = (random) =>
  random.pick([0x100000, 0x100000, 0x200000, 0x40000, 0xfee00000, PAGE * random.below(64)]);
for (const name of ['iova', 'start', 'addr', 'pgtblAddr']) byName[name] = address;
byName.last = (random) => address(random) + PAGE * (1 + random.below(4)) - 1;

const textByName = {
  bdf: (random) => random.pick(ADDRESSES),
  behind: (random) => random.pick(ADDRESSES),
  where: (random) => random.pick(ADDRESSES),
  driver: (random) => random.pick(DRIVERS),
  path: (random) =>
    random.pick(['/dev/vfio/devices/vfio0', '/dev/vfio/devices/vfio1', '/dev/iommu', '/dev/vfio/vfio']),
  token: () => TOKEN,
  vfToken: () => TOKEN,
  kernel: (random) => random.pick(KERNELS),
  name: (random) => random.pick(['root', 'eth0', 'sda']),
};

/** The address of memory that exists until the process ends, and that nothing else uses. */
let harmless = 0;
export const setHarmless = (address) => {
  harmless = address;
};

/**
 * Values that are never passed, with the reason: their documented effect is to end the process, to block it, or to change the
 * real machine. Such a value is replaced by `instead`.
 */
const EXCLUDED = [
  {
    because: "the machine's own devices and files are not for this",
    call: 'Host.open',
    name: 'backend',
    excludes: (value) => value === 'kernel' || value === 'auto',
    instead: 'software',
  },
  {
    because: 'pinning more than this takes the memory of the machine, as it is asked to',
    call: 'DmaBuffer.alloc',
    name: 'size',
    excludes: (value) => {
      const size = typeof value === 'bigint' ? Number(value) : value;
      return typeof size === 'number' && size > 64 << 20 && size < 2 ** 48;
    },
    instead: 1 << 20,
  },
  {
    because: 'devices write to memory that is named by its address: the caller answers for it',
    call: 'DmaBuffer.unsafeFromAddress',
    name: 'address',
    excludes: (value) => Number(value) >= 65536 && Number(value) < 2 ** 47 && Number(value) !== harmless,
    instead: 4096,
  },
  {
    because: 'devices write to memory that is named by its address: the caller answers for it',
    call: 'DmaBuffer.unsafeFromAddress',
    name: 'length',
    excludes: (value) => Number(value) > 16384 && Number(value) < 2 ** 60,
    instead: 4096,
  },
];

function allowed(call, name, value) {
  if (typeof value !== 'number' && typeof value !== 'bigint' && typeof value !== 'string') return value;
  for (const each of EXCLUDED)
    if (each.call === call && each.name === name && each.excludes(value)) return each.instead;
  return value;
}

const show = new WeakMap();
const named = (value, name) => {
  show.set(value, name);
  return value;
};

/** A value as text. Hostile values are not read, since that would run their code. */
export function shown(value, depth = 0) {
  switch (typeof value) {
    case 'bigint':
      return `${value}n`;
    case 'string':
      return value.length > 60 ? `'${value.slice(0, 20)}...' (${value.length})` : JSON.stringify(value);
    case 'symbol':
      return 'a symbol';
    case 'object':
    case 'function': {
      if (value === null) return 'null';
      const name = show.get(value);
      if (name !== undefined) return name;
      if (depth > 3) return '...';
      // Only plain values that were made here reach this line.
      if (Array.isArray(value)) return `[${value.map((each) => shown(each, depth + 1)).join(', ')}]`;
      if (Object.getPrototypeOf(value) !== Object.prototype) return `a ${typeof value}`;
      const members = Object.entries(Object.getOwnPropertyDescriptors(value));
      return `{ ${members.map(([key, { value: each }]) => `${key}: ${shown(each, depth + 1)}`).join(', ')} }`;
    }
    default:
      return Object.is(value, -0) ? '-0' : String(value);
  }
}

/** The values of one call. `session` contains the live objects and runs the actions of hostile values. */
export class Values {
  #session;
  #random;
  #call;

  constructor(session, random, call) {
    this.#session = session;
    this.#random = random;
    this.#call = call;
  }

  /** The arguments of a call with these parameters. */
  arguments(parameters) {
    const random = this.#random;
    const mode = random.below(20);
    const given = [];
    for (const { name, optional, rest, type, bound } of parameters) {
      if (optional && random.chance(0.3)) break;
      given.push(mode < 2 ? this.hostile(name) : this.right(type, name, bound));
      if (rest && random.chance(0.5)) given.push(this.right(type, name, bound));
    }
    if (mode >= 2 && mode < 8 && given.length > 0) {
      const at = random.below(given.length);
      given[at] = random.chance(0.5)
        ? this.hostile(parameters[at].name)
        : this.#spoilt(given[at], parameters[at].name);
    }
    if (mode === 8) given.length = random.below(given.length + 1);
    if (mode === 9) given.push(this.hostile());
    return given.map((each, at) => allowed(this.#call, parameters[at]?.name, each));
  }

  /** A valid value of a type. `name`: the name of the parameter. */
  right(type, name, bound = new Map(), depth = 0) {
    const random = this.#random;
    if (depth > 6) return undefined;
    const again = (other, its = name) => this.right(other, its, bound, depth + 1);
    switch (type.is) {
      case 'literal':
        return type.value;
      case 'union':
        return again(random.pick(type.of));
      case 'all':
        return Object.assign({}, ...type.of.map((each) => again(each)));
      case 'array':
        return Array.from({ length: random.below(4) }, () => again(type.of));
      case 'tuple':
        return type.of.map((each) => again(each));
      case 'object':
        return this.#record(type.members, bound, depth);
      case 'function':
        return this.#listener();
      case 'constant': {
        const alias = this.#session.declarations.get(type.name)?.alias;
        return alias === undefined ? this.hostile(name) : again(alias);
      }
      case 'at': {
        const members = this.#membersOf(type.object);
        const found = members === undefined ? undefined : random.pick([...members.values()]).type;
        if (found !== undefined) return again(found);
        const list =
          type.object.is === 'constant'
            ? this.#session.declarations.get(type.object.name)?.alias
            : type.object;
        return list?.is === 'tuple' ? again(random.pick(list.of)) : this.hostile(name);
      }
      case 'name':
        return this.#named(type, name, bound, depth);
      default:
        return this.hostile(name);
    }
  }

  #membersOf(type) {
    if (type.is === 'object') return type.members;
    const declared = type.is === 'name' ? this.#session.declarations.get(type.name) : undefined;
    return declared?.members ?? (declared?.alias?.is === 'object' ? declared.alias.members : undefined);
  }

  #named(type, name, bound, depth) {
    const random = this.#random;
    const again = (other) => this.right(other, name, bound, depth + 1);
    switch (type.name) {
      case 'number':
        return this.#number(name);
      case 'bigint':
        return BigInt(Math.trunc(this.#number(name)));
      case 'string':
        return (textByName[name] ?? (() => random.pick([...ADDRESSES, ...DRIVERS])))(random);
      case 'boolean':
        return random.chance(0.5);
      case 'null':
        return null;
      case 'undefined':
      case 'void':
        return undefined;
      case 'Uint8Array':
        return this.#session.bytes(random);
      case 'AbortSignal':
      case 'Signal':
        return this.#signal();
      case 'Topology':
        return random.pick(TOPOLOGIES);
      case 'Partial':
      case 'Readonly':
      case 'Required':
      case 'Omit':
      case 'Pick':
      case 'Promise':
        return type.of.length > 0 ? again(type.of[0]) : this.hostile(name);
      default:
    }
    const stands = bound.get(type.name);
    if (stands !== undefined) return again(stands);
    const live = this.#session.liveOf(type.name, random);
    if (live !== undefined) return live;
    const declared = this.#session.declarations.get(type.name);
    if (declared?.alias !== undefined) return again(declared.alias);
    // No live object has this interface, so an object is made. No object of a class can be made here.
    if (declared?.members !== undefined && !declared.members.has('#private')) {
      const inherited = declared.bases.flatMap((each) => [...(this.#membersOf(each) ?? [])]);
      return this.#record(new Map([...inherited, ...declared.members]), bound, depth);
    }
    return this.hostile(name);
  }

  #record(members, bound, depth) {
    const made = {};
    for (const [key, { type, optional }] of members) {
      if (type === undefined || (optional && this.#random.chance(0.6))) continue;
      made[key] = allowed(this.#call, key, this.right(type, key, bound, depth + 1));
    }
    return made;
  }

  #number(name) {
    const random = this.#random;
    if (name === 'fd') return this.#session.descriptor(random);
    if (name === 'id' && random.chance(0.5)) return this.#session.id(random);
    if (name === 'address') return harmless;
    return (byName[name] ?? (() => random.below(9)))(random);
  }

  #signal() {
    const random = this.#random;
    const control = new AbortController();
    const abort = () => control.abort(new Hostile('aborted'));
    const when = random.below(4);
    if (when < 2) abort();
    else if (when === 2) setImmediate(abort);
    return named(control.signal, 'an AbortSignal');
  }

  #listener() {
    const act = this.#act();
    let calls = 0;
    return named(() => {
      // The number of calls is limited, because a listener whose calls cause it to be called would never end.
      if (calls++ < 20) act();
    }, 'a listener');
  }

  /** The action of a hostile value. It runs at most twice. */
  #act() {
    const random = this.#random;
    const kind = random.below(16);
    const session = this.#session;
    const salt = random.next();
    let left = 2;
    return () => {
      if (left-- > 0) session.act(kind, salt);
    };
  }

  /** The same value, but reading it runs hostile code. */
  #spoilt(value, name) {
    const random = this.#random;
    const act = this.#act();
    if (Array.isArray(value)) {
      const at = random.below(value.length + 1);
      const list = [...value];
      switch (random.below(5)) {
        case 0:
          list.length += 1 + random.below(3);
          return named(list, `an array with holes: ${shown(value)}`);
        case 1: {
          const last = value[at];
          Object.defineProperty(list, at, {
            get() {
              act();
              list.length = 0;
              return last;
            },
          });
          return named(list, `an array with a getter at ${at}: ${shown(value)}`);
        }
        case 2:
          list[at] = this.hostile(name);
          return list;
        case 3:
          list[Symbol.iterator] = () => {
            act();
            return value[Symbol.iterator]();
          };
          return named(list, `an array with an iterator of its own: ${shown(value)}`);
        default:
          return this.#proxied(value, act);
      }
    }
    if (typeof value === 'object' && value !== null) {
      const keys = Object.keys(value);
      if (keys.length === 0 || random.chance(0.2)) return this.#proxied(value, act);
      const key = random.pick(keys);
      if (Object.getPrototypeOf(value) === Object.prototype && random.chance(0.5))
        return { ...value, [key]: allowed(this.#call, key, this.hostile(key)) };
      const copy = Object.create(Object.getPrototypeOf(value), Object.getOwnPropertyDescriptors(value));
      const its = value[key];
      Object.defineProperty(copy, key, {
        get() {
          act();
          return its;
        },
        enumerable: true,
        configurable: true,
      });
      return named(copy, `${shown(value)} with a getter of ${key}`);
    }
    return this.hostile(name);
  }

  #proxied(value, act) {
    const handler = {};
    for (const trap of ['get', 'has', 'ownKeys', 'getOwnPropertyDescriptor', 'getPrototypeOf'])
      handler[trap] = (...args) => {
        act();
        return Reflect[trap](...args);
      };
    return named(new Proxy(value, handler), `a Proxy of ${shown(value)}`);
  }

  /** A hostile value of any type. */
  hostile(name) {
    return allowed(this.#call, name, this.#anything());
  }

  #anything() {
    const random = this.#random;
    const session = this.#session;
    switch (random.below(26)) {
      case 0:
        return undefined;
      case 1:
        return null;
      case 2:
      case 3:
        return random.pick(NUMBERS);
      case 4:
      case 5:
        return random.pick(BIGINTS);
      case 6:
        return random.pick(TEXTS);
      case 7:
        return Symbol('hostile');
      case 8:
        return random.chance(0.5);
      case 9:
        return named(() => 0, 'a function');
      case 10:
      case 11:
        return session.anyLive(random);
      case 12: {
        const real = session.anyLive(random);
        return named(new Proxy(real, {}), `a Proxy of ${shown(real)}`);
      }
      case 13: {
        const real = session.anyLive(random);
        return named(Object.create(real), `Object.create(${shown(real)})`);
      }
      case 14:
        return session.anyPrototype(random, named);
      case 15: {
        const { proxy, revoke } = Proxy.revocable({}, {});
        revoke();
        return named(proxy, 'a revoked Proxy');
      }
      case 16: {
        const cycle = {};
        cycle.self = cycle;
        cycle.devices = [cycle];
        return named(cycle, 'an object that contains itself');
      }
      case 17:
        return session.bytes(random);
      case 18: {
        const bytes = new Uint8Array(64);
        structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
        return named(bytes, 'a Uint8Array whose buffer was transferred');
      }
      case 19: {
        const act = this.#act();
        const number = random.pick(NUMBERS);
        const turn = () => {
          act();
          return number;
        };
        return named(
          { valueOf: turn, toString: turn, [Symbol.toPrimitive]: turn },
          `an object that turns into ${number}`,
        );
      }
      case 20:
        return named(new Array(3), 'an array of holes');
      case 21:
        return named({ length: 2 ** 32 - 1, 0: {} }, 'an array-like of 2^32-1');
      case 22:
        return this.#proxied({}, this.#act());
      case 23:
        return random.pick(
          [new Date(0), /x/, new Map(), new Error('x')].map((each) =>
            named(each, `a ${each.constructor.name}`),
          ),
        );
      case 24: {
        const act = this.#act();
        const thenable = {};
        Reflect.set(thenable, 'then', (resolve) => {
          act();
          resolve?.();
        });
        return named(thenable, 'a thenable');
      }
      default:
        return {};
    }
  }
}

/** Tells {@link shown} how to call an object. */
export const name = named;
/** The values that are never passed, and the reasons. */
export const exclusions = EXCLUDED.map(
  ({ call, name: parameter, because }) => `${call}, ${parameter}: ${because}`,
);
