/** The entry vfio/testing. It imports the package's other entry, so that a program that uses both has each class once. */
import { resolve } from 'node:path';

const main = resolve('dist/lib/index.js');

export default {
  input: 'dist/lib/testing/index.js',
  platform: 'node',
  external: [main],
  output: { file: 'dist/testing.js', format: 'esm', paths: { [main]: './vfio.js' } },
};
