/** How the command prints: text for people, or one JSON value for programs. */
import { createColors } from 'picocolors';
import { shown, shownJson } from '../lib/base/shell.ts';

export interface Printer {
  /** Whether JSON is wanted. */
  readonly wantsJson: boolean;
  /** A line of text; nothing where JSON is wanted. What others chose in it goes through `shown`. */
  line(text?: string): void;
  /** The result as JSON, if that is wanted. */
  json(value: unknown): void;
  /** A line of text on the error stream. */
  error(text: string): void;
  /** Columns with a heading, as wide as what is in them. */
  table(head: readonly string[], rows: readonly (readonly string[])[]): void;
  readonly colors: ReturnType<typeof createColors>;
}

export function printer(
  around: { out(text: string): void; err(text: string): void; colors: boolean },
  wantsJson: boolean,
): Printer {
  const colors = createColors(around.colors && !wantsJson);
  const line = (text = '') => {
    if (!wantsJson) around.out(`${text}\n`);
  };
  return {
    wantsJson,
    line,
    json: (value) => {
      if (wantsJson) around.out(`${shownJson(JSON.stringify(value, null, 2))}\n`);
    },
    error: (text) => around.err(`vfio: ${shown(text)}\n`),
    table: (head, cells) => {
      if (wantsJson) return;
      const rows = cells.map((row) => row.map(shown));
      const widths = head.map((name, column) =>
        rows.reduce((widest, row) => Math.max(widest, row[column]?.length ?? 0), name.length),
      );
      const text = (row: readonly string[]) =>
        row
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join('  ')
          .trimEnd();
      around.out(`${colors.bold(text(head))}\n${rows.map((row) => `${text(row)}\n`).join('')}`);
    },
    colors,
  };
}
