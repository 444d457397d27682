/** Every call of the public API, found by looking: so that a test can demand that it knows them all. */
import * as vfio from '../../lib/index.ts';

export interface Call {
  /** As in 'Ioas.map', 'Ioas.hugePages' (a getter), 'Ioas.hugePages=' (a setter) or 'static DmaBuffer.alloc'. */
  readonly name: string;
  readonly kind: 'method' | 'getter' | 'setter' | 'static';
  readonly owner: string;
  readonly key: string | symbol;
  // biome-ignore lint/complexity/noBannedTypes: whatever the class has.
  readonly call: Function;
}

type Class = abstract new (...args: never[]) => object;

/** What lib/index.ts exports at run time: all classes. */
export const classes: Readonly<Record<string, Class>> = Object.fromEntries(
  Object.entries(vfio).filter(([, value]) => typeof value === 'function'),
) as Record<string, Class>;

// Older versions of Node describe their own Symbol.dispose otherwise.
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

/** The calls of one class, inherited ones under the name of the class that has them. */
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

/** All of them, each once, by name. */
export function surface(): ReadonlyMap<string, Call> {
  const found = Object.values(classes).flatMap((each) => [...callsOf(each.prototype), ...staticsOf(each)]);
  return new Map(found.map((call) => [call.name, call]));
}

/** Reachable from JavaScript, but no part of the API: the package's own use. None may crash. */
export const internal: readonly string[] = [
  'static Handle.made',
  'Handle.alive',
  'Handle.children',
  'Handle.livingChildren',
  'Handle.join',
  'Handle.part',
  'Host.release',
  'Iommufd.release',
  'Iommufd.differs',
  'Iommufd.keep',
  'Iommufd.ioasOf',
  'Iommufd.bound',
  'Iommufd.usersOf',
  'Iommufd.ownDevice',
  'AddressSpace.release',
  'AddressSpace.mapRequest',
  'AddressSpace.explainMap',
  'AddressSpace.wordsForMap',
  'Ioas.pinned',
  'IommufdObject.leave',
  'IommufdObject.release',
  'RecordQueue.leave',
  'RecordQueue.release',
  'FaultQueue.read',
  'VeventQueue.read',
  'Container.release',
  'Container.joined',
  'Container.left',
  'Group.release',
  'VfioDevice.release',
  'VfioDevice.isAttachedTo',
  'MappedRegion.release',
  'Irq.disconnect',
  'Irq.forget',
  'Interrupt.abandon',
  'Interrupt.fired',
  'Interrupt.release',
];
