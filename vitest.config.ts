import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { leftOut } from './test/support/software-only.ts';

// The guest runs on a software CPU: everything takes some ten times longer there.
const guest = Boolean(process.env['VFIO_GUEST']);

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/package/**', 'test/selftest/**', ...leftOut().keys()],
    reporters: ['default', './test/support/reporter.ts'],
    pool: 'forks',
    execArgv: ['--expose-gc'],
    setupFiles: ['./test/support/dropped.ts'],
    testTimeout: guest ? 60_000 : 30_000,
    hookTimeout: guest ? 60_000 : 30_000,
    // One machine, one set of devices: on a real kernel the files take turns. They share one process there, because
    // starting one takes 6 seconds.
    fileParallelism: !guest,
    isolate: !guest,
    // vitest leaves a core free, which on two cores is half of the machine.
    ...(guest ? {} : { maxWorkers: Math.max(2, availableParallelism() - 1) }),
    // vitest runs longer files first, by what it remembers of the last run: that of the software host, for the guest. The
    // order there, which shares one machine, should depend on nothing that another run left.
    ...(guest ? { cache: false } : {}),
  },
});
