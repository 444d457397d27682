#!/usr/bin/env node
/** The command `vfio`: docs/command.md. */
import colors from 'picocolors';
import { main } from '../cli/main.ts';

// A reader that has seen enough (`vfio list | head`) ends it as SIGPIPE ends other commands.
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
  // A defect of ours: it is not a "no".
  console.error(error);
  process.exitCode = 2;
}
