/** The findings of a software host's DMA sanitizer, as a program reads them. */
import { ownOf } from '../../../base/own.ts';

/** Where the program did what led to a finding: lines `at f (file:line:column)`, the innermost first. */
export interface DmaStacks {
  /** The memory was mapped, or the PASID attached. */
  readonly map?: string;
  /** It was unmapped, or detached. */
  readonly unmap?: string;
  /** The buffer or the handle was disposed; of what was left at a close: what was closed. */
  readonly dispose?: string;
  /**
   * The last store to a register of the device before it happened. To a register that the driver has stored to more than 256
   * times, only each 32nd store takes a stack; the others have the last one that was taken for that register, and then the last
   * line says `(an earlier store to the same register: not each one takes a stack)`.
   */
  readonly doorbell?: string;
  /** The device was reset. */
  readonly reset?: string;
  /** The wrong call itself. */
  readonly call?: string;
}

/** What all findings have. */
interface Finding {
  /** What happened, in words. */
  readonly message: string;
  /** The device's PCI address; null: unknown, or no device has to do with it. */
  readonly device: string | null;
  readonly stacks: DmaStacks;
  /** How often it happened, by the same cause. The other fields are those of the first time. */
  readonly count: number;
}

/** An access by a device. */
interface AccessFinding extends Finding {
  /** The first address of the access that went wrong, and its length in bytes. */
  readonly iova: bigint;
  readonly length: bigint;
  /** Whether the device wanted to write to memory. */
  readonly write: boolean;
  readonly pasid: number | null;
}

/** A mapping that a finding is about. */
export interface DmaRange {
  readonly iova: bigint;
  readonly length: bigint;
}

/** A mistake of a driver, by kind. */
export type DmaFinding =
  /** The memory was mapped once, and is not any more. `mapping`: what was there. */
  | (AccessFinding & { readonly kind: 'use-after-unmap'; readonly mapping: DmaRange })
  /** Nothing is or was mapped there. `nearest`: the mappings on both sides, the nearest first. */
  | (AccessFinding & { readonly kind: 'unmapped'; readonly nearest: readonly DmaRange[] })
  /** The mapping does not let devices read, or write. */
  | (AccessFinding & { readonly kind: 'permission' })
  /** The memory is mapped still, but its DmaBuffer was disposed. */
  | (AccessFinding & { readonly kind: 'disposed-buffer'; readonly mapping: DmaRange | null })
  /** The device is attached to no address space for this PASID, or for accesses without one. */
  | (AccessFinding & { readonly kind: 'not-attached' })
  /** The device's bus mastering is off. */
  | (AccessFinding & { readonly kind: 'bus-master' })
  /** The driver has written to no register since the device was reset. */
  | (AccessFinding & { readonly kind: 'after-reset' })
  /** Another device wrote there too, and the driver told this one nothing in between. */
  | (AccessFinding & { readonly kind: 'overlapping-writes'; readonly other: string })
  /**
   * The driver changed memory that it had given to the device ({@link SimulatedDevice.own}). `iova` and `length`: the bytes that
   * differ. `mapping`: what the device had taken.
   */
  | (AccessFinding & { readonly kind: 'changed-while-owned'; readonly mapping: DmaRange })
  /** Refused for another reason, which `message` tells: beyond what the device can address, no memory, a guest's table ... */
  | (AccessFinding & { readonly kind: 'refused' })
  /** The device raised an interrupt that nobody hears of. */
  | (Finding & { readonly kind: 'lost-interrupt'; readonly vector: number })
  /** A range was unmapped twice. */
  | (Finding & { readonly kind: 'double-unmap'; readonly iova: bigint; readonly length: bigint })
  /** A device or its registers were used after they were disposed. */
  | (Finding & { readonly kind: 'use-after-dispose' })
  /** A mapping was left when its address space ended; or a handle, when its device or the host was closed. */
  | (Finding & { readonly kind: 'left-at-close' } & Partial<DmaRange>);

/** What the DMA sanitizer of a software host has found. */
export interface DmaReport {
  /** Whether the sanitizer is on. */
  readonly enabled: boolean;
  /** The findings so far, each cause once, in the order in which they were found; at most 1,000. */
  readonly findings: readonly DmaFinding[];
  /** How many findings were not kept, since there were too many. */
  readonly dropped: number;
  /** All findings as a text; '' if there are none. */
  toString(): string;
  /** Forgets the findings. What is mapped stays known. */
  clear(): void;
}

const TITLES: readonly (readonly [keyof DmaStacks, string])[] = [
  ['call', 'the call'],
  ['doorbell', 'last store to a register of the device'],
  ['map', 'mapped'],
  ['unmap', 'unmapped'],
  ['reset', 'reset'],
  ['dispose', 'disposed'],
];

function indented(text: string, by: string): string {
  return text
    .split('\n')
    .map((line) => by + line)
    .join('\n');
}

/** One finding as a text. */
function textOf(finding: DmaFinding, number: number): string {
  const times = finding.count === 1 ? '' : ` (${finding.count} times)`;
  const parts = [`${number}. ${finding.kind}: ${finding.message}${times}`];
  const stacks = ownOf<DmaStacks>(finding.stacks);
  for (const [name, title] of TITLES) {
    const stack = stacks[name];
    if (stack !== undefined) parts.push(`   ${title}\n${indented(stack, '     ')}`);
  }
  return parts.join('\n');
}

/** @internal The text of a report. */
export function reportText(findings: readonly DmaFinding[], dropped: number): string {
  if (findings.length === 0 && dropped === 0) return '';
  const parts = findings.map((each, at) => textOf(each, at + 1));
  const head = `${findings.length} mistake${findings.length === 1 ? '' : 's'} with DMA`;
  return [`${head}:`, ...parts, ...(dropped === 0 ? [] : [`and ${dropped} more, not kept`])].join('\n');
}

/** @internal The report of a host whose sanitizer is off. */
export const NO_REPORT: DmaReport = {
  enabled: false,
  findings: [],
  dropped: 0,
  toString: () => '',
  clear() {},
};
