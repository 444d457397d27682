/** Prints the results of the command: text for people, or one JSON value for programs. */
import { createColors } from 'picocolors';
import { shown, shownJson } from '../lib/base/shell.ts';

export interface Printer {
  /** Whether the user asked for JSON. */
  readonly wantsJson: boolean;
  /** Prints a line of text, unless JSON is wanted. The caller applies `shown` to names that other programs chose. */
  line(text?: string): void;
  /** Prints the result as JSON, if that is wanted. */
  json(value: unknown): void;
  /** Prints a line of text on the error stream. */
  error(text: string): void;
  /** Prints a table with a heading; each column is as wide as its widest cell. */
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
