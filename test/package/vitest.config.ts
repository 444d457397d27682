import { defineConfig } from 'vitest/config';

/** The packaging tests compile the addon twice and install packages, which takes minutes. So a separate script runs them. */
export default defineConfig({
  test: {
    include: ['test/package/**/*.test.ts'],
    reporters: ['default', './test/support/reporter.ts'],
    pool: 'forks',
    testTimeout: 900_000,
    hookTimeout: 900_000,
  },
});
