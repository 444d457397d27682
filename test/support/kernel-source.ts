/** Files of Debian's kernel source, the same that the guest's kernel is built from, out of its archive. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const archive = '/usr/src/linux-source-6.12.tar.xz';

/** Why there is no kernel source, or undefined when there is. */
export const missing = existsSync(archive)
  ? undefined
  : `${archive} is missing: apt-get install linux-source-6.12`;

/** A folder with the files that kernel-source.sh lists, at their paths in the source. */
export async function kernelSource(): Promise<string> {
  const { stdout } = await promisify(execFile)(join(import.meta.dirname, 'kernel-source.sh'));
  return stdout.trim();
}
