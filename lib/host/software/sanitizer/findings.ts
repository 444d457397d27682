/** The list of findings: each cause once, with a count. */
import { ownOf } from '../../../base/own.ts';
import { EARLIER } from './doorbells.ts';
import type { DmaFinding, DmaStacks } from './report.ts';

const MOST = 1000;

/** A finding without what the list adds to it. */
export type Found = DmaFinding extends infer Each
  ? Each extends DmaFinding
    ? Omit<Each, 'count'>
    : never
  : never;

/** What makes two findings of one kind and one device the same cause: where the program did it, or the range if that is unknown. */
function causeOf(found: Found): string {
  const { kind, device, message } = found;
  const { map, unmap, dispose, doorbell, reset, call } = ownOf<DmaStacks>(found.stacks);
  const places = [map, unmap, dispose, reset, call].filter((each) => each !== undefined);
  // Of memory that was given away, the doorbell is what gave it: the ring's one mapping has all of them.
  if (doorbell !== undefined && (places.length === 0 || kind === 'changed-while-owned'))
    places.push(doorbell.replace(EARLIER, ''));
  const parts: unknown[] = [kind, device, ...(places.length === 0 ? [message] : places)];
  if (kind === 'left-at-close' && !Object.hasOwn(found, 'iova')) parts.push(message);
  if (Object.hasOwn(found, 'pasid') && 'pasid' in found) parts.push(found.pasid, found.write);
  if (Object.hasOwn(found, 'vector') && 'vector' in found) parts.push(found.vector);
  return parts.map(String).join('\n');
}

export class Findings {
  readonly #byCause = new Map<string, Found & { count: number }>();
  #dropped = 0;

  add(found: Found): void {
    const cause = causeOf(found);
    const known = this.#byCause.get(cause);
    if (known !== undefined) known.count++;
    else if (this.#byCause.size < MOST) this.#byCause.set(cause, { ...found, count: 1 });
    else this.#dropped++;
  }

  drop(count: number): void {
    this.#dropped += count;
  }

  get all(): readonly DmaFinding[] {
    return [...this.#byCause.values()].map((each) => ({ ...each }) as DmaFinding);
  }

  get dropped(): number {
    return this.#dropped;
  }

  clear(): void {
    this.#byCause.clear();
    this.#dropped = 0;
  }
}
