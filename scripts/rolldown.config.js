/**
 * The other entries: vfio/models, and those of vfio/testing. Each imports the entries that it needs, so that a program that uses
 * several has each class once.
 */
import { resolve } from 'node:path';

const main = resolve('dist/lib/index.js');
const testing = resolve('dist/lib/testing/index.js');
const paths = { [main]: './vfio.js', [testing]: './testing.js' };

const entry = (name, file, external) => ({
  input: `dist/lib/${name}.js`,
  platform: 'node',
  external,
  output: { file: `dist/${file}.js`, format: 'esm', paths },
});

export default [
  entry('models/index', 'models', [main]),
  entry('testing/index', 'testing', [main]),
  entry('testing/vitest', 'testing-vitest', [testing, 'vitest']),
  entry('testing/jest', 'testing-jest', [testing, '@jest/globals']),
];
