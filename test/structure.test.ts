/**
 * Dependencies only go down: the table of docs/architecture.md must allow each import and each #include, imports of types
 * too. In addition, the linter (suspicious/noImportCycles) refuses circles of files.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { needs } from './support/backends.ts';

needs({ backends: ['software'], because: 'it reads the sources' });

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Each folder of the table, with the folders that it may use. */
function tableOf(text: string): Map<string, Set<string>> {
  const section = /^## Where a line belongs$.*?^## /ms.exec(text)?.[0] ?? '';
  const rows = [...section.matchAll(/^\| `([\w/]+)` \|.*\|([^|]*)\|$/gm)];
  return new Map(rows.map(([, folder = '', uses = '']) => [folder, new Set(uses.match(/[\w/]+/g) ?? [])]));
}

/** The row that a folder belongs to: its own, or that of the nearest folder above. */
function rowOf(folder: string, table: Map<string, Set<string>>): string | undefined {
  for (let at = folder; at !== '.'; at = posix.dirname(at)) if (table.has(at)) return at;
  return undefined;
}

/** The files that a source file imports or includes, as paths from the root. */
function importsOf(path: string, text: string): string[] {
  const pattern = path.endsWith('.ts')
    ? /(?:\bfrom|\bimport\(?)\s*'(\.[^']+)'/g
    : /^\s*#\s*include\s+"([^"]+)"/gm;
  return [...text.matchAll(pattern)].map(([, to = '']) => posix.join(posix.dirname(path), to));
}

/** The dependencies that the table does not allow, in words. */
function wrongIn(path: string, text: string, table: Map<string, Set<string>>): string[] {
  const from = rowOf(posix.dirname(path), table);
  if (from === undefined) return [`${path} is in a folder that the table lacks`];
  return importsOf(path, text).flatMap((to) => {
    const target = rowOf(posix.dirname(to), table);
    if (target === from || (target !== undefined && table.get(from)?.has(target))) return [];
    return [`${path} may not use ${to}`];
  });
}

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|cc|h|md)$/.test(name))
    .map((name) => posix.join(folder, name));
}

const table = tableOf(readFileSync(join(root, 'docs/architecture.md'), 'utf8'));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const files = ['lib', 'cli', 'bin', 'examples', 'native']
  .flatMap(sources)
  .filter((path) => !path.endsWith('.md'));

test('every import and include is allowed by the table of docs/architecture.md', () => {
  expect(files.flatMap((path) => wrongIn(path, read(path), table))).toEqual([]);
});

test('the table has no circle, and no row without a file', () => {
  const done = new Set<string>();
  const visit = (folder: string, above: readonly string[]): void => {
    expect(above, `a circle: ${[...above, folder].join(' -> ')}`).not.toContain(folder);
    if (done.has(folder)) return;
    for (const next of table.get(folder) ?? []) visit(next, [...above, folder]);
    done.add(folder);
  };
  for (const folder of table.keys()) visit(folder, []);
  const used = new Set(files.map((path) => rowOf(posix.dirname(path), table)));
  expect([...table.keys()].filter((folder) => !used.has(folder))).toEqual([]);
});

test.each([...table.keys()])('an upward arrow that is planted in %s is found', (folder) => {
  const upward = [...table.keys()].find((other) => table.get(other)?.has(folder)) ?? 'elsewhere';
  const [line, name] = folder.startsWith('native')
    ? ['#include "TO/planted.h"', 'planted.cc']
    : ["import type { Planted } from 'TO/planted.ts';", 'planted.ts'];
  const relative = posix.relative(folder, upward);
  const text = line.replace('TO', relative.startsWith('.') ? relative : `./${relative}`);
  expect(wrongIn(posix.join(folder, name), text, table)).toEqual([
    `${folder}/${name} may not use ${upward}/${name.replace('.cc', '.h')}`,
  ]);
});

test('only lib/host asks which backend it is', () => {
  const asks = /[!=]== '(?:software|kernel)'|'(?:software|kernel)' [!=]==|case '(?:software|kernel)'/;
  const elsewhere = files.filter((path) => path.endsWith('.ts') && !path.startsWith('lib/host/'));
  expect(elsewhere.filter((path) => asks.test(read(path)))).toEqual([]);
});

test('only native/binding/hosts.cc knows the software host: the rest of the addon knows the seam', () => {
  const addon = files.filter((path) => path.startsWith('native/binding/'));
  const users = addon.filter((path) =>
    importsOf(path, read(path)).some((to) => to.startsWith('native/soft/')),
  );
  expect(users).toEqual(['native/binding/hosts.cc']);
});

test('every file that a comment or a page of docs/ names is there', () => {
  const named =
    /(?<![\w./-])(?:lib|native|test|docs|cli|bin|bench|examples)\/[\w./-]+\.(?:ts|cc|h|md|mjs|sh)\b/g;
  const pages = sources('docs').concat('README.md', 'CONTRIBUTING.md', 'binding.gyp');
  const missing = [...files, ...pages].flatMap((path) =>
    [...read(path).matchAll(named)].flatMap(([name]) =>
      existsSync(join(root, name)) ? [] : [`${path} names ${name}`],
    ),
  );
  expect(missing).toEqual([]);
});

test('no file has more than 500 lines', () => {
  const long = files.filter((path) => read(path).split('\n').length > 501);
  expect(long.filter((path) => !path.startsWith('native/uapi/'))).toEqual([]);
});
