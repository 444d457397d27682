import { defineConfig } from 'vitest/config';

/** The packaging tests compile the addon twice and install packages: minutes, so they have a script of their own. */
export default defineConfig({
  test: {
    include: ['test/package/**/*.test.ts'],
    reporters: ['default', './test/support/reporter.ts'],
    pool: 'forks',
    testTimeout: 900_000,
    hookTimeout: 900_000,
  },
});
