/** The driver of the row "across workers": reads a register as often as it is told, and answers with the nanoseconds for each. */
import { parentPort, workerData } from 'node:worker_threads';
import { VfioDevice } from '../lib/index.ts';
import { perTime } from './measure.ts';

const { fd, value } = workerData as { fd: number; value: number };
const port = parentPort;
if (!port) throw new Error('it is started by models.ts');
const device = VfioDevice.fromFd(fd);
const registers = device.region('bar0').mmap();
port.on('message', (times: number) => {
  if (times === 0) {
    registers[Symbol.dispose]();
    device[Symbol.dispose]();
    port.close();
    return;
  }
  const time = perTime(times, () => {
    for (let i = 0; i < times; i++)
      if (registers.read32(0) !== value) throw new Error('a read did not see the register');
  });
  port.postMessage(time);
});
port.postMessage('ready');
