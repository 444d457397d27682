/**
 * The last stores of the driver to the registers of a device, so that a finding can name the one that led to it. A store is in
 * the hot loop of a driver: it costs a stack, a time and a place in a ring.
 */
import { Stack } from './stacks.ts';

const KEPT = 16;

export class Doorbells {
  readonly #stacks: Stack[] = [];
  readonly #times: bigint[] = [];
  #next = 0;

  add(time: bigint): void {
    const at = this.#next++ % KEPT;
    this.#stacks[at]?.drop();
    this.#stacks[at] = new Stack();
    this.#times[at] = time;
  }

  /** How many stores there were after one time and until another; of those that are known, so at most 16. */
  between(after: bigint, until: bigint): number {
    return this.#times.filter((each) => each > after && each <= until).length;
  }

  /** The last store before that time; undefined: there was none, or it is too long ago. */
  before(time: bigint): Stack | undefined {
    let found: number | undefined;
    for (const [at, each] of this.#times.entries())
      if (each <= time && (found === undefined || each > (this.#times[found] as bigint))) found = at;
    return found === undefined ? undefined : this.#stacks[found];
  }
}
