/**
 * Imported before a program: garbage is collected in each turn of the event loop, and when the program has nothing left to
 * do. So a handle that the program dropped without disposing it is reported in every run, and not only in one where the
 * engine happens to collect it before its host is disposed.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc');

function eachTurn() {
  gc();
  setImmediate(eachTurn).unref();
}
eachTurn();

process.once('beforeExit', async () => {
  for (let round = 0; round < 8; round++) await new Promise((resolve) => setImmediate(resolve));
});
