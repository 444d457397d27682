/**
 * Reads the package's declaration files: the calls of its classes, with their parameters and results. So the fuzzer can make
 * valid arguments for a new call, which need not be listed anywhere.
 *
 * The reader knows only the part of the language that tsc writes. A type that it does not understand is `unknown`.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const TOKEN =
  /\s+|\/\/[^\n]*|(\/\*[\s\S]*?\*\/)|('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(=>|\.\.\.)|(#?[\w$]+)|([^\s\w])/gy;
const MODIFIERS = ['static', 'readonly', 'protected', 'private', 'declare', 'abstract', 'get', 'set'];
const UNKNOWN = { is: 'unknown' };

function tokensOf(text) {
  const tokens = [];
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(text); match !== null; match = TOKEN.exec(text)) {
    const [, comment, quoted, ...others] = match;
    if (comment !== undefined) tokens.push({ comment });
    else if (quoted !== undefined) tokens.push({ text: quoted, literal: quoted.slice(1, -1) });
    else {
      const found = others.find((each) => each !== undefined);
      if (found !== undefined) tokens.push({ text: found });
    }
  }
  return tokens;
}

class Reader {
  #tokens;
  #at = 0;
  /** Whether the last comment that was skipped marks the next declaration as internal. */
  internal = false;

  constructor(text) {
    this.#tokens = tokensOf(text);
  }

  #skip() {
    for (let next = this.#tokens[this.#at]; next?.comment !== undefined; next = this.#tokens[++this.#at])
      this.internal = next.comment.includes('@internal');
  }
  get next() {
    this.#skip();
    return this.#tokens[this.#at]?.text;
  }
  /** The token after the next one. */
  get after() {
    this.#skip();
    return this.#tokens.slice(this.#at + 1).find((each) => each.comment === undefined)?.text;
  }
  take() {
    this.#skip();
    return this.#tokens[this.#at++];
  }
  eat(text) {
    if (this.next !== text) return false;
    this.#at++;
    return true;
  }
  expect(text) {
    if (!this.eat(text)) throw new Error(`Expected ${text} but received ${this.next}`);
  }
  /** Skips a pair of brackets and the tokens between them. */
  balanced(open, close) {
    this.expect(open);
    for (let depth = 1; depth > 0; ) {
      const { text } = this.take();
      if (text === open) depth++;
      if (text === close) depth--;
    }
  }

  type() {
    this.eat('|');
    const of = [this.#intersection()];
    while (this.eat('|')) of.push(this.#intersection());
    return of.length === 1 ? of[0] : { is: 'union', of };
  }
  #intersection() {
    const of = [this.#postfix()];
    while (this.eat('&')) of.push(this.#postfix());
    return of.length === 1 ? of[0] : { is: 'all', of };
  }
  #postfix() {
    let type = this.#primary();
    while (this.eat('[')) {
      if (this.eat(']')) type = { is: 'array', of: type };
      else {
        type = { is: 'at', object: type, index: this.type() };
        this.expect(']');
      }
    }
    return type;
  }
  #primary() {
    if (this.eat('readonly') || this.eat('keyof') || this.eat('unique')) return this.#postfix();
    if (this.eat('typeof')) {
      const name = this.take().text;
      while (this.eat('.')) this.take();
      return { is: 'constant', name };
    }
    if (this.next === '(') {
      if (this.#isFunction()) {
        this.balanced('(', ')');
        this.expect('=>');
        this.type();
        return { is: 'function' };
      }
      this.expect('(');
      const type = this.type();
      this.expect(')');
      return type;
    }
    if (this.eat('[')) {
      const of = [];
      while (!this.eat(']')) {
        of.push(this.type());
        this.eat(',');
      }
      return { is: 'tuple', of };
    }
    if (this.next === '{') return { is: 'object', members: this.members() };
    const token = this.take();
    if (token.literal !== undefined) return { is: 'literal', value: token.literal };
    if (/^\d/.test(token.text)) return { is: 'literal', value: Number(token.text) };
    if (token.text === 'true' || token.text === 'false')
      return { is: 'literal', value: token.text === 'true' };
    if (token.text === 'new') {
      this.balanced('(', ')');
      this.expect('=>');
      this.type();
      return { is: 'function' };
    }
    let name = token.text;
    while (this.eat('.')) name = this.take().text;
    const of = this.next === '<' ? this.#typeArguments() : [];
    if (this.eat('is')) {
      this.type();
      return { is: 'name', name: 'boolean', of: [] };
    }
    return { is: 'name', name, of };
  }
  #isFunction() {
    if (this.after === ')' || this.after === '...') return true;
    const [, , third] = this.#tokens.slice(this.#at).filter((each) => each.comment === undefined);
    return third?.text === ':' || third?.text === '?' || third?.text === ',';
  }
  #typeArguments() {
    const of = [];
    this.expect('<');
    while (!this.eat('>')) {
      of.push(this.type());
      this.eat(',');
    }
    return of;
  }
  /** <T extends X>: the names, and the types that they extend. */
  typeParameters() {
    const found = [];
    if (!this.eat('<')) return found;
    while (!this.eat('>')) {
      const name = this.take().text;
      const bound = this.eat('extends') ? this.type() : UNKNOWN;
      if (this.eat('=')) this.type();
      found.push({ name, bound });
      this.eat(',');
    }
    return found;
  }
  parameters() {
    const found = [];
    this.expect('(');
    while (!this.eat(')')) {
      const rest = this.eat('...');
      const name = this.take().text;
      const optional = this.eat('?');
      const type = this.eat(':') ? this.type() : UNKNOWN;
      found.push({ name, optional, rest, type });
      this.eat(',');
    }
    return found;
  }
  members() {
    const found = new Map();
    this.expect('{');
    for (this.internal = false; !this.eat('}'); this.internal = false) {
      const modifiers = new Set();
      while (MODIFIERS.includes(this.next) && !['(', ':', '?', ';', '<'].includes(this.after))
        modifiers.add(this.take().text);
      const internal = this.internal || modifiers.has('protected') || modifiers.has('private');
      let key;
      if (this.eat('[')) {
        key = '[';
        while (!this.eat(']')) key += this.take().text;
        key += ']';
      } else {
        const token = this.take();
        key = token.literal ?? token.text;
      }
      const optional = this.eat('?');
      const generic = this.typeParameters();
      const place = `${modifiers.has('static') ? 'static ' : ''}${key}${modifiers.has('set') ? '=' : ''}`;
      if (this.next === '(') {
        const parameters = this.parameters();
        const returns = this.eat(':') ? this.type() : UNKNOWN;
        found.set(place, {
          parameters,
          returns,
          internal,
          optional,
          generic,
          accessor: modifiers.has('get'),
        });
      } else {
        const type = this.eat(':') ? this.type() : UNKNOWN;
        found.set(place, { type, internal, optional });
      }
      if (!this.eat(';')) this.eat(',');
    }
    return found;
  }
}

/** Adds the declarations of one file to `into`, by name. Other text is skipped. */
function read(text, into) {
  const reader = new Reader(text);
  while (reader.next !== undefined) {
    const { text: word } = reader.take();
    if (word === 'class' || word === 'interface') {
      const name = reader.take().text;
      const generic = reader.typeParameters();
      const bases = [];
      if (reader.eat('extends'))
        do bases.push(reader.type());
        while (reader.eat(','));
      const roles = [];
      if (reader.eat('implements'))
        do roles.push(reader.type().name);
        while (reader.eat(','));
      into.set(name, { generic, bases, roles, members: reader.members() });
    } else if (word === 'type' && /^\w+$/.test(reader.next ?? '') && ['=', '<'].includes(reader.after)) {
      const name = reader.take().text;
      reader.typeParameters();
      reader.expect('=');
      into.set(name, { alias: reader.type() });
    } else if (word === 'const' && reader.after === ':') {
      const name = reader.take().text;
      reader.expect(':');
      into.set(name, { alias: reader.type() });
    }
  }
}

/** All declarations of a folder of .d.ts files, and of the folders in it. */
export function readDeclarations(folder) {
  const found = new Map();
  for (const name of readdirSync(folder, { recursive: true })
    .filter((each) => each.endsWith('.d.ts'))
    .sort()) {
    // A file that can't be read is an error. Without it, its calls would get only hostile values.
    try {
      read(readFileSync(join(folder, name), 'utf8'), found);
    } catch (error) {
      throw new Error(`${name}: ${error.message}`);
    }
  }
  return found;
}

/** A member of a class or interface, or of its bases. `bound`: the types of the type parameters there. */
export function memberOf(declarations, name, key, bound = new Map()) {
  const declared = declarations.get(name);
  if (declared === undefined) return undefined;
  if (declared.alias !== undefined)
    return declared.alias.is === 'object' && declared.alias.members.has(key)
      ? { ...declared.alias.members.get(key), bound }
      : undefined;
  const own = declared.members.get(key);
  if (own !== undefined)
    return {
      ...own,
      bound: new Map([...bound, ...(own.generic ?? []).map((each) => [each.name, each.bound])]),
    };
  for (const base of declared.bases) {
    if (base.is !== 'name') continue;
    const generic = declarations.get(base.name)?.generic ?? [];
    const its = new Map(generic.map((each, at) => [each.name, base.of[at] ?? each.bound]));
    const found = memberOf(declarations, base.name, key, its);
    if (found !== undefined) return found;
  }
  return undefined;
}
