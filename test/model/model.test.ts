/**
 * The library against the model of test/model, over random sequences: what it says is mapped, what a kernel unmaps when
 * asked, which memory is there, and where the bytes of a device land, for each kind of address space. Here a fixed seed
 * and few sequences; `npm run test:model` has many, and fresh ones.
 */
import { describe, expect, test } from 'vitest';
import { backend } from '../support/backends.ts';
import { KINDS } from './model.ts';
import { Runner } from './runner.ts';

const sequences = backend === 'kernel' ? 20 : 150;
const patient = { timeout: 300_000 };

describe('random sequences of mapping, unmapping, disposal, destruction and calls under way', () => {
  for (const kind of KINDS)
    test(
      `${kind}: library, kernel, memory and device agree with the model after each step`,
      patient,
      async () => {
        const plan = { kind, backend, seed: 9, sequences, dmaEvery: backend === 'kernel' ? 4 : 8 };
        const { runs, counts, kept, difference } = await new Runner(plan).run();
        expect(difference?.program).toBeUndefined();
        expect(kept).toEqual([]);
        expect(runs).toBe(sequences);
        // They are about something.
        expect(counts.get('beside mapAsync')).toBeGreaterThan(sequences / 10);
        expect(counts.get('DMA transfers')).toBeGreaterThan(0);
      },
    );
});
