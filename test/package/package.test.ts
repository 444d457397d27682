/**
 * What `npm install vfio` gives to somebody else: the tarball is made from a copy of this checkout, so that the checkout's
 * own build stays as it is, and installed in an empty folder where PATH has nothing but Node.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { blocksOf, isFile, missing, transcript } from '../support/pages.ts';

const root = join(import.meta.dirname, '../..');
const made = new Set(['.git', 'build', 'dist', 'node_modules', 'prebuilds', 'test-report']);
const work = mkdtempSync(join(tmpdir(), 'vfio-package-'));
const app = join(work, 'app');
const installed = join(app, 'node_modules/vfio');
const tools = join(work, 'bin');

/** npm sets these for its scripts; a second npm would take them for its own. */
const environment = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^npm_(?!config_)|^VFIO_|^VITEST|^NODE_ENV$|^INIT_CWD$/i.test(name),
  ),
);
const withoutCompiler = { ...environment, PATH: tools };

function npm(cwd: string, env: NodeJS.ProcessEnv, ...args: string[]): string {
  const cli = process.env['npm_execpath'];
  if (!cli) throw new Error('run this as: npm run test:package');
  return execFileSync(process.execPath, [cli, '--no-audit', '--no-fund', ...args], {
    cwd,
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

function node(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  // Not the machine's own VFIO, if it has one.
  const env = { ...withoutCompiler, VFIO_BACKEND: 'software' };
  return spawnSync(process.execPath, args, { cwd: app, env, encoding: 'utf8', timeout: 60_000 });
}

function tarball(): string {
  return join(work, readdirSync(work).find((name) => name.endsWith('.tgz')) ?? 'missing.tgz');
}

function install(): void {
  rmSync(app, { recursive: true, force: true });
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), '{ "private": true, "type": "module" }\n');
  npm(app, withoutCompiler, 'install', '--ignore-scripts', tarball());
}

/** The first fenced block of the README that is marked as an example: ```js example */
function readmeExample(): string {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const block = /^```(?:js|ts)[^\n]*\bexample\b[^\n]*\n([\s\S]*?)^```/m.exec(readme);
  if (!block?.[1]) throw new Error('README.md has no ```js example or ```ts example block');
  return block[1];
}

beforeAll(() => {
  mkdirSync(tools);
  symlinkSync(process.execPath, join(tools, 'node'));
  const checkout = join(work, 'checkout');
  cpSync(root, checkout, {
    recursive: true,
    filter: (path) => path === root || !made.has(path.slice(root.length + 1)),
  });
  symlinkSync(join(root, 'node_modules'), join(checkout, 'node_modules'));
  npm(checkout, environment, 'run', 'prebuild');
  npm(checkout, environment, 'pack', '--pack-destination', work);
});

afterAll(() => {
  rmSync(work, { recursive: true, force: true });
});

describe('installed with no compiler and no install scripts, the package', () => {
  beforeAll(install);

  test('has what it needs and nothing else', () => {
    const files = readdirSync(installed, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(installed.length + 1));
    const allowed =
      /^(dist\/lib\/.*\.d\.ts$|native\/|prebuilds\/)|^docs\/[\w-]+\.md$|^(dist\/(vfio|testing|testing-vitest|testing-jest|models)\.js|dist\/vfio-command\.js|dist\/bin\/vfio-soft-preload\.js|scripts\/install\.mjs|package\.json|binding\.gyp|README\.md|LICENSE)$/;
    expect(files.filter((file) => !allowed.test(file))).toEqual([]);
    for (const file of ['vfio', 'testing', 'testing-vitest', 'testing-jest', 'models'])
      expect(files).toContain(`dist/${file}.js`);
    expect(files).toContain('dist/lib/index.d.ts');
    expect(files.filter((file) => /^prebuilds\/linux-[a-z0-9]+\/.*\.node$/.test(file))).toHaveLength(1);
  });

  test('has each page that its README, its pages and its declarations lead to', () => {
    const pages = ['README.md', ...readdirSync(join(installed, 'docs')).map((name) => `docs/${name}`)];
    const links = pages.flatMap((page) =>
      [...readFileSync(join(installed, page), 'utf8').matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map((each) =>
        join(page, '..', each[1] ?? ''),
      ),
    );
    const named = readdirSync(join(installed, 'dist/lib'), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.d.ts'))
      .flatMap(
        (name) => readFileSync(join(installed, 'dist/lib', name), 'utf8').match(/\bdocs\/[\w-]+\.md/g) ?? [],
      );
    expect(links.length).toBeGreaterThan(12);
    expect(named.length).toBeGreaterThan(3);
    expect([...links, ...named].filter((path) => !existsSync(join(installed, path)))).toEqual([]);
  });

  test('loads', () => {
    const { status, stdout, stderr } = node(
      '-e',
      "import('vfio').then((m) => console.log(typeof m.Host.open))",
    );
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: 'function\n', stderr: '' });
  });

  test('has the models of vfio/models, which its software host takes', () => {
    const { status, stdout, stderr } = node(
      '--input-type=module',
      '-e',
      `import { Host } from 'vfio';
       import { EduDevice } from 'vfio/models';
       const host = Host.open({ backend: 'software' });
       host.software.addDevice('0000:00:1c.0', new EduDevice());
       console.log(host.device('0000:00:1c.0').device.toString(16));
       host[Symbol.dispose]();`,
    );
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '11e8\n', stderr: '' });
  });

  test('runs a program on the software host: vfio-soft-preload', () => {
    const bin = join(app, 'node_modules/.bin/vfio-soft-preload');
    const library = node(bin).stdout.trim();
    expect(library).toBe(join(installed, 'prebuilds', `linux-${process.arch}`, 'vfio-soft-preload.so'));
    const { status, stdout } = spawnSync(
      process.execPath,
      [bin, '--', '/bin/cat', '/sys/bus/pci/devices/0000:00:10.0/device'],
      { encoding: 'utf8' },
    );
    expect({ status, stdout }).toEqual({ status: 0, stdout: '0x11e8\n' });
  });

  test("runs the README's first example", () => {
    writeFileSync(join(app, 'example.mjs'), readmeExample());
    const { status, stdout, stderr } = node('example.mjs');
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: '' });
    expect(stdout).not.toBe('');
  });

  describe('has types that a strict program compiles against, without any other types:', () => {
    const oldest = join(work, 'typescript-5.4');
    beforeAll(() => {
      mkdirSync(oldest);
      writeFileSync(join(oldest, 'package.json'), '{ "private": true }\n');
      npm(oldest, environment, 'install', '--ignore-scripts', 'typescript@5.4.5');
    });

    const program = `
      export async function main(host: Host, vectors: number): Promise<void> {
        const { device, dma } = host.attach('0000:00:10.0');
        const mapping = dma.map(DmaBuffer.alloc(4096));
        const [interrupt] = device.irq('msi').enable(1);
        const count: bigint = (await interrupt.wait({ timeout: 1000 })) + mapping.length;
        // @ts-expect-error: no signal
        await interrupt.wait({ signal: count });
        const two: [Interrupt, Interrupt] = device.irq('msix').enable(2, { start: 1 });
        // @ts-expect-error: there is no third one
        two[2];
        const many: Interrupt[] = device.irq('msix').enable(vectors).concat(device.irq('msix').enable());
        // @ts-expect-error: there may be none
        many[0].vector;
        // @ts-expect-error: on the kernel there is no such thing
        host.software.takeFaults();
        mapping[Symbol.dispose]();
      }
      export function block(): number {
        using host = Host.open({ backend: 'software', software: { kernel: '6.12' } });
        return host.software.takeFaults().length;
      }`;
    const esm = `import { DmaBuffer, Host, type Interrupt } from 'vfio';${program}`;
    const commonJs = `import type { Host } from 'vfio' with { 'resolution-mode': 'import' };
      export async function open(): Promise<Host> {
        const { Host } = await import('vfio');
        return Host.open({ backend: 'software' });
      }`;
    const modules = {
      nodenext: ['program.mts', esm, { module: 'nodenext' }],
      bundler: ['program.ts', esm, { module: 'esnext', moduleResolution: 'bundler', target: 'es2020' }],
      'CommonJS (node16)': ['program.cts', commonJs, { module: 'node16' }],
    } as const;
    const others = {
      'no other types': { types: [], lib: ['es2022'] },
      "the DOM's": { types: [], lib: ['es2022', 'dom'] },
      "Node's": { types: ['node'], typeRoots: [join(root, 'node_modules/@types')], lib: ['es2022'] },
    };
    const cases = ['5.4', 'newest'].flatMap((typescript) =>
      Object.entries(modules).flatMap(([module, [name, source, of]]) =>
        Object.entries(others).map(
          ([types, and]) =>
            ({ typescript, module, name, source, types, options: { ...of, ...and } }) as const,
        ),
      ),
    );
    test.each(cases)('TypeScript $typescript, $module, $types', ({ typescript, name, source, options }) => {
      const strict = { strict: true, noUncheckedIndexedAccess: true, skipLibCheck: false, noEmit: true };
      const folder = mkdtempSync(join(app, 'types-'));
      writeFileSync(join(folder, name), source);
      writeFileSync(
        join(folder, 'tsconfig.json'),
        JSON.stringify({ compilerOptions: { ...strict, ...options }, files: [name] }),
      );
      const tsc = join(typescript === '5.4' ? oldest : root, 'node_modules/typescript/bin/tsc');
      const { stdout, status } = spawnSync(process.execPath, [tsc, '-p', folder], {
        cwd: app,
        encoding: 'utf8',
      });
      expect({ stdout, status }).toEqual({ stdout: '', status: 0 });
    });
  });

  test('can be required by CommonJS', () => {
    const { stdout, stderr } = node(
      '--input-type=commonjs',
      '-e',
      "console.log(typeof require('vfio').Host.open)",
    );
    expect({ stdout, stderr }).toEqual({ stdout: 'function\n', stderr: '' });
  });
});

describe('from an empty folder, docs/testing-a-driver.md', () => {
  const folder = join(work, 'doubler');
  const blocks = blocksOf(readFileSync(join(root, 'docs/testing-a-driver.md'), 'utf8'));
  const shell = (command: string) => {
    const { status, stdout } = spawnSync('sh', ['-c', `exec 2>&1\n${command}`], {
      cwd: folder,
      env: { ...environment, NO_COLOR: '1' },
      encoding: 'utf8',
    });
    return { status, stdout };
  };
  const succeeds = (command: string) => {
    const { status, stdout } = shell(command);
    expect(status, `${command}\n${stdout}`).toBe(0);
  };

  test('gives what it shows, block by block', { timeout: 300_000 }, () => {
    mkdirSync(folder);
    for (const block of blocks) {
      const { language, word, body } = block;
      if (isFile(block)) {
        mkdirSync(join(folder, word, '..'), { recursive: true });
        writeFileSync(join(folder, word), body);
      } else if (word === 'install')
        for (const command of body.trim().split('\n'))
          succeeds(command.replace(/^npm install vfio$/, `npm install '${tarball()}'`));
      else if (language === 'console')
        for (const { command, prints } of transcript(body)) {
          const { stdout } = shell(command);
          expect(missing(prints, stdout), `${command}\nprinted\n${stdout}`).toBe(null);
        }
    }
  });

  test('has a CI file whose commands succeed', { timeout: 300_000 }, () => {
    const file = readFileSync(join(folder, '.github/workflows/test.yml'), 'utf8');
    const commands = [...file.matchAll(/^ +- run: (.*)$/gm)].map(([, command = '']) => command);
    expect(commands).toContain('npx vitest run');
    commands.forEach(succeeds);
  });

  test('has files that compile in strict mode', { timeout: 120_000 }, () => {
    const files = blocks.filter((each) => each.language === 'ts').map(({ word }) => word);
    const flags = '--strict --noEmit --target es2022 --module esnext --moduleResolution bundler';
    const more = '--lib es2023,esnext.disposable --allowImportingTsExtensions --skipLibCheck --ignoreConfig';
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    succeeds(`'${process.execPath}' '${tsc}' ${flags} ${more} ${[...new Set(files)].join(' ')}`);
  });
});

describe('without a prebuilt binary for this machine, the package', () => {
  beforeEach(() => {
    install();
    rmSync(join(installed, 'prebuilds'), { recursive: true });
  });

  test('says at load which files it tried and what to do', () => {
    const { status, stderr } = node('-e', "import('vfio')");
    expect(status).not.toBe(0);
    expect(stderr).toContain(join(installed, 'build/Release'));
    expect(stderr).toContain(join(installed, 'prebuilds', `linux-${process.arch}`));
    expect(stderr).toContain('npm rebuild');
    expect(stderr).toMatch(/compiler/);
  });

  test('compiles several files at a time, or as many as JOBS says', () => {
    const fake = join(work, 'fake');
    mkdirSync(fake, { recursive: true });
    writeFileSync(join(fake, 'node-gyp'), '#!/bin/sh\necho "$1 with $JOBS"\n', { mode: 0o755 });
    const { JOBS: _, ...env } = environment;
    const jobs = (more: NodeJS.ProcessEnv) => {
      const { status, stdout } = spawnSync(process.execPath, ['scripts/install.mjs'], {
        cwd: installed,
        env: { ...env, PATH: `${fake}:/bin`, ...more },
        encoding: 'utf8',
      });
      expect(status).toBe(0);
      return Number(/^rebuild with (\d+)$/m.exec(stdout)?.[1]);
    };
    expect(jobs({ JOBS: '3' })).toBe(3);
    const processors = availableParallelism();
    expect(jobs({})).toBeGreaterThanOrEqual(Math.min(processors, 2));
    expect(jobs({})).toBeLessThanOrEqual(processors);
  });

  test('compiles from its own sources with npm rebuild', () => {
    npm(app, environment, 'rebuild', 'vfio');
    expect(existsSync(join(installed, 'build/Release/vfio.node'))).toBe(true);
    expect(node('-e', "import('vfio').then((m) => console.log(typeof m.Host.open))").stdout).toBe(
      'function\n',
    );
  });
});
