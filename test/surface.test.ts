/**
 * Every member that a program can call is documented: no object that it can reach from the package's entry has a member at run
 * time that its types do not declare. For a program in JavaScript, `protected`, `private` and @internal hide nothing.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { DmaBuffer, Host } from '../lib/index.ts';
import { apiOf } from './support/api.ts';
import { EDU, needs } from './support/backends.ts';
import { callsOf, classes } from './support/surface.ts';

const types = join(import.meta.dirname, '../dist/lib');

test('the exported names, members and types are those of api.txt', async (ctx) => {
  needs(ctx, { backends: ['software'], because: 'it reads the declarations' });
  // After an intended change: npx vitest run test/surface.test.ts --update
  await expect(apiOf(types)).toMatchFileSnapshot('api.txt');
});

test('no exported class has more than 20 methods, inherited ones among them', (ctx) => {
  needs(ctx, { backends: ['software'], because: 'the classes are the same on both' });
  const counts = Object.values(classes).map((each) => {
    const methods = callsOf(each.prototype).filter(({ kind }) => kind === 'method');
    return [each.name, new Set(methods.map(({ key }) => key)).size] as const;
  });
  expect(counts.filter(([, count]) => count > 20)).toEqual([]);
});

/** The public members that the package's types declare, by class. */
function declared(): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>();
  const files = readdirSync(types, { recursive: true, encoding: 'utf8' });
  for (const file of files.filter((name) => name.endsWith('.d.ts'))) {
    const text = readFileSync(join(types, file), 'utf8');
    for (const [, name = '', body = ''] of text.matchAll(
      /^export declare (?:abstract )?class (\w+).*? \{\n(.*?)^\}/gms,
    )) {
      // What programs extend has protected members for them.
      const hidden = name === 'SimulatedDevice' ? 'private' : 'private|protected';
      const member = `^ {4}(?!${hidden}|/|\\*)(?:(?:static|protected|readonly|abstract|get|set|async) )*(\\w+|\\[[\\w.]+\\])[?(<:;]`;
      const members = [...body.matchAll(new RegExp(member, 'gm'))];
      found.set(name, new Set(members.map(([, member = '']) => member)));
    }
  }
  return found;
}

/** The members that the types declare for an object: those of its class and its base classes. */
function inherited(known: ReadonlyMap<string, Set<string>>, object: object): string[] {
  const found: string[] = [];
  for (let each: unknown = object.constructor; typeof each === 'function'; each = Object.getPrototypeOf(each))
    found.push(...(known.get(each.name) ?? []));
  return found;
}

type Class = abstract new (...args: never[]) => object;

/** Objects of every class whose constructor a program can reach, also of classes without a name. */
async function reachable(): Promise<{ classes: Map<string, Class>; objects: object[] }> {
  const host = Host.open({ backend: 'software' });
  await host.device(EDU).bind();
  const { device, dma } = host.attach(EDU);
  const iommufd = device.iommufd!;
  const memory = DmaBuffer.alloc(8192);
  const container = host.openContainer();
  const irq = device.irq('msi');
  const objects: object[] = [
    ...[
      host,
      device,
      dma,
      iommufd,
      memory,
      container,
      irq,
      device.config,
      device.region(0),
      host.device(EDU),
    ],
    ...[dma.map(memory), irq.enable(1)[0]!, device.region(0).mmap(), host.groups()[0]!, iommufd.container()],
    ...[iommufd.allocFaultQueue(), iommufd.allocHwpt({ device, parent: iommufd.allocIoas() })],
    iommufd.vfioCompatIoas ?? memory,
  ];
  const found = new Map<string, Class>();
  for (const first of [...Object.values(classes), ...objects.map((each) => each.constructor as Class)])
    for (
      let each = first;
      each !== Function.prototype && each !== Error;
      each = Object.getPrototypeOf(each) as Class
    )
      if (each !== Object) found.set(each.name, each);
  host[Symbol.dispose]();
  return { classes: found, objects };
}

const names = (of: object, but: readonly string[]) =>
  Reflect.ownKeys(of)
    .map((key) =>
      typeof key === 'symbol' ? `[${String(key.description).replace(/^nodejs\./, 'Symbol.')}]` : key,
    )
    .filter((name) => !but.includes(name));

test('no class that can be reached has a member that its types do not declare', async (ctx) => {
  needs(ctx, { backends: ['software'], because: 'the classes are the same on both' });
  const known = declared();
  const all = (await reachable()).classes;
  expect([...all.keys()]).toEqual(
    expect.arrayContaining([...Object.keys(classes), 'Handle', 'SpaceMapping']),
  );
  const strange = [...all].flatMap(([name, made]) => [
    ...names(made.prototype, ['constructor', ...(known.get(name) ?? [])]).map(
      (member) => `${name}.${member}`,
    ),
    ...names(made, ['prototype', 'name', 'length', ...(known.get(name) ?? [])]).map(
      (member) => `static ${name}.${member}`,
    ),
  ]);
  expect(strange).toEqual([]);
});

test('no object has a property of its own that its types do not declare', async (ctx) => {
  needs(ctx, { backends: ['software'], because: 'the classes are the same on both' });
  const known = declared();
  const strange = (await reachable()).objects.flatMap((object) => {
    const { name } = object.constructor;
    return names(object, inherited(known, object)).map((member) => `${name}.${member}`);
  });
  expect(strange).toEqual([]);
});

test('no class that can be reached makes an object for a caller without the key', async (ctx) => {
  needs(ctx, { backends: ['software'], because: 'the classes are the same on both' });
  const all = (await reachable()).classes;
  // Programs may make these themselves.
  for (const name of ['VfioError', 'RegisterBank', 'SimulatedDevice', 'registers', 'view'])
    expect(all.delete(name), name).toBe(true);
  const made = [...all].filter(([, each]) => {
    try {
      Reflect.construct(each, [undefined, undefined, undefined, undefined, undefined]);
      return true;
    } catch (error) {
      return !/^Expected this package to make/.test((error as Error).message);
    }
  });
  expect(made.map(([name]) => name)).toEqual([]);
});
