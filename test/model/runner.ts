/** Runs sequences. If one shows a difference, makes a short program of it. */
import fc from 'fast-check';
import { native } from '../../lib/addon/native.ts';
import type { Backend } from '../support/backends.ts';
import { finish, perform, type Sequence, sequences, sorts } from './commands.ts';
import { Machine } from './machine.ts';
import type { Kind } from './model.ts';
import { Remote } from './remote.ts';
import { Rig } from './rig.ts';

export interface Plan {
  readonly kind: Kind;
  readonly backend: Backend;
  readonly seed: number;
  readonly sequences: number;
  /** Stops after so many milliseconds. */
  readonly time?: number;
  /** One of so many sequences ends with a DMA to every address. */
  readonly dmaEvery: number;
  /** If false, no sequence collects garbage or uses a worker. Default: some do. */
  readonly slow?: boolean;
  /** Steps that are left out. */
  readonly without?: readonly string[];
}

export interface Result {
  readonly runs: number;
  /** How often each step was done. 'sequences': their number; 'beside mapAsync': those with a step during a mapAsync. */
  readonly counts: ReadonlyMap<string, number>;
  /** Memory that this process keeps for good at the end. There should be none. */
  readonly kept: readonly { bytes: bigint; reason: string }[];
  /** The shortest program that shows a difference, and its message. */
  readonly difference:
    | { readonly program: string; readonly says: string; readonly sequence: Sequence }
    | undefined;
}

export class Runner {
  readonly #plan: Plan;
  readonly #counts = new Map<string, number>();
  #rig: Rig | undefined;
  #remote: Remote | undefined;

  constructor(plan: Plan) {
    this.#plan = plan;
  }

  async run(): Promise<Result> {
    const { kind, seed, sequences: numRuns, time } = this.#plan;
    const property = fc.asyncProperty(sequences(kind, this.#plan.without), (sequence) =>
      this.sequence(sequence),
    );
    try {
      const details = await fc.check(property, {
        seed,
        numRuns,
        endOnFailure: false,
        ...(time === undefined ? {} : { interruptAfterTimeLimit: time, markInterruptAsFailure: false }),
      });
      const counts = new Map(this.#counts);
      const [sequence] = details.counterexample ?? [];
      const difference =
        sequence === undefined
          ? undefined
          : {
              program: await this.program(sequence),
              says: (details.errorInstance as Error | null)?.message ?? 'nothing',
              sequence,
            };
      await this.close();
      return { runs: details.numRuns, counts, kept: native.kept(), difference };
    } finally {
      await this.close();
    }
  }

  async sequence(sequence: Sequence, program?: string[]): Promise<void> {
    const { kind, backend, dmaEvery, slow } = this.#plan;
    const sort = slow === false ? 0 : sequence.sort;
    this.#rig ??= await Rig.open(kind, backend);
    if (sorts.worker(sort) && this.#rig.iommufd) this.#remote ??= await Remote.start();
    const dma = (sequence.ending >>> 2) % dmaEvery === 0;
    native.schedule.hold();
    let whole = false;
    let beside = false;
    try {
      const machine = new Machine(
        this.#rig,
        sorts.worker(sort) ? this.#remote : undefined,
        this.#counts,
        program,
      );
      machine.check();
      for (const step of sequence.steps) {
        beside ||= machine.pending.length > 0 && DISTURBING.test(step[0]);
        await perform(machine, step, sort);
        machine.check();
      }
      await finish(machine, { ...sequence, sort }, dma);
      whole = true;
    } catch (error) {
      program?.push(`// ${error instanceof Error ? error.message : error}`);
      throw error;
    } finally {
      drain();
      if (!whole || this.#rig.spent) await this.#discard(whole);
      else this.#rig.rest();
      this.#counts.set('sequences', (this.#counts.get('sequences') ?? 0) + 1);
      if (beside) this.#counts.set('beside mapAsync', (this.#counts.get('beside mapAsync') ?? 0) + 1);
    }
  }

  /** The text of the program that does the same as a sequence. */
  async program(sequence: Sequence): Promise<string> {
    const lines: string[] = [];
    await this.sequence(sequence, lines).catch(() => {});
    return lines.join('\n');
  }

  async close(): Promise<void> {
    this.#rig?.[Symbol.dispose]();
    this.#rig = undefined;
    await this.#remote?.end();
    this.#remote = undefined;
  }

  /** Closes the rig. After a failed sequence it also ends the worker, whose state is unknown. */
  async #discard(whole: boolean): Promise<void> {
    this.#rig?.[Symbol.dispose]();
    this.#rig = undefined;
    if (whole) return;
    await this.#remote?.end();
    this.#remote = undefined;
  }
}

/** Steps that may remove an object that a running call uses. */
const DISTURBING =
  /^(c?unmap|c?unmapAll|disposeMapping|disposeSpace|destroy|compat|disposeTwin|leave|c?map|copy|workerUnmap|workerMap)$/;

/** Runs all waiting calls to their end. */
function drain(): void {
  const { schedule } = native;
  for (let waiting = schedule.waiting(); waiting.length > 0; waiting = schedule.waiting()) {
    if (!waiting[0]?.done) schedule.run(0);
    schedule.deliver(0);
  }
  schedule.release();
}
