/** Checks of what a model passes to its device, and of what its functions return. */
import { flag, integer, known, refusal, type U64Like, u64 } from '../base/check.ts';
import { refusePromise } from '../base/later.ts';

/** What `own` takes at most, in bytes: it is copied. */
const MOST_OWNED = 2 ** 24;

/** The checked arguments of a change of owner. */
export function range(iova: U64Like, length: number, o: { pasid?: number } | undefined) {
  const address = u64(iova, 'iova');
  const size = integer(length, 'length', 1, MOST_OWNED);
  const { pasid } = known(o, 'options', ['pasid']);
  if (pasid !== undefined) integer(pasid, 'pasid', 0, 0xfffff);
  return { address, size, pasid };
}

/** Whose access it is, and what its page requests ask for besides reading or writing. */
export interface Requester {
  pasid?: number;
  execute?: boolean;
  privileged?: boolean;
}

const NAMES = {
  dmaRead: ['pasid'],
  dmaWrite: ['pasid'],
  dmaReadAsync: ['pasid', 'execute', 'privileged'],
  dmaWriteAsync: ['pasid', 'privileged'],
} as const;

/** The checked arguments of a DMA access. */
export function access(call: keyof typeof NAMES, iova: U64Like, bytes: Uint8Array, o: Requester | undefined) {
  const address = u64(iova, 'iova');
  const given = known(o, 'options', NAMES[call]);
  const { pasid } = given;
  if (!ArrayBuffer.isView(bytes) || !(bytes instanceof Uint8Array))
    throw refusal('a Uint8Array', call.startsWith('dmaWrite') ? 'from' : 'into', bytes);
  if (pasid !== undefined) integer(pasid, 'pasid', 0, 0xfffff);
  const execute = flag(given.execute, 'execute', false);
  const privileged = flag(given.privileged, 'privileged', false);
  if ((execute || privileged) && pasid === undefined)
    throw refusal(`a number beside ${execute ? 'execute' : 'privileged'}`, 'pasid', pasid);
  const { length } = bytes; // 0 once a model has detached it
  return { address, length, pasid, execute, privileged };
}

/** A value that a model gave, as 64 bits of which the addon takes those of the access. */
export function onTheBus(value: bigint | number): bigint | number {
  refusePromise(value, 'what onRead returned');
  if (typeof value === 'bigint') return BigInt.asUintN(64, value);
  if (!Number.isSafeInteger(value)) return u64(value, 'what onRead returned');
  return value < 0 ? BigInt.asUintN(64, BigInt(value)) : value;
}
