/** Random numbers that depend on nothing but what they are made of: a call that is left out changes no other call. */

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
   * One of a list whose elements have a `key`, by highest hash: taking an element away that is not chosen changes no
   * choice, so that a sequence of calls can be shortened. `weight`: how likely each is.
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
