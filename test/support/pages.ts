/** The code blocks of a page of documentation. test/docs.test.ts says what each word after the language means. */

export interface Block {
  readonly language: string;
  readonly word: string;
  readonly body: string;
  readonly heading: string;
}

export function blocksOf(text: string): Block[] {
  return [...text.matchAll(/^```(\w*) ?(.*)\n([\s\S]*?)^```$/gm)].map(
    ({ 1: language = '', 2: word = '', 3: body = '', index }) => {
      const heading = [...text.slice(0, index).matchAll(/^#+ (.*)$/gm)].at(-1)?.[1] ?? '';
      return { language, word, body, heading };
    },
  );
}

const FILES: Readonly<Record<string, RegExp>> = {
  json: /^[\w-]+\.json$/,
  js: /^[\w-]+\.mjs$/,
  ts: /^[\w-]+(\.test)?\.ts$/,
  yaml: /^[\w./-]+\.yml$/,
};

/** Is the block a file of the reader's folder? */
export const isFile = ({ language, word }: Block): boolean => FILES[language]?.test(word) ?? false;

/** Each command of a transcript, with lines that end with a backslash joined, and its output. */
export function transcript(body: string): { command: string; prints: string }[] {
  return [...body.matchAll(/^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)/gm)].map(
    ([, command = '', prints = '']) => ({ command, prints }),
  );
}

/**
 * Compares what a command has printed with a transcript, in which `...` stands for any text, and alone in a line for any lines.
 * Returns the first part of the transcript that was not printed behind the parts above it; null: all was.
 */
export function missing(prints: string, printed: string): string | null {
  const parts = prints.split(/^\.\.\.\n/m);
  let rest = printed;
  for (const [index, part] of parts.entries()) {
    const [first, last] = [index === 0, index === parts.length - 1];
    const pattern = part
      .split('...')
      .map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
      .join('.*');
    const found = new RegExp(`${first ? '^' : '(?<![^\\n])'}${pattern}${last ? '(?![^])' : ''}`).exec(rest);
    if (found === null) return part === '' ? rest : part;
    rest = rest.slice(found.index + found[0].length);
  }
  return null;
}
