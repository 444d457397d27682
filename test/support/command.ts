/** Runs the command `vfio` in the process of the test, on the test's host, and runs the commands that it suggests. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { expect, onTestFinished } from 'vitest';
import { main } from '../../cli/main.ts';
import type { Cause, Host } from '../../lib/index.ts';

/** What `vfio explain --json` prints. */
export interface Explained {
  usable: boolean;
  findings: { cause: Cause; blocks: boolean; reason: string; commands: string[] }[];
  commands: string[];
}

async function command(host: Host, args: string[]): Promise<{ status: number; text: string }> {
  let text = '';
  const print = (more: string) => {
    text += more;
  };
  const status = await main(args, { host, out: print, err: print, colors: false });
  return { status, text };
}

/** Runs the command. Its status must be 0 or 1: the command could be tried. */
export async function vfio(host: Host, ...args: string[]): Promise<string> {
  const { status, text } = await command(host, args);
  expect(status, text).toBeLessThan(2);
  return text;
}

/** Runs the command. Its status must be 1: something prevents it, or it was refused. */
export async function refused(host: Host, ...args: string[]): Promise<string> {
  const { status, text } = await command(host, args);
  expect(status, text).toBe(1);
  return text;
}

export const explain = async (host: Host, bdf: string): Promise<Explained> =>
  JSON.parse(await vfio(host, 'explain', bdf, '--json'));

/** Starts a program that runs until the test ends, and waits until it has printed something. Returns its process id. */
export async function program(name: string, ...args: string[]): Promise<number> {
  const started = spawn(name, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => {
    started.kill('SIGKILL');
  });
  await once(started.stdout, 'data');
  return started.pid ?? -1;
}

/** Starts a program that runs `body`, which opens files of the kernel, and keeps them open until it is killed. */
export const holder = (body: string): Promise<number> =>
  program(
    process.execPath,
    '--input-type=module',
    '--eval',
    `
    import { constants, openSync } from 'node:fs';
    ${body}
    console.log('held');
    setInterval(() => {}, 1000);`,
  );

/** Runs the suggested commands as root, those of `vfio` on this host. After a `kill` it waits until the process has ended. */
export async function follow(host: Host, commands: readonly string[]): Promise<void> {
  expect(commands).not.toEqual([]);
  for (const line of commands) {
    const command = line.replace(/ #.*/, '').replaceAll('sudo ', '');
    const [name, ...args] = command.split(' ');
    if (name === 'vfio') await vfio(host, ...args);
    else
      expect(spawnSync('sh', ['-c', command], { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' });
    if (name === 'kill')
      while (spawnSync('kill', ['-0', ...args]).status === 0) await new Promise((go) => setTimeout(go, 5));
  }
}
