/** vfio/testing/jest: adds the matchers to Jest's `expect`, with their types. */
import { expect } from '@jest/globals';
import { type ExpectedMapping, matchers } from './index.ts';

declare module 'expect' {
  interface Matchers<R extends void | Promise<void>, T> {
    /** The DMA sanitizer of the software host has found nothing. */
    toHaveNoDmaFaults(): R;
    /** No handle that was opened through the host is open, but those of its fixture. */
    toHaveNoOpenHandles(): R;
    /** Exactly these mappings are in the address space, in any order. */
    toHaveMappings(expected: readonly ExpectedMapping[]): R;
  }
}

expect.extend(matchers);
