/** Assertions about a host, as functions for any runner, and as matchers for `expect.extend`. */
import { array, flag, known, refusal, type U64Like, u64 } from '../base/check.ts';
import { Host } from '../index.ts';
import { leftOpen } from './bench.ts';
import { handlesText, type ListedMapping, tableOf } from './words.ts';

/** A mapping that a test expects. */
export interface ExpectedMapping {
  /** First I/O virtual address. */
  iova: U64Like;
  /** Length in bytes. */
  length: U64Like;
  /** Whether devices may write. Left out: it may be either. */
  writable?: boolean;
}

/** What has mappings: `dma` of a {@link UserDevice}, an Ioas, a Container. */
export interface HasMappings {
  mappings(): { iova: bigint; length: bigint; writable: boolean }[];
}

/** The verdict of a matcher, as vitest and Jest want it. */
export interface MatcherResult {
  readonly pass: boolean;
  readonly message: () => string;
}

/** An assertion has failed. */
class AssertionError extends Error {
  override readonly name = 'AssertionError';
  readonly code = 'ERR_ASSERTION';
}

/**
 * The DMA sanitizer of the host has found nothing.
 *
 * @throws {Error} it has; the message is {@link DmaReport.toString}, with the lines of the program.
 * @throws {TypeError} it is no host with a sanitizer: a real kernel has none.
 */
export function assertNoDmaFaults(host: Host): void {
  assert(matchers.toHaveNoDmaFaults(host));
}

/**
 * No handle that was opened through the host is open, but those of its fixture.
 *
 * @throws {Error} some are; the message has the places where they were opened.
 */
export function assertNoOpenHandles(host: Host): void {
  assert(matchers.toHaveNoOpenHandles(host));
}

/**
 * Exactly these mappings are in an address space, in any order.
 *
 * @throws {Error} others are; the message has a line for each, by address: `-` expected and missing, `+` there and unexpected.
 */
export function assertMappings(dma: HasMappings, expected: readonly ExpectedMapping[]): void {
  assert(matchers.toHaveMappings(dma, expected));
}

function assert({ pass, message }: MatcherResult): void {
  if (!pass) throw new AssertionError(message());
}

/** The same as matchers of vitest and Jest: `expect.extend(matchers)`. `vfio/testing/vitest` and `vfio/testing/jest` do that. */
export const matchers = {
  /** {@link assertNoDmaFaults} */
  toHaveNoDmaFaults(host: unknown): MatcherResult {
    const report = hostOf(host).software?.report;
    if (!report?.enabled) throw refusal('a software Host whose sanitizer is on', 'host', host);
    const text = report.toString();
    return {
      pass: text === '',
      message: () => (text === '' ? 'Expected mistakes with DMA but there is none' : text),
    };
  },
  /** {@link assertNoOpenHandles} */
  toHaveNoOpenHandles(host: unknown): MatcherResult {
    const text = handlesText(leftOpen(hostOf(host)));
    return { pass: text === '', message: () => (text === '' ? 'Expected open handles but none is' : text) };
  },
  /** {@link assertMappings} */
  toHaveMappings(dma: unknown, expected: readonly ExpectedMapping[]): MatcherResult {
    if (!hasMappings(dma)) throw refusal('an address space with mappings()', 'dma', dma);
    const lines = compared(array(expected, 'mappings').map(mappingOf), dma.mappings());
    const pass = lines.every((line) => line.startsWith(' '));
    const title = pass
      ? 'Expected other mappings than these:'
      : 'Expected other mappings (- expected and missing, + there and unexpected):';
    return { pass, message: () => [title, ...(lines.length === 0 ? ['  none'] : lines)].join('\n') };
  },
};

function hostOf(value: unknown): Host {
  if (value instanceof Host) return value;
  throw refusal('a Host', 'host', value);
}

function hasMappings(value: unknown): value is HasMappings {
  return (
    typeof value === 'object' &&
    value !== null &&
    typeof (value as Partial<HasMappings>).mappings === 'function'
  );
}

type Wanted = Omit<ListedMapping, 'writable'> & { readonly writable: boolean | undefined };

function mappingOf(each: ExpectedMapping): Wanted {
  const { iova, length, writable } = known(each, 'mapping', ['iova', 'length', 'writable']);
  return {
    iova: u64(iova, 'mapping.iova'),
    length: u64(length, 'mapping.length'),
    writable: writable === undefined ? undefined : flag(writable, 'mapping.writable', true),
  };
}

const byAddress = (a: { iova: bigint }, b: { iova: bigint }) =>
  a.iova < b.iova ? -1 : a.iova > b.iova ? 1 : 0;

/** A line for each mapping that is expected or there, by address; those that differ begin with - or +. */
function compared(wanted: readonly Wanted[], found: readonly ListedMapping[]): string[] {
  const left = [...found];
  const marked: { mark: string; mapping: Wanted }[] = [];
  for (const each of wanted) {
    const at = left.findIndex(
      ({ iova, length, writable }) =>
        iova === each.iova && length === each.length && (each.writable ?? writable) === writable,
    );
    const [same] = at < 0 ? [] : left.splice(at, 1);
    marked.push(same === undefined ? { mark: '-', mapping: each } : { mark: ' ', mapping: same });
  }
  for (const mapping of left) marked.push({ mark: '+', mapping });
  marked.sort((a, b) => byAddress(a.mapping, b.mapping));
  const rows = tableOf(marked.map(({ mapping }) => mapping));
  return rows.map((row, at) => `${marked[at]?.mark}${row}`);
}
