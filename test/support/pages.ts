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

/** A pattern for what a command prints: `...` stands for any text; alone in a line, for any lines. */
export function printed(prints: string): RegExp {
  const literal = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  const lines = prints
    .split(/(?<=\n)/)
    .map((line) => (line === '...\n' ? '(?:.*\\n)*?' : line.split('...').map(literal).join('.*')));
  return new RegExp(`^${lines.join('')}$`);
}
