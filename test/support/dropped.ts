/**
 * No test may drop a handle: one that is collected without having been disposed is closed with a warning, at a moment
 * that the engine chooses, in the middle of another test or program. So each file of tests ends with a collection of
 * garbage, and a warning by then fails it. A test that drops handles on purpose says so with `dropsOnPurpose`.
 */
import { afterAll, expect, onTestFinished } from 'vitest';
import { collect } from './collect.ts';

/** One list and one listener for the process: in the guest all files share it, and this module is loaded for each. */
const shared = globalThis as { vfioDropped?: string[] };
if (shared.vfioDropped === undefined) {
  const heard: string[] = [];
  shared.vfioDropped = heard;
  process.on('warning', (warning) => {
    if (warning.name === 'VfioLeakWarning') heard.push(warning.message);
  });
}
const dropped = shared.vfioDropped;

/** For the test that is running: what is collected until its end was dropped on purpose. */
export function dropsOnPurpose(): void {
  const before = [...dropped];
  onTestFinished(async () => {
    await collect();
    dropped.splice(0, dropped.length, ...before);
  });
}

afterAll(async () => {
  // The sanitizer of a software host refers to handles for some milliseconds (lib/host/software/sanitizer/stacks.ts).
  await new Promise((resolve) => setTimeout(resolve, 30));
  await collect();
  expect(dropped.splice(0), 'Handles that a test of this file dropped without disposing them').toEqual([]);
});
