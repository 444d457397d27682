/**
 * The fuzzer of the public API (docs/fuzzing.md), on the usual addon: does it find what was planted in the package, a call
 * that is nowhere listed, and shorten what leads to it?
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { needs } from '../support/backends.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'vfio-api-fuzz-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

needs({ backends: ['software'], because: 'hostile calls are made on the software host alone' });

/** The package with a class more, whose call does this. */
function planted(name: string, body: string): string {
  const dist = join(folder, name);
  mkdirSync(join(dist, 'lib'), { recursive: true });
  if (!existsSync(join(root, 'dist/vfio.js'))) throw new Error('dist is missing: run "npm run build:ts"');
  for (const each of readdirSync(join(root, 'dist/lib'), { recursive: true, encoding: 'utf8' }))
    if (each.endsWith('.d.ts')) cpSync(join(root, 'dist/lib', each), join(dist, 'lib', each));
  writeFileSync(
    join(dist, 'vfio.js'),
    `export * from ${JSON.stringify(join(root, 'dist/vfio.js'))};
     export class Planted { static call(size) { ${body} } }`,
  );
  writeFileSync(
    join(dist, 'lib/planted.d.ts'),
    'export declare class Planted { static call(size: number): void; }',
  );
  return dist;
}

function fuzz(dist: string) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [
      join(root, 'test/fuzz/api/main.mjs'),
      ...['--addon', 'plain', '--dist', dist, '--seed', '1', '--calls', '2000', '--no-workers'],
    ],
    { encoding: 'utf8' },
  );
  return { status, output: stdout + stderr };
}

test('a package without a fault passes, and each call is counted with what came of it', () => {
  const { status, output } = fuzz(planted('nothing', 'if (size === 4096) return;'));
  expect([status, output]).toEqual([0, expect.stringMatching(/\d+ Planted\.static call: ok \d+/)]);
  expect(output).toMatch(/seed 1: [2-9]\d\d\d calls .* 0 findings/);
}, 240_000);

test('an error that is no error of the package is found, and so is one that a promise gives', () => {
  for (const body of ["throw new Error('planted')", "return Promise.reject(new Error('planted'))"]) {
    const { status, output } = fuzz(planted(`error${body.length}`, body));
    expect([status, output]).toEqual([
      1,
      expect.stringMatching(/Planted\.call\(.*no call may give: Error: planted/),
    ]);
  }
}, 240_000);

test('the end of the process is found, and the calls that lead to it are shortened to the one that does', () => {
  const { status, output } = fuzz(planted('crash', 'process.abort();'));
  expect([status, output]).toEqual([1, expect.stringMatching(/ends the process \(SIGABRT\)/)]);
  expect(output).toMatch(
    /or with: --sequence 0 --only \d+\n(#\d+ a new host: .*\n)*#\d+ Planted\.call\(.*\)\n/,
  );
}, 240_000);
