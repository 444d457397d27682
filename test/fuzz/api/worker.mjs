/** Makes calls in a worker thread, on its own host and on descriptors of the main thread, which may end it at any time. */
import { parentPort, workerData } from 'node:worker_threads';
import { readDeclarations } from './declarations.mjs';
import { outcomeOf, Session } from './session.mjs';

const { seed, descriptors, calls, dist } = workerData;
const vfio = await import(`${dist}/vfio.js`);
const finding = (text) => parentPort.postMessage({ finding: text });
let made = 0;
const report = {
  outcome() {
    made++;
  },
  finding,
  plain() {},
  fromWorker() {},
  uncaught(error) {
    if (outcomeOf(vfio, error) === undefined) finding(`an uncaught error: ${error?.stack ?? String(error)}`);
  },
};
process.on('uncaughtException', report.uncaught);
process.on('unhandledRejection', report.uncaught);
for (const fd of descriptors) {
  for (const type of [vfio.Iommufd, vfio.VfioDevice]) {
    try {
      const handle = type.fromFd(fd);
      if (fd % 2 === 0) handle[Symbol.dispose]();
      else globalThis[`kept${fd}`] = handle;
    } catch (error) {
      report.uncaught(error);
    }
  }
}
const session = new Session({ vfio, declarations: readDeclarations(`${dist}/lib`), seed, number: 0, report });
await session.run({ from: 0, to: calls, wanted: () => true, before: () => {} });
parentPort.postMessage({ made });
