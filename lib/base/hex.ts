/** Numbers and ranges of addresses, as all messages show them. */

/** "0x1000" */
export const hex = (value: bigint | number) => `0x${value.toString(16)}`;

/** A range with its first and its last byte: "[0x1000, 0x1fff]". */
export const span = (start: bigint, last: bigint) => `[${hex(start)}, ${hex(last)}]`;

/** The same, by its length in bytes. */
export const range = (start: bigint, length: bigint) => span(start, start + length - 1n);
