/** vfio/testing/vitest: adds the matchers to vitest's `expect`, with their types. */
import { expect } from 'vitest';
import { type ExpectedMapping, matchers } from './index.ts';

declare module 'vitest' {
  interface Matchers<T> {
    /** The DMA sanitizer of the software host has found nothing. */
    toHaveNoDmaFaults: () => void;
    /** No handle that was opened through the host is open, but those of its fixture. */
    toHaveNoOpenHandles: () => void;
    /** Exactly these mappings are in the address space, in any order. */
    toHaveMappings: (expected: readonly ExpectedMapping[]) => void;
  }
}

expect.extend(matchers);
