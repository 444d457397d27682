/** The other entries, vfio/testing and vfio/models. They import the package's main entry, so that each class is there once. */
import { resolve } from 'node:path';

const main = resolve('dist/lib/index.js');

export default ['testing', 'models'].map((name) => ({
  input: `dist/lib/${name}/index.js`,
  platform: 'node',
  external: [main],
  output: { file: `dist/${name}.js`, format: 'esm', paths: { [main]: './vfio.js' } },
}));
