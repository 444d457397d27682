/**
 * No test may drop a handle without disposing it. The engine chooses when such a handle is collected: it may be closed, with a
 * warning, while another test runs. So each test file ends with a garbage collection, and fails if there was a
 * warning. A test that drops handles on purpose calls `dropsOnPurpose`.
 */
import { afterAll, expect, onTestFinished } from 'vitest';
import { collect } from './collect.ts';

/** One list and one listener for the process: in the guest all test files run in one process, and each loads this module. */
const shared = globalThis as { vfioDropped?: string[] };
if (shared.vfioDropped === undefined) {
  const heard: string[] = [];
  shared.vfioDropped = heard;
  process.on('warning', (warning) => {
    if (warning.name === 'VfioLeakWarning') heard.push(warning.message);
  });
}
const dropped = shared.vfioDropped;

/** For the test that is running: it drops on purpose all handles that are collected until its end. */
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
