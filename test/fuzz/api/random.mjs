/** Random numbers that depend only on the numbers given to the constructor: leaving out a call changes no other call. */

function mix(a, b) {
  let x = Math.imul(a ^ b, 0x9e3779b1);
  x = Math.imul(x ^ (x >>> 15), 0x85ebca77);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae3d);
  return (x ^ (x >>> 16)) >>> 0;
}

export function hash(...parts) {
  return parts.reduce(mix, 0x2545f491);
}

export function hashText(text) {
  let found = 7;
  for (let at = 0; at < text.length; at++) found = mix(found, text.charCodeAt(at));
  return found;
}

export class Random {
  #state;

  constructor(...parts) {
    this.#state = hash(...parts);
  }
  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    return mix(this.#state, 0x1b873593);
  }
  /** 0 to `end` - 1. */
  below(end) {
    return this.next() % end;
  }
  chance(probability) {
    return this.next() < probability * 2 ** 32;
  }
  pick(list) {
    return list[this.below(list.length)];
  }
  /**
   * Chooses the element with the highest hash from a list whose elements have a `key`. If another element is removed, the
   * choice stays the same, so a sequence of calls can be shortened. `weight`: how likely each element is.
   */
  stable(list, weight = () => 1) {
    const salt = this.next();
    let best;
    let least = Number.POSITIVE_INFINITY;
    for (const each of list) {
      const score = -Math.log((hash(salt, each.key) + 1) / 2 ** 32) / weight(each);
      if (score < least) {
        least = score;
        best = each;
      }
    }
    return best;
  }
}
