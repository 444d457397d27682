/**
 * A list that stays sorted. It is an array of short arrays, so that adding and removing are cheap at every index: in one long
 * array, moving the items behind would take most of the time.
 */
const LONGEST = 256;

export class SortedList<T> {
  readonly #before: (a: T, b: T) => boolean;
  /** No piece is empty. */
  readonly #pieces: T[][] = [];

  /** `before`: whether `a` comes before `b`. If neither comes before the other, only one of them may be in the list. */
  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before;
  }

  add(item: T): void {
    const holds = (each: T) => !this.#before(each, item);
    const at = Math.min(this.#pieceWhere(holds), this.#pieces.length - 1);
    const piece = this.#pieces[at];
    if (piece === undefined) {
      this.#pieces.push([item]);
      return;
    }
    piece.splice(firstWhere(piece, holds), 0, item);
    if (piece.length > LONGEST) this.#pieces.splice(at + 1, 0, piece.splice(LONGEST / 2));
  }

  /** Removes an item, which must be in the list. */
  remove(item: T): void {
    const holds = (each: T) => !this.#before(each, item);
    const at = this.#pieceWhere(holds);
    const piece = this.#pieces[at] as T[];
    piece.splice(firstWhere(piece, holds), 1);
    if (piece.length === 0) this.#pieces.splice(at, 1);
  }

  /**
   * All items from the first for which `holds` is true; it must be true for all after that one. The list must not be changed
   * while they are read.
   */
  *from(holds: (item: T) => boolean): Generator<T, void> {
    const at = this.#pieceWhere(holds);
    for (let i = at; i < this.#pieces.length; i++) {
      const piece = this.#pieces[i] as T[];
      for (let j = i === at ? firstWhere(piece, holds) : 0; j < piece.length; j++) yield piece[j] as T;
    }
  }

  /** The first piece that has an item for which `holds` is true. */
  #pieceWhere(holds: (item: T) => boolean): number {
    return firstWhere(this.#pieces, (piece) => holds(piece[piece.length - 1] as T));
  }
}

/** The first index where `holds` is true, in an array where it stays true from there on. */
function firstWhere<T>(items: readonly T[], holds: (item: T) => boolean): number {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(items[middle] as T)) high = middle;
    else low = middle + 1;
  }
  return low;
}
