/** Files of Debian's kernel source, the same that the guest's kernel is built from, out of its archive. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

const archive = '/usr/src/linux-source-6.12.tar.xz';

/** Why there is no kernel source, or undefined when there is. */
export const missing = existsSync(archive)
  ? undefined
  : `${archive} is missing: apt-get install linux-source-6.12`;

/**
 * A folder with the files `members`, at their paths in the source. Unpacking reads most of the archive, ten seconds or so;
 * it is done once for each version of the package and each `name`, and kept outside the checkout.
 */
export async function kernelSource(name: string, members: readonly string[]): Promise<string> {
  const { size, mtimeMs } = await stat(archive);
  const cache = path.join(process.env['XDG_CACHE_HOME'] || path.join(homedir(), '.cache'), 'vfio');
  const folder = path.join(cache, `${name}-${size}-${Math.floor(mtimeMs)}`);
  if (members.every((member) => existsSync(path.join(folder, member)))) return folder;
  await mkdir(cache, { recursive: true });
  const fresh = await mkdtemp(path.join(cache, 'unpacking-'));
  const options = ['-I', 'xz -T0', '-xf', archive, '-C', fresh, '--strip-components=1', '--occurrence=1'];
  const paths = members.map((member) => `linux-source-6.12/${member}`);
  await promisify(execFile)('tar', [...options, ...paths]);
  await rm(folder, { recursive: true, force: true });
  await rename(fresh, folder);
  return folder;
}
