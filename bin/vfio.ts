#!/usr/bin/env node
/** Starts the command `vfio` (docs/command.md). */
import colors from 'picocolors';
import { main } from '../cli/main.ts';

// If the reader closes the pipe early (`vfio list | head`), ends with the status of a command that SIGPIPE has ended.
const SIGPIPE_STATUS = 128 + 13;
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) =>
    process.exit(error.code === 'EPIPE' ? SIGPIPE_STATUS : 2),
  );

try {
  process.exitCode = await main(process.argv.slice(2), {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
    colors: process.stdout.isTTY === true && colors.isColorSupported,
  });
} catch (error) {
  // A defect of this package, for which the status must not be 1 ("no").
  console.error(error);
  process.exitCode = 2;
}
