/** What a test has left or done wrong, in words: each text says what to do. '' if there is nothing to say. */
import { hex } from '../base/hex.ts';
import { reportText } from '../host/software/sanitizer/report.ts';
import type { DeviceError, DmaFinding, OpenFault, OpenHandle } from '../index.ts';

/** A mapping, as an address space lists it. */
export interface ListedMapping {
  readonly iova: bigint;
  readonly length: bigint;
  readonly writable: boolean;
}

const counted = (count: number, one: string, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
const indented = (text: string) => text.replaceAll(/^ */gm, '    ');

export function handlesText(left: readonly OpenHandle[]): string {
  if (left.length === 0) return '';
  return [
    `${counted(left.length, 'handle is', 'handles are')} still open. Declare each with "using", or call its [Symbol.dispose]():`,
    ...left.map(({ kind, opened }) =>
      opened === null ? `  ${kind}` : `  ${kind}, opened\n${indented(opened)}`,
    ),
  ].join('\n');
}

export function faultsText(left: readonly OpenFault[]): string {
  if (left.length === 0) return '';
  return [
    `${counted(left.length, 'injected fault is', 'injected faults are')} left. Dispose what injectFault returned:`,
    ...left.map(({ fault, injected }) =>
      injected === null ? `  ${fault}` : `  ${fault}, injected\n${indented(injected)}`,
    ),
  ].join('\n');
}

export function modelErrorsText(errors: readonly DeviceError[]): string {
  if (errors.length === 0) return '';
  const words = ({ during, error }: DeviceError) =>
    `  in ${during}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
  return [`The model of the device threw ${counted(errors.length, 'error')}:`, ...errors.map(words)].join(
    '\n',
  );
}

export function findingsText(found: readonly DmaFinding[], dropped: number): string {
  return reportText(found, dropped);
}

export function mappingsText(left: readonly ListedMapping[]): string {
  if (left.length === 0) return '';
  return [`${counted(left.length, 'mapping is', 'mappings are')} left:`, ...tableOf(left)].join('\n');
}

/** One line for each mapping, in columns. */
export function tableOf(
  mappings: readonly (Omit<ListedMapping, 'writable'> & { readonly writable: boolean | undefined })[],
): string[] {
  const rows = mappings.map(({ iova, length, writable }) => [
    `${hex(iova)}-${hex(iova + length - 1n)}`,
    `${hex(length)} bytes`,
    writable === undefined ? '' : writable ? 'writable' : 'read-only',
  ]);
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    `  ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')}`.trimEnd(),
  );
}
