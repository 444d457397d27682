/** Opens a device of a new software host for a benchmark. */
import { Host, type UserDevice } from '../lib/index.ts';

export const edu = '0000:00:10.0';
/** The device whose BAR 2 is 1 MiB of plain memory. */
export const memoryDevice = '0000:00:14.0';

export async function withDevice<T>(bdf: string, use: (user: UserDevice) => T | Promise<T>): Promise<T> {
  // What is measured is what a driver has on a kernel too, where there is no sanitizer.
  using host = Host.open({ backend: 'software', software: { sanitizer: false } });
  await host.device(bdf).bind();
  using user = host.attach(bdf);
  return await use(user);
}
