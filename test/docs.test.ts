/**
 * The code blocks in README.md and docs/, run as a reader would run them: in an empty folder where the package is installed,
 * without any change. The word after the language says what is done with a block:
 *
 *   js example, ts example   a program; prints what follows `//=>` in it. TypeScript is compiled first, for Node 20
 *   LANGUAGE NAME            the file NAME, for the programs and commands of the page; if it comes twice, from there on
 *   console                  commands (`$ ...`) and what they print; in that, `...` stands for any text, or any lines
 *   sh install, guest, ...   not run here, for the reason in NOT_RUN; scripts and files that it names exist
 *   text                     no code
 */
import { execFile, execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { needsCompiler } from './preload/programs.ts';
import { backend } from './support/backends.ts';
import { type Block, blocksOf, isFile, missing, transcript } from './support/pages.ts';

const root = join(import.meta.dirname, '..');
const collecting = join(root, 'test/support/collecting.mjs');

const NOT_RUN: Record<string, string> = {
  install: 'it installs the package, or builds it: test/package does',
  hardware: 'it takes a device of this machine',
  guest: 'it boots the guest',
  long: 'it takes minutes, or is itself a run of the tests',
};

/** The folder of a new user: the package is in node_modules, and its commands are in node_modules/.bin. */
function makeApp(): string {
  const app = mkdtempSync(join(tmpdir(), 'vfio-docs-'));
  const bin = join(app, 'node_modules/.bin');
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(app, 'package.json'), '{ "private": true }\n');
  symlinkSync(root, join(app, 'node_modules/vfio'));
  const { bin: commands } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    bin: Record<string, string>;
  };
  for (const [name, path] of Object.entries(commands))
    writeFileSync(join(bin, name), `#!/bin/sh\nexec '${process.execPath}' '${join(root, path)}' "$@"\n`, {
      mode: 0o755,
    });
  // Of the tools that a page installs besides.
  symlinkSync(join(root, 'node_modules/vitest'), join(app, 'node_modules/vitest'));
  symlinkSync(join(root, 'node_modules/vitest/vitest.mjs'), join(bin, 'vitest'));
  return app;
}

function run(app: string, command: string, ...args: string[]): Promise<Record<string, unknown>> {
  const { NODE_OPTIONS: _, ...env } = process.env;
  const clean = Object.fromEntries(
    Object.entries(env).filter(([name]) => !/^VITEST|^NODE_ENV$|^CI$/.test(name)),
  );
  return new Promise((resolve) => {
    execFile(
      command,
      args,
      { cwd: app, env: { ...clean, VFIO_BACKEND: backend, NO_COLOR: '1' }, timeout: 60_000 },
      (error, stdout, stderr) => resolve({ code: error ? error.code : 0, stdout, stderr }),
    );
  });
}

const said = (body: string) => [...body.matchAll(/\/\/=> (.*)$/gm)].map((each) => `${each[1]}\n`).join('');

const scripts = (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: object }).scripts;
const pages = [
  'README.md',
  'CONTRIBUTING.md',
  ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
];

let app = '';
beforeAll(() => {
  const sources = ['lib', 'cli', 'bin'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)),
  );
  const bundles = ['vfio', 'testing', 'testing-vitest', 'models', 'vfio-command', 'bin/vfio-soft-preload'];
  const made = bundles.map((name) => `dist/${name}.js`);
  const age = (path: string) => statSync(join(root, path)).mtimeMs;
  const oldest = Math.min(...made.map(age));
  const newer = sources.find((path) => path.endsWith('.ts') && age(path) > oldest);
  if (newer) throw new Error(`dist is older than ${newer}: run "npm run build:ts"`);
  app = makeApp();
});
afterAll(() => app && rmSync(app, { recursive: true, force: true }));

test('a transcript in which a line is missing, is in another place or has other words is not taken for printed', () => {
  const printed = 'one\ntwo: 12 ms\nthree\nfour\n';
  for (const right of [printed, 'one\n...\nfour\n', '...\ntwo: ... ms\n...\n', 'one\n...\n', '...\n'])
    expect(missing(right, printed), right).toBe(null);
  for (const [wrong, part] of [
    ['one\n', 'one\n'],
    ['one\nthree\n...\n', 'one\nthree\n'],
    ['...\nthree\n...\ntwo: ... ms\n...\n', 'two: ... ms\n'],
    ['...\ntwo: ... s\n...\n', 'two: ... s\n'],
    ['...\nwo: 12 ms\n...\n', 'wo: 12 ms\n'],
    ['one\n...\nfour\nfive\n', 'four\nfive\n'],
  ] as const)
    expect(missing(wrong, printed), wrong).toBe(part);
  expect(missing('', 'something\n')).toBe('something\n');
});

describe.each(pages)('%s', (page) => {
  const text = readFileSync(join(root, page), 'utf8');
  const blocks = blocksOf(text);

  if (page === 'docs/preload.md') needsCompiler();
  /** The files as a reader has them at a block: those above it. */
  const writeFiles = (index: number) => {
    const files = blocks.filter(isFile);
    for (const { word } of files) rmSync(join(app, word), { force: true });
    for (const { word, body } of blocks.slice(0, index).filter(isFile)) {
      mkdirSync(join(app, word, '..'), { recursive: true });
      writeFileSync(join(app, word), body);
    }
  };

  test('every link leads to a file of the package, and every block says what it is', () => {
    const links = [...text.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map((each) => each[1] ?? '');
    expect(links.filter((link) => !existsSync(join(root, page, '..', link)))).toEqual([]);
    const known = ({ language, word, body, heading }: Block) =>
      (['js', 'ts'].includes(language) && word === 'example') ||
      isFile({ language, word, body, heading }) ||
      (language === 'sh' && word in NOT_RUN) ||
      (['console', 'text'].includes(language) && word === '');
    expect(blocks.filter((block) => !known(block))).toEqual([]);
  });

  blocks.forEach(({ language, word, body, heading }, index) => {
    const name = `${heading}, block ${index + 1}`;
    if (word === 'example')
      test(name, async (context) => {
        if (language === 'ts' && backend === 'kernel')
          context.skip('compiling it takes half a minute in the guest');
        expect(said(body)).not.toBe('');
        writeFiles(index);
        const source = join(app, `example.${language === 'ts' ? 'mts' : 'mjs'}`);
        writeFileSync(source, body);
        if (language === 'ts') compileTs(source);
        expect(await run(app, process.execPath, '--import', collecting, 'example.mjs')).toEqual({
          code: 0,
          stdout: said(body),
          stderr: '',
        });
      });
    // The transcripts show the software host. They must finish within the time of one test.
    else if (language === 'console' && backend === 'software')
      test(name, { timeout: 60_000 }, async () => {
        writeFiles(index);
        for (const { command, prints } of transcript(body)) {
          const { stdout } = await run(app, 'sh', '-c', `exec 2>&1\n${command}`);
          expect(missing(prints, String(stdout)), `${command}\nprinted\n${stdout}`).toBe(null);
        }
      });
    else if (language === 'sh')
      test(`${name}: what it names is there`, () => {
        const wanted = [...body.matchAll(/\bnpm run (?:-s )?([\w:-]+)/g)].map((each) => each[1] ?? '');
        expect(wanted.filter((script) => !(script in scripts))).toEqual([]);
        const paths = [...body.matchAll(/(?<![\w./~$-])((?:test|native|lib|docs)\/[\w./-]+)/g)];
        const missing = paths.map((each) => each[1] ?? '').filter((path) => !existsSync(join(root, path)));
        expect(missing).toEqual([]);
      });
  });
});

function compileTs(source: string): void {
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  const flags = '--strict --target es2022 --module nodenext --lib es2023,esnext.disposable'.split(' ');
  const types = ['--typeRoots', join(root, 'node_modules/@types'), '--types', 'node'];
  execFileSync(process.execPath, [tsc, ...flags, ...types, source], { cwd: app });
}
