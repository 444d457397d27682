/**
 * The exported API as one text: each name that lib/index.ts exports, the types that it refers to, and all public members. It is
 * made from the declarations that tsc writes. It does not depend on the file of a declaration, on the order of members, on
 * comments, or on whether a class defines a member or inherits it from a class that is not exported.
 *
 * The reader knows only the part of the language that tsc writes.
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** A declaration, in the file that it is in. */
interface Declaration {
  readonly file: string;
  readonly name: string;
  /** In one line, without `export` and `declare`. */
  readonly text: string;
}

interface File {
  readonly declarations: Map<string, Declaration>;
  /** The names that the file imports, or exports from other files: by local name, the other file and the name there. */
  readonly links: Map<string, { readonly from: string; readonly name: string }>;
  /** The members that this file adds to interfaces of other files. */
  readonly added: readonly { readonly of: string; readonly member: string; readonly type: string }[];
}

/** Splits a text at each `separator` that is not inside brackets. */
function split(text: string, separator: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let from = 0;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at] as string;
    if ('{[('.includes(letter) || (letter === '<' && /\w/.test(text[at - 1] ?? ''))) depth++;
    else if ('}])'.includes(letter) || (letter === '>' && text[at - 1] !== '=')) depth--;
    else if (letter === separator && depth === 0) {
      parts.push(text.slice(from, at));
      from = at + 1;
    }
  }
  return [...parts, text.slice(from)].map((part) => part.trim()).filter((part) => part !== '');
}

/** The statements of a file: each begins with one of these words at the margin. */
const statements = (text: string) =>
  text
    .replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '')
    .split(/^(?=(?:export|import|declare|abstract|class|interface|type|const|let|function|enum)\b)/m)
    .map((statement) => statement.replace(/\s+/g, ' ').trim());

function read(path: string): File {
  const declarations = new Map<string, Declaration>();
  const links: File['links'] = new Map();
  const added: { of: string; member: string; type: string }[] = [];
  for (const statement of statements(readFileSync(path, 'utf8'))) {
    const link = /^(?:import|export)(?: type)? \{(.*)\} from '(\..*)';$/.exec(statement);
    if (link)
      for (const each of split(link[1] ?? '', ',')) {
        const [name = '', as = name] = each.replace(/^type /, '').split(' as ');
        links.set(as, { from: join(dirname(path), (link[2] ?? '').replace(/\.ts$/, '.d.ts')), name });
      }
    for (const [, of = '', members = ''] of /^declare module/.test(statement)
      ? statement.matchAll(/interface (\w+) \{([^{}]*)\}/g)
      : [])
      for (const each of split(members, ';')) {
        const [member = '', type = ''] = each.split(': ');
        added.push({ of, member, type });
      }
    const declared =
      /^(?:export )?(?:declare )?((?:abstract )?class|interface|type|const|let|function|enum) (\w+)/.exec(
        statement,
      );
    const name = declared?.[2] ?? '';
    const text = statement.replace(/^(?:export )?(?:declare )?(?:abstract )?/, '');
    if (!declared) continue;
    const before = declarations.get(name);
    declarations.set(name, { file: path, name, text: before ? `${before.text} ${text}` : text });
  }
  return { declarations, links, added };
}

/** The head and the members of a class or interface; undefined: the declaration is neither. */
function bodyOf({ text }: Declaration): { head: string; members: string[] } | undefined {
  if (!/^(class|interface) /.test(text)) return undefined;
  const at = text.indexOf('{');
  return { head: text.slice(0, at).trim(), members: split(text.slice(at + 1, -1), ';') };
}

/** A member hides inherited members with the same key. Getters and setters have different keys, and so have statics. */
const keyOf = (member: string) =>
  `${/^static /.test(member) ? 'static ' : ''}${/\bset \w+\(/.test(member) ? 'set ' : ''}${/^(?:(?:static|readonly|abstract|get|set|async) )*(\[[\w.]+\]|\w+)/.exec(member)?.[1]}`;

/** Members that no caller can use: private and protected ones, and constructors that require this package's key. */
const isHidden = (member: string) =>
  /^(#|private |protected |constructor\(key: typeof OURS)|^(private|protected) constructor/.test(member);

export function apiOf(folder: string): string {
  const index = join(folder, 'index.d.ts');
  const files = new Map<string, File>();
  const fileAt = (path: string): File => {
    const file = files.get(path) ?? read(path);
    if (!files.has(path)) {
      files.set(path, file);
      for (const { from } of file.links.values()) fileAt(from);
    }
    return file;
  };
  const find = (path: string, name: string): Declaration | undefined => {
    const file = fileAt(path);
    const link = file.links.get(name);
    return file.declarations.get(name) ?? (link && find(link.from, link.name));
  };
  const exported = new Set(fileAt(index).links.keys());

  /** The public members of a class or interface, and those of its bases that are not exported. */
  const membersOf = (declaration: Declaration): Map<string, { text: string; file: string }[]> => {
    const found = new Map<string, { text: string; file: string }[]>();
    const body = bodyOf(declaration);
    for (const text of body?.members ?? []) {
      const key = keyOf(text);
      if (!isHidden(text)) found.set(key, [...(found.get(key) ?? []), { text, file: declaration.file }]);
    }
    const [, base = '', of = ''] =
      / extends (\w+)(?:<(.*?)>)?(?: implements .*)?$/.exec(body?.head ?? '') ?? [];
    const above = exported.has(base) ? undefined : find(declaration.file, base);
    if (above === undefined) return found;
    const [, parameters = ''] =
      /^\w+ \w+<(.*)>(?= extends| implements|$)/.exec(bodyOf(above)?.head ?? '') ?? [];
    const names = split(parameters, ',').map((each) => /^\w+/.exec(each)?.[0] ?? '');
    const types = split(of, ',');
    for (const [key, members] of membersOf(above))
      if (!found.has(key))
        found.set(
          key,
          members.map(({ text, file }) => ({
            file,
            text: text.replace(/\b\w+\b/g, (word) => types[names.indexOf(word)] ?? word),
          })),
        );
    return found;
  };

  const lines: string[] = [];
  const done = new Map<string, string>();
  const write = (name: string, declaration: Declaration): void => {
    if (done.has(name)) {
      if (done.get(name) !== declaration.file) throw new Error(`two declarations are called ${name}`);
      return;
    }
    done.set(name, declaration.file);
    const body = bodyOf(declaration);
    const parts: { text: string; file: string }[] = [];
    if (body === undefined) parts.push(declaration);
    else {
      // A program can't use the name of a base that is not exported. The members show what a class implements.
      const head = body.head
        .replace(/ implements .*$/, '')
        .replace(/ extends (\w+)(?:<.*?>)?/, (all, base: string) =>
          exported.has(base) || find(declaration.file, base) === undefined ? all : '',
        );
      parts.push({ text: head, file: declaration.file });
      const members = [...membersOf(declaration).values()].flat();
      parts.push(...members.sort((a, b) => (a.text < b.text ? -1 : 1)));
    }
    const added = [...files.values()].flatMap((each) => each.added);
    const shown = parts.map(({ text, file }) => ({
      file,
      text: text.replace(
        /\b(\w+)\['(\w+)'\]/g,
        (all, of: string, member: string) =>
          added.find((each) => each.of === of && each.member === member)?.type ?? all,
      ),
    }));
    const [first = '', ...rest] = shown.map(({ text }) => text.replace(/;$/, ''));
    lines.push(
      [exported.has(name) ? `export ${first}` : first, ...rest.map((each) => `  ${each}`)].join('\n'),
    );
    for (const { text, file } of shown)
      for (const [word] of text.replace(/'[^']*'/g, '').matchAll(/(?<=typeof )\w+|\b[A-Z]\w*\b/g)) {
        const other = exported.has(word) ? find(index, word) : find(file, word);
        if (other !== undefined) write(word, other);
      }
  };
  for (const name of [...exported].sort()) {
    const declaration = find(index, name);
    if (declaration === undefined) throw new Error(`${name} is exported and not declared`);
    write(name, declaration);
  }
  return `${lines.sort().join('\n\n')}\n`;
}
