/** A simulated device whose protected calls a test can make. */
import { SimulatedDevice } from '../../lib/index.ts';

/** The offset of its doorbell, if nothing else is said. */
export const BELL = 0x10;

/** A device that does what a test says, with its protected calls open. */
export class Open extends SimulatedDevice {
  readonly identity = { vendor: 0x1af4, device: 0x10f3, classCode: 0xff0000 };
  override readonly bars = [{ size: 4096 }];
  override readonly express = true;
  override readonly functionReset = true;
  override readonly pageRequests = true;
  override readonly pasidBits = 8;
  plug: () => void | Promise<void> = () => {};
  write: (offset: number, value: bigint) => void | Promise<void> = () => {};
  reset: () => void | Promise<void> = () => {};
  override onPlug() {
    return this.plug();
  }
  override onWrite(_: number, offset: number, __: number, value: bigint) {
    return this.write(offset, value);
  }
  override onReset() {
    return this.reset();
  }
  later(job: () => void | Promise<void>, delay?: number): void {
    this.post(job, delay);
  }
  bell(bar = 0, offset = BELL) {
    return this.doorbell(bar, offset);
  }
  fetch(
    iova: bigint,
    into: Uint8Array,
    o?: { pasid?: number; execute?: boolean; privileged?: boolean },
  ): Promise<void> {
    return this.dmaReadAsync(iova, into, o);
  }
  store(iova: bigint, from: Uint8Array, o?: { pasid?: number; privileged?: boolean }): Promise<void> {
    return this.dmaWriteAsync(iova, from, o);
  }
  messages(): string[] {
    return this.errors.map(({ during, error }) => `${during}: ${(error as Error).message}`);
  }
}
