#!/usr/bin/env node
/** The command `vfio`: docs/command.md. */
import colors from 'picocolors';
import { main } from '../cli/main.ts';

process.exitCode = await main(process.argv.slice(2), {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  colors: process.stdout.isTTY === true && colors.isColorSupported,
});
