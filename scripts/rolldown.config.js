/**
 * The package's two entries, vfio and vfio/testing, and one file that both share: a program that uses both has each class once.
 */
export default {
  input: { vfio: 'dist/lib/index.js', testing: 'dist/lib/testing/index.js' },
  platform: 'node',
  output: {
    dir: 'dist',
    format: 'esm',
    entryFileNames: '[name].js',
    chunkFileNames: 'shared.js',
  },
};
