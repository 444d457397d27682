/**
 * Programs that run as an ordinary user. The checkout may be in a folder that only root can enter, or only root may be able to
 * read it. So these programs run from a copy of the compiled package, which every user can read.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished, type TestContext } from 'vitest';

const root = join(import.meta.dirname, '../..');

export interface Nobody {
  /** The words to put before a command, so that it runs as the user nobody. */
  readonly through: readonly string[];
  /** The folder of the copy. It is removed when the test ends. */
  readonly root: string;
}

/** Makes a copy of the package for the user nobody. Skips the test if that user can't run Node or can't read the copy. */
export function nobody(ctx: TestContext): Nobody {
  const copy = mkdtempSync(join(tmpdir(), 'vfio-nobody-'));
  onTestFinished(() => rmSync(copy, { recursive: true, force: true }));
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const parts = [
    'package.json',
    'dist',
    'test/support/collecting.mjs',
    ...readdirSync(join(root, 'build/Release'))
      .filter((name) => name.endsWith('.node'))
      .map((name) => `build/Release/${name}`),
    ...Object.keys(dependencies).map((name) => `node_modules/${name}`),
  ];
  for (const part of parts) cpSync(join(root, part), join(copy, part), { recursive: true });
  for (const entry of readdirSync(copy, { recursive: true, withFileTypes: true }))
    chmodSync(join(entry.parentPath, entry.name), entry.isDirectory() ? 0o755 : 0o644);
  chmodSync(copy, 0o755);

  const through = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
  const can = (test: string, path: string): boolean => {
    const [command = '', ...rest] = [...through, 'test', test, path];
    const { error, status, stderr } = spawnSync(command, rest, { cwd: copy, encoding: 'utf8' });
    if (error !== undefined || stderr !== '') throw error ?? new Error(stderr);
    return status === 0;
  };
  if (!can('-x', process.execPath)) ctx.skip(`the user nobody can't run ${process.execPath}`);
  if (!can('-r', join(copy, 'package.json')))
    ctx.skip(`the user nobody can't read what is in ${tmpdir()}, so no copy of the package`);
  return { through, root: copy };
}
