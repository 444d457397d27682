/** Draws an I/O address space for the terminal: usable, reserved and mapped ranges. */
import colors from 'picocolors';

interface Range {
  start: bigint;
  last: bigint;
}

const LAST = 2n ** 64n - 1n;
const WIDTH = 28;

/** One line for each range of addresses, lowest first, with a bar whose pattern shows its kind. */
export function drawAddressSpace(
  ranges: Range[],
  mappings: { iova: bigint; length: bigint; writable: boolean }[],
): string[] {
  const stretches: { start: bigint; last: bigint; kind: 'usable' | 'reserved' | 'mapped'; note: string }[] =
    [];
  let next = 0n;
  const reserve = (last: bigint) => {
    if (last >= next)
      stretches.push({ start: next, last, kind: 'reserved', note: next === 0xfee00000n ? 'MSI window' : '' });
  };
  for (const range of ranges) {
    if (range.start > 0n) reserve(range.start - 1n);
    let free = range.start;
    for (const { iova, length, writable } of mappings) {
      if (iova < range.start || iova > range.last) continue;
      if (iova > free) stretches.push({ start: free, last: iova - 1n, kind: 'usable', note: '' });
      const last = iova + length - 1n;
      stretches.push({ start: iova, last, kind: 'mapped', note: writable ? 'read, write' : 'read' });
      free = last + 1n;
    }
    if (free <= range.last) stretches.push({ start: free, last: range.last, kind: 'usable', note: '' });
    next = range.last + 1n;
  }
  reserve(LAST);

  // Sizes differ by up to twenty orders of magnitude: the length of a bar is proportional to the logarithm of its size.
  const longest = Math.log2(Number(LAST));
  return stretches.map(({ start, last, kind, note }) => {
    const size = last - start + 1n;
    const length = Math.max(1, Math.round((Math.log2(Number(size)) / longest) * WIDTH));
    const bar = { usable: '░', reserved: '▓', mapped: '█' }[kind].repeat(length).padEnd(WIDTH);
    const paint = { usable: colors.dim, reserved: colors.red, mapped: colors.green }[kind];
    const address = (value: bigint) => `0x${value.toString(16).padStart(16, '0')}`;
    return `${address(start)}  ${paint(bar)}  ${kind.padEnd(8)}  ${bytes(size).padStart(8)}  ${note}`.trimEnd();
  });
}

function bytes(size: bigint): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let value = Number(size);
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value < 10 && value % 1 !== 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}
