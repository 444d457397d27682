/**
 * The last stores of the driver to the registers of a device, so that a finding can name the one that led to it. A store is in
 * the hot loop of a driver, and a stack costs more than all the rest of it. So of a register that is stored to very often, most
 * stores have the stack of an earlier store to the same register, and a finding says that.
 */
import { Stack } from './stacks.ts';

/** How many stores are known. */
const KEPT = 16;
/** Of how many registers the stores are counted, before all are forgotten. */
const MOST = 4096;
/** So many stores to a register have stacks of their own; then each so many-th. */
const EACH = 256;
const THEN = 32;

/** The last line of a stack that an earlier store to the register has taken. */
export const EARLIER = '\n(an earlier store to the same register: not each one takes a stack)';

interface Register {
  stores: number;
  /** Of the last store that took one. */
  stack: Stack;
}

interface Store {
  readonly time: bigint;
  readonly register: Register;
  readonly stack: Stack;
  /** Whether the stack is of this store. */
  readonly own: boolean;
}

export class Doorbells {
  readonly #registers = new Map<number, Register>();
  readonly #stores: Store[] = [];
  #next = 0;

  /** `number`: one that no other register of the device has. */
  add(time: bigint, number: number): void {
    let register = this.#registers.get(number);
    const own = register === undefined || register.stores < EACH || register.stores % THEN === 0;
    if (register === undefined) {
      if (this.#registers.size === MOST) this.#registers.clear();
      register = { stores: 0, stack: new Stack() };
      this.#registers.set(number, register);
    } else if (own) register.stack = new Stack();
    register.stores++;
    const at = this.#next++ % KEPT;
    const forgotten = this.#stores[at];
    this.#stores[at] = { time, register, stack: register.stack, own };
    if (forgotten !== undefined) this.#forget(forgotten);
  }

  /** How many stores there were after one time and until another; of those that are known, so at most 16. */
  between(after: bigint, until: bigint): number {
    return this.#stores.filter(({ time }) => time > after && time <= until).length;
  }

  /** Where the last store before that time was; undefined: there was none, or it is too long ago. */
  before(time: bigint): string | undefined {
    let found: Store | undefined;
    for (const each of this.#stores)
      if (each.time <= time && (found === undefined || each.time > found.time)) found = each;
    return found && found.stack.text + (found.own ? '' : EARLIER);
  }

  /** Drops the stack of a store, unless others have it too. */
  #forget({ register, stack }: Store): void {
    if (stack !== register.stack && !this.#stores.some((each) => each.stack === stack)) stack.drop();
  }
}
