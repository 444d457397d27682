/** The examples of the documentation run as they stand, and print what they say: what follows `//=>`. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { runExample } from './support/program.ts';

const docs = join(dirname(fileURLToPath(import.meta.url)), '..', 'docs');

for (const name of readdirSync(docs).filter((each) => each.endsWith('.md'))) {
  const text = readFileSync(join(docs, name), 'utf8');
  const examples = [...text.matchAll(/^```js example\n([\s\S]*?)^```/gm)];
  if (examples.length === 0) continue;
  describe(name, () => {
    for (const { 1: body = '', index } of examples) {
      const heading =
        text
          .slice(0, index)
          .match(/^#+ .*$/gm)
          ?.at(-1) ?? '';
      test(heading.replace(/^#+ /, ''), async () => {
        const said = [...body.matchAll(/\/\/=> (.*)$/gm)].map((each) => `${each[1]}\n`).join('');
        expect(said).not.toBe('');
        expect(await runExample(body)).toEqual({ code: 0, signal: null, stdout: said, stderr: '' });
      });
    }
  });
}
