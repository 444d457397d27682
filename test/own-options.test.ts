/**
 * Only an object's own properties are taken for options and data. If an attack has written to Object.prototype (prototype
 * pollution), every object seems to have a property such as `force: true`.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { Host } from '../lib/index.ts';
import { needs } from './support/backends.ts';
import { run } from './support/program.ts';

const lib = join(import.meta.dirname, '../lib');
const sources = readdirSync(lib, { recursive: true, encoding: 'utf8' }).filter((name) =>
  name.endsWith('.ts'),
);

/** Every name that is optional in an object of lib/, or that is read from options: these are more names than the API has. */
function names(): string[] {
  const found = new Set<string>();
  for (const file of sources) {
    const text = readFileSync(join(lib, file), 'utf8');
    for (const [, name = ''] of text.matchAll(/\b(\w+)\?:/g)) found.add(name);
    for (const [, list = ''] of text.matchAll(/\{([^{}]*)\} = (?:options|known|ownOf)\(/g))
      for (const [, name = ''] of list.matchAll(/(\w+)(?: = [^,]*)?(?:,|$)/g)) found.add(name);
  }
  // Whoever awaits an object reads its `then`, whatever this package does.
  return [...found].filter((name) => name !== '' && name !== 'then').sort();
}

/** Runs the test program with each of these names on Object.prototype. `reads`: where a module of this package read one. */
async function walk(
  polluted: readonly string[],
  value: string,
): Promise<{ told: string[]; reads: string[] }> {
  const { stdout, stderr, code } = await run(`
    import { tour } from ${JSON.stringify(join(import.meta.dirname, 'support/tour.mjs'))};
    const told = [];
    const reads = new Set();
    let looking = false;
    for (const name of ${JSON.stringify(polluted)})
      Object.defineProperty(Object.prototype, name, {
        __proto__: null, // else it would inherit 'writable', which an accessor must not have
        configurable: true,
        get() {
          if (looking) return undefined;
          looking = true;
          // A read by Node's own modules counts too, if it is from an object of this package. node:fs reads its own objects.
          const frames = new Error().stack.split('\\n').slice(2);
          looking = false;
          const at = frames.findIndex((frame) => !frame.includes('node:'));
          const caller = frames[at] ?? '';
          if (!caller.includes('/dist/') || frames[at - 1]?.includes('node:fs')) return undefined;
          reads.add(name + caller.replace(/^.*[/]dist[/]|:\\d+[)]?$/g, ' '));
          return ${value};
        },
        set(value) {
          Object.defineProperty(this, name, { value, writable: true, enumerable: true, configurable: true });
        },
      });
    await tour(vfio, (name, came) => told.push(name + ' => ' + came));
    for (const name of ${JSON.stringify(polluted)}) delete Object.prototype[name];
    console.log(JSON.stringify({ told, reads: [...reads] }));
  `);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return JSON.parse(stdout) as { told: string[]; reads: string[] };
}

describe('options', () => {
  const open = (o: unknown) => Host.open(o as never)[Symbol.dispose]();
  const refused = (o: unknown, words: RegExp) =>
    expect(() => open(o)).toThrow(
      expect.objectContaining({ name: 'TypeError', message: expect.stringMatching(words) }),
    );

  test('are plain objects, of any realm, with or without a prototype', () => {
    const { backend } = { backend: 'software' };
    for (const o of [
      { backend },
      Object.assign(Object.create(null), { backend }),
      runInNewContext(`({ backend: 'software' })`),
    ])
      open(o);
  });

  test('that are instances of a class are refused, since what it inherits would not be read', () => {
    class Chosen {
      get backend() {
        return 'software';
      }
    }
    refused(new Chosen(), /^Expected a plain object for options but received Chosen \{\}$/);
    refused(Object.create({ backend: 'software' }), /^Expected a plain object for options/);
    refused(new Map([['backend', 'software']]), /^Expected a plain object for options/);
  });

  test('are read once each, before anything is done', () => {
    const reads: string[] = [];
    const sly = (object: object) =>
      new Proxy(object, {
        get(target, key, receiver) {
          reads.push(String(key));
          return Reflect.get(target, key, receiver);
        },
      });
    open(sly({ backend: 'software', software: sly({ kernel: '6.12', topology: sly({ devices: [] }) }) }));
    expect(reads).toEqual(['backend', 'software', 'kernel', 'topology', 'devices']);
  });
});

describe('properties of Object.prototype are not taken for options', () => {
  needs({ backends: ['software'], because: 'the walk needs machines of several kinds' });

  test('the names are those of the API', () => {
    expect(names()).toEqual(
      expect.arrayContaining([
        'force',
        'iova',
        'read',
        'unsafeNoIommu',
        'via',
        'leaf',
        'hint',
        'topology',
        'signal',
      ]),
    );
    expect(names().length).toBeGreaterThan(100);
  });

  test('the test program makes each call that has options', async () => {
    const { told } = await walk([], 'undefined');
    const walked = new Set(told.map((line) => line.replace(/^(?:\w+\.)?(\w+).*/s, '$1')));
    const calls = sources.flatMap((file) =>
      [
        ...readFileSync(join(lib, file), 'utf8').matchAll(
          /^ {2}(?:static |async )*(\w+)(?:<[^>]*>)?\((.*\b(?:o|fault|ranges|entries|where)\??: .*)\{$/gm,
        ),
      ].flatMap(([, name = '', rest = '']) =>
        /\bo: number|NativeSpaceCalls|MapLater|Usable|^\): /.test(rest) ? [] : name,
      ),
    );
    expect(calls.length).toBeGreaterThan(35);
    expect(calls.filter((name) => !walked.has(name))).toEqual([]);
  });

  test('a toJSON that a program gives to bigint does not change a topology', () => {
    const prototype = BigInt.prototype as { toJSON?: () => string };
    prototype.toJSON = function (this: bigint) {
      return this.toString();
    };
    try {
      const bars = [{ kind: 'memory64' as const, size: 0x4000n }];
      const ids = { vendor: 0x1af4n, device: 0x1000n, classCode: 0xff0000n };
      using host = Host.open({
        backend: 'software',
        software: {
          topology: {
            iommus: [{ kind: 'vtd', apertures: [{ start: 0n, last: 2n ** 57n - 1n }] }],
            devices: [{ model: 'passive', bdf: '0000:00:05.0', ...ids, bars }],
          },
        },
      });
      expect(host.device('0000:00:05.0')).toMatchObject({
        vendor: 0x1af4,
        device: 0x1000,
        classCode: 0xff0000,
      });
    } finally {
      delete prototype.toJSON;
    }
  });

  for (const value of ['true', '7', "'polluted'", '{}'])
    test(`${value} under every name: no module of this package reads them, and the results are the same`, async () => {
      const clean = await walk([], value);
      const polluted = await walk(names(), value);
      expect(polluted.reads).toEqual([]);
      expect(polluted.told).toEqual(clean.told);
    });
});
