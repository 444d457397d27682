/** The time from the write to an eventfd, in another thread, to the awaited promise; against the return of epoll_wait. */
import { loadAddon } from './addon.ts';
import { edu, withDevice } from './machine.ts';
import { type Comparison, compare, median, type Row } from './measure.ts';

const TIMES = 50;
const MICROSECOND = 1000;

async function latency(): Promise<Comparison> {
  return await withDevice(edu, async ({ device }) => {
    const [interrupt] = device.irq('msi').enable(1);
    if (!interrupt) throw new Error('the device has no MSI');
    const bell = new (loadAddon().Bell)();
    const { eventfd } = interrupt;
    const ours = async () => {
      const samples = new Float64Array(TIMES);
      for (let i = 0; i < TIMES; i++) {
        const fired = interrupt.wait();
        bell.ring(eventfd);
        await fired;
        samples[i] = bell.elapsed();
      }
      return median(samples) / MICROSECOND;
    };
    const baseline = () => median(bell.epoll(TIMES)) / MICROSECOND;
    try {
      return await compare(ours, baseline, { rounds: 40, warmUp: 4 });
    } finally {
      bell.dispose();
    }
  });
}

export const rows: readonly Row[] = [
  { name: 'interrupt to awaited promise', unit: 'us', target: 'at most 3x', measure: latency },
];
