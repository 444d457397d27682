import { defineConfig } from 'vitest/config';

/** The kernel's self-test needs the kernel's source and the preload library. So a separate script runs it. */
export default defineConfig({
  test: {
    include: ['test/selftest/**/*.test.ts'],
    reporters: ['default', './test/support/reporter.ts'],
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 900_000,
  },
});
