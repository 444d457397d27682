/**
 * A program may change the language's runtime: the stacks of errors, and the methods of the built-in classes. The results of
 * this package are the same, and none of these methods gets hold of an object of the addon, whose calls trust the addresses that
 * they are given.
 */
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { needs } from './support/backends.ts';
import { run } from './support/program.ts';

/** Runs a program that uses the whole API, after `change`. Returns its results; `found`: what the change has noticed. */
async function walk(change: string): Promise<{ told: string[]; found: string[] }> {
  const { stdout, stderr, code } = await run(`
    import { tour } from ${JSON.stringify(join(import.meta.dirname, 'support/tour.mjs'))};
    const told = [];
    const found = new Set();
    const original = Error.prepareStackTrace;
    ${change}
    await tour(vfio, (name, came) => { told[told.length] = name + ' => ' + came; });
    Error.prepareStackTrace = original;
    globalThis.restore?.();
    console.log(JSON.stringify({ told, found: [...found] }));
  `);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return JSON.parse(stdout) as { told: string[]; found: string[] };
}

let unchanged: Promise<string[]> | undefined;
function usual(): Promise<string[]> {
  unchanged ??= walk('').then(({ told }) => told);
  return unchanged;
}

describe('a program that changes stack traces', () => {
  needs({ backends: ['software'], because: 'the walk needs machines of several kinds' });

  const changes: Record<string, string> = {
    'prepareStackTrace gives the frames': 'Error.prepareStackTrace = (_, frames) => frames;',
    'prepareStackTrace gives nothing': 'Error.prepareStackTrace = () => undefined;',
    'prepareStackTrace gives a number': 'Error.prepareStackTrace = () => 5;',
    'prepareStackTrace throws': `Error.prepareStackTrace = () => { throw new TypeError('on purpose'); };`,
    'stackTraceLimit is 0': 'Error.stackTraceLimit = 0;',
    'stackTraceLimit is no number': `Error.stackTraceLimit = 'all';`,
    'captureStackTrace throws': `Error.captureStackTrace = () => { throw new TypeError('on purpose'); };`,
  };
  for (const [name, change] of Object.entries(changes))
    test(`${name}: the results are the same`, async () => {
      expect((await walk(change)).told).toEqual(await usual());
    });
});

describe('a program that replaces the methods of built-in classes', () => {
  needs({ backends: ['software'], because: 'the walk needs machines of several kinds' });

  /** Replaces each method by one that examines its arguments and its result, and what these contain. */
  const watched = `
    const { apply, ownKeys, getOwnPropertyDescriptor, defineProperty, getPrototypeOf } = Reflect;
    const isNative = (value) => {
      if (typeof value !== 'object' || value === null) return false;
      try {
        const made = getOwnPropertyDescriptor(getPrototypeOf(value) ?? {}, 'constructor')?.value;
        return typeof made === 'function' && NATIVE.has(made.name) && nativeCode(made);
      } catch {
        return false;
      }
    };
    const text = Function.prototype.toString;
    const includes = String.prototype.includes;
    const nativeCode = (made) => apply(includes, apply(text, made, []), ['[native code]']) && made.prototype !== undefined && getOwnPropertyDescriptor(made.prototype, 'dispose') !== undefined;
    const NATIVE = { has: (name) => name.endsWith('File') || name === 'Host' || name === 'Memory' || name === 'Mapped' || name === 'EventFd' || name === 'Watch' };
    const inside = (value, depth) => {
      if (isNative(value)) return true;
      if (depth === 0 || value === null || typeof value !== 'object') return false;
      if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return false;
      const keys = ownKeys(value);
      for (let i = 0; i < keys.length && i < 50; i++) {
        const descriptor = getOwnPropertyDescriptor(value, keys[i]);
        if (descriptor !== undefined && 'value' in descriptor && inside(descriptor.value, depth - 1)) return true;
      }
      return false;
    };
    const caller = () => /\\/lib\\/([^:]+:\\d+)/.exec(new Error().stack)?.[1];
    const undo = [];
    let busy = false;
    const watch = (owner, name) => {
      const keys = ownKeys(owner);
      for (let i = 0; i < keys.length; i++) {
        const key = keys[i];
        const descriptor = getOwnPropertyDescriptor(owner, key);
        if (key === 'constructor' || typeof descriptor.value !== 'function' || !descriptor.configurable) continue;
        const method = descriptor.value;
        const label = name + '.' + String(key);
        const spy = { method(...args) {
          const result = apply(method, this, args);
          if (!busy) {
            busy = true;
            try {
              if (inside(this, 2) || inside(args, 3) || inside(result, 2)) apply(add, found, [label + ' of ' + caller()]);
            } finally {
              busy = false;
            }
          }
          return result;
        } }.method;
        undo[undo.length] = () => defineProperty(owner, key, descriptor);
        defineProperty(owner, key, { ...descriptor, value: spy });
      }
    };
    const add = Set.prototype.add;
    const iterators = [[], new Map(), new Set()].map((each) => getPrototypeOf(each[Symbol.iterator]()));
    const owners = { Array, Map, Set, WeakMap, WeakSet, WeakRef, FinalizationRegistry, Promise };
    for (const [name, owner] of Object.entries(owners)) CHOSEN.includes(name) && watch(owner.prototype, name);
    if (CHOSEN.includes('iterators')) iterators.forEach((each) => watch(each, each[Symbol.toStringTag]));
    globalThis.restore = () => { for (let i = 0; i < undo.length; i++) undo[i](); };
  `;

  for (const chosen of [
    'WeakMap',
    'WeakSet',
    'WeakRef',
    'FinalizationRegistry',
    'Map',
    'Set',
    'Array',
    'iterators',
    'Promise',
  ])
    test(`${chosen}: it gets no object of the addon, and the results are the same`, async () => {
      const { told, found } = await walk(`const CHOSEN = [${JSON.stringify(chosen)}];${watched}`);
      expect(found).toEqual([]);
      expect(told).toEqual(await usual());
    });

  test('the check of this test would notice such an object', async () => {
    const { found } = await walk(
      `const CHOSEN = ['WeakMap', 'Array'];${watched}
      const { createRequire } = await import('node:module');
      const at = createRequire(PACKAGE)('node-gyp-build').resolve(new URL('../..', PACKAGE).pathname);
      const addon = { exports: {} };
      process.dlopen(addon, at);
      const file = new addon.exports.Host('software').open('/dev/iommu', 'iommufd', false);
      new WeakMap().set({}, { file });
      [file].map((each) => each.fd);`,
    );
    expect(found).toEqual(
      expect.arrayContaining([expect.stringContaining('WeakMap.set'), expect.stringContaining('Array.map')]),
    );
  });
});
