/** The error of a device whose DMA did not arrive. */
import { hex } from '../base/hex.ts';
import { type OURS, ours } from '../base/private.ts';

/** A DMA access that did not move all of its bytes. The fault log of the host says why (`host.software.takeFaults()`). */
export class DmaError extends Error {
  readonly code = 'ERR_VFIO_DMA';
  readonly iova: bigint;
  readonly length: number;
  readonly write: boolean;
  readonly pasid: number | undefined;

  /** @internal */
  constructor(key: typeof OURS, iova: bigint, length: number, write: boolean, pasid: number | undefined) {
    ours(key, 'DmaError');
    const way = write ? 'write to' : 'read from';
    super(`The device's ${way} IOVA ${hex(iova)}, ${length} bytes, did not arrive`);
    this.name = 'DmaError';
    this.iova = iova;
    this.length = length;
    this.write = write;
    this.pasid = pasid;
  }
}
