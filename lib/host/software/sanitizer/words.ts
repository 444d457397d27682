/** What the sanitizer says of an access that went wrong. */

import type { NativeIncident } from '../../../addon/native.ts';
import { hex, range } from '../../../base/hex.ts';
import type { DmaRange } from './report.ts';

export function rangeText({ iova, length }: DmaRange): string {
  return range(iova, length);
}

/** "0000:00:10.0 wrote 8 bytes to IOVA 0x1000 (PASID 5)" */
export function accessText({ bdf, iova, length, write, pasid }: NativeIncident, tried: boolean): string {
  const verb = tried ? (write ? 'tried to write' : 'tried to read') : write ? 'wrote' : 'read';
  return `${bdf} ${verb} ${length} byte${length === 1n ? '' : 's'} at IOVA ${hex(iova)}${pasid === null ? '' : ` with PASID ${pasid}`}`;
}

/** How far an address is from a mapping that it is not in. */
function distance(iova: bigint, { iova: start, length }: DmaRange): bigint {
  return iova < start ? start - iova : iova - (start + length);
}

/** The mappings below and above an address, the nearest first. */
export function nearestOf(iova: bigint, mappings: readonly DmaRange[]): DmaRange[] {
  let below: DmaRange | undefined;
  let above: DmaRange | undefined;
  for (const each of mappings) {
    if (each.iova > iova) {
      if (above === undefined || each.iova < above.iova) above = each;
    } else if (below === undefined || each.iova > below.iova) below = each;
  }
  return [below, above]
    .filter((each) => each !== undefined)
    .sort((a, b) => (distance(iova, a) < distance(iova, b) ? -1 : 1))
    .map(({ iova: start, length }) => ({ iova: start, length }));
}

/** Where an address is, beside a mapping: "8 bytes behind the end of [0x1000, 0x1fff]". */
export function besideText(iova: bigint, range: DmaRange): string {
  const far = distance(iova, range);
  if (iova < range.iova) return `${far} byte${far === 1n ? '' : 's'} before ${rangeText(range)}`;
  if (far === 0n) return `right behind the end of ${rangeText(range)}`;
  return `${far} byte${far === 1n ? '' : 's'} behind the end of ${rangeText(range)}`;
}

/** The bytes of memory as text: the first 16. */
function bytesText(bytes: Uint8Array): string {
  const shown = Array.from(bytes.subarray(0, 16), (each) => each.toString(16).padStart(2, '0')).join(' ');
  return bytes.length > 16 ? `${shown} ...` : shown;
}

/** What a driver has changed while a device owned it. */
export function changeText(
  bdf: string,
  iova: bigint,
  before: Uint8Array,
  after: Uint8Array,
  owned: DmaRange,
): string {
  const { length } = after;
  return `${length} byte${length === 1 ? '' : 's'} at IOVA ${hex(iova)}, byte ${iova - owned.iova} of ${rangeText(owned)}, changed from ${bytesText(before)} to ${bytesText(after)} while ${bdf} owned ${length === 1 ? 'it' : 'them'}: a driver writes all of a descriptor before it rings the doorbell`;
}

const LOW = 0xffffffffn;

/** What an address may have been before it was spoilt; only a guess, from what is mapped. */
export function guessOf(iova: bigint, mappings: readonly DmaRange[]): string | undefined {
  if (iova > LOW) return undefined;
  for (const { iova: start, length } of mappings) {
    // The address in the mapping whose lower half this is.
    const whole = ((start >> 32n) << 32n) | iova;
    const candidate = whole < start ? whole + LOW + 1n : whole;
    if (candidate > LOW && candidate < start + length)
      return `possible: the IOVA lacks its upper 32 bits (${hex(candidate)} is mapped)`;
  }
  return undefined;
}
