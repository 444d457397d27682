/** Files of Debian's kernel source, unpacked from its archive. The guest's kernel is built from the same archive. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const archive = '/usr/src/linux-source-6.12.tar.xz';

/** The reason why there is no kernel source; undefined: there is one. */
export const missing = existsSync(archive)
  ? undefined
  : `${archive} is missing: apt-get install linux-source-6.12`;

/** A folder with the files that kernel-source.sh lists, at their paths in the source. */
export async function kernelSource(): Promise<string> {
  const { stdout } = await promisify(execFile)(join(import.meta.dirname, 'kernel-source.sh'));
  return stdout.trim();
}
