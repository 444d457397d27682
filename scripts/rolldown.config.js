/**
 * What a program loads: one file for each entry, without comments, since Node reads all of it at each start. The declarations
 * keep theirs. Each entry imports the entries that it needs, so that a program that uses several has each class once.
 */
import { resolve } from 'node:path';

const main = resolve('dist/lib/index.js');
const testing = resolve('dist/lib/testing/index.js');
const paths = { [main]: './vfio.js', [testing]: './testing.js' };

const entry = (input, file, external = []) => ({
  input: `dist/${input}.js`,
  platform: 'node',
  external,
  output: { file: `dist/${file}.js`, format: 'esm', comments: false, paths },
});

export default [
  entry('lib/index', 'vfio'),
  entry('lib/models/index', 'models', [main]),
  entry('lib/testing/index', 'testing', [main]),
  entry('lib/testing/vitest', 'testing-vitest', [testing, 'vitest']),
  entry('lib/testing/jest', 'testing-jest', [testing, '@jest/globals']),
  entry('bin/vfio', 'vfio-command', ['commander', 'picocolors']),
  entry('bin/vfio-soft-preload', 'bin/vfio-soft-preload'),
];
