/** tsc checks the types of the matchers for vitest and for Jest: each line below compiles, or is expected not to. */
import { expect as jestExpect } from '@jest/globals';
import { expect } from 'vitest';
import type { Host, UserDevice } from '../lib/index.ts';
import '../lib/testing/jest.ts';
import '../lib/testing/vitest.ts';

export function vitest(host: Host, { dma }: UserDevice): void {
  expect(host).toHaveNoDmaFaults();
  expect(host).not.toHaveNoOpenHandles();
  expect(dma).toHaveMappings([{ iova: 0x1000, length: 4096n, writable: false }]);
  // @ts-expect-error: no length
  expect(dma).toHaveMappings([{ iova: 0x1000 }]);
  // @ts-expect-error: it takes nothing
  expect(host).toHaveNoDmaFaults(dma);
}

export function jest(host: Host, { dma }: UserDevice): void {
  jestExpect(host).toHaveNoDmaFaults();
  jestExpect(host).not.toHaveNoOpenHandles();
  jestExpect(dma).toHaveMappings([{ iova: 0x1000, length: 4096n, writable: false }]);
  // @ts-expect-error: no length
  jestExpect(dma).toHaveMappings([{ iova: 0x1000 }]);
  // @ts-expect-error: it takes nothing
  jestExpect(host).toHaveNoDmaFaults(dma);
}
