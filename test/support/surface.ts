/** Finds every call of the public API in the exports, so that a test can check that it knows all of them. */
import * as vfio from '../../lib/index.ts';

export interface Call {
  /** As in 'Ioas.map', 'Ioas.hugePages' (a getter), 'Ioas.hugePages=' (a setter) or 'static DmaBuffer.alloc'. */
  readonly name: string;
  readonly kind: 'method' | 'getter' | 'setter' | 'static';
  readonly owner: string;
  readonly key: string | symbol;
  // biome-ignore lint/complexity/noBannedTypes: it may be any function of the class.
  readonly call: Function;
}

type Class = abstract new (...args: never[]) => object;

/** The classes that lib/index.ts exports. */
export const classes: Readonly<Record<string, Class>> = Object.fromEntries(
  Object.entries(vfio).filter(([, value]) => typeof value === 'function'),
) as Record<string, Class>;

// Older versions of Node have another description for their own Symbol.dispose.
const shown = (key: string | symbol) =>
  key === Symbol.dispose ? '[Symbol.dispose]' : typeof key === 'symbol' ? `[${key.description}]` : key;

function own(owner: string, from: object): Call[] {
  return Reflect.ownKeys(from).flatMap((key): Call[] => {
    if (key === 'constructor') return [];
    const { get, set, value } = Object.getOwnPropertyDescriptor(from, key) ?? {};
    const name = `${owner}.${shown(key)}`;
    const found: Call[] = [];
    if (get) found.push({ name, kind: 'getter', owner, key, call: get });
    if (set) found.push({ name: `${name}=`, kind: 'setter', owner, key, call: set });
    if (typeof value === 'function') found.push({ name, kind: 'method', owner, key, call: value });
    return found;
  });
}

/** The calls of one class. An inherited call has the name of the class that defines it. */
export function callsOf(prototype: object): Call[] {
  const found: Call[] = [];
  for (
    let each = prototype;
    each && each !== Object.prototype && each !== Error.prototype;
    each = Object.getPrototypeOf(each)
  )
    found.push(...own(each.constructor.name, each));
  return found;
}

function staticsOf(of: Class): Call[] {
  const found: Call[] = [];
  for (
    let each: object = of;
    each && each !== Function.prototype && each !== Error;
    each = Object.getPrototypeOf(each)
  )
    for (const call of own((each as Class).name, each))
      if (call.kind === 'method') found.push({ ...call, name: `static ${call.name}`, kind: 'static' });
  return found;
}

/** All calls of the API by name, each once. */
export function surface(): ReadonlyMap<string, Call> {
  const found = Object.values(classes).flatMap((each) => [...callsOf(each.prototype), ...staticsOf(each)]);
  return new Map(found.map((call) => [call.name, call]));
}
