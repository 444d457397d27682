/**
 * The test files whose tests are all about the software host alone, which they say in one line. A run in the guest leaves them
 * out: loading each takes seconds there, and each of its tests would be skipped.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');
const STATEMENT = /^needs\(\{ backends: \['software'\], because: (['"])(.*)\1 \}\);$/m;

/** Those that this run leaves out, by their paths from the root, each with its reason; none if files were asked for by name. */
export function leftOut(): Map<string, string> {
  const found = new Map<string, string>();
  const named = process.argv.some((argument) => argument.includes('.test.ts'));
  if (!process.env['VFIO_GUEST'] || named) return found;
  for (const name of readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.test.ts')) continue;
    const reason = STATEMENT.exec(readFileSync(join(root, 'test', name), 'utf8'))?.[2];
    if (reason !== undefined) found.set(`test/${name}`, reason);
  }
  return found;
}
