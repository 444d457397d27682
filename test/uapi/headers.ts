// Reads the names in C headers, and has a compiler find out their values. The parser knows the few forms that these headers
// use, and throws on any other, so that no name is left out.
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { kernelSource } from '../support/kernel-source.ts';

const run = promisify(execFile);
const root = path.resolve(import.meta.dirname, '../..');

export const ourDirectory = path.join(root, 'native/uapi');

export interface Names {
  /** Field names by struct; a flexible array ends in `[]`. */
  readonly structs: ReadonlyMap<string, readonly string[]>;
  /** Macros and enumerators, or our constants. */
  readonly numbers: readonly string[];
  /** Macros that take arguments. */
  readonly functions: readonly string[];
}

/** The facts by name: `size NAME`, `field NAME.FIELD` (offset and size), `flexible NAME.FIELD`, `number NAME`. */
export type Facts = ReadonlyMap<string, string>;

export function parse(text: string): Names {
  const code = text
    .replace(/\/\*[\s\S]*?\*\//g, ' ')
    .replace(/\/\/.*/g, '')
    .replace(/\\\n/g, ' ');
  const numbers: string[] = [];
  const functions: string[] = [];
  for (const [, name = '', arguments_, value = ''] of code.matchAll(
    /^[ \t]*#[ \t]*define[ \t]+(\w+)(\()?(.*)$/gm,
  )) {
    if (arguments_) functions.push(name);
    else if (value.trim() !== '') numbers.push(name); // a name without a value is an include guard
  }
  const plain = code.replace(/^[ \t]*#.*$/gm, '');
  for (const [, body = ''] of plain.matchAll(/\benum\b[\w\s]*\{([^}]*)\}/g)) {
    for (const entry of body.split(',')) {
      if (entry.trim() === '') continue;
      numbers.push(only(/^\s*(\w+)\s*(?:=[\s\S]*)?$/, entry));
    }
  }
  for (const [, name = ''] of plain.matchAll(/\bconstexpr\s+uint32_t\s+(\w+)\s*=/g)) numbers.push(name);

  const structs = new Map<string, string[]>();
  for (const [, name = '', body = ''] of plain.matchAll(/^struct (\w+) \{([\s\S]*?)^\};/gm)) {
    const fields: string[] = [];
    for (const member of body
      .replace(/\bunion\b/g, ' ')
      .replace(/[{}]/g, ' ')
      .split(';')) {
      if (member.trim() === '') continue;
      const field = only(/^\s*(?:\w+[\s*]+)+(\w+\s*(?:\[\s*\w*\s*\])?)\s*$/, member).replace(/\s/g, '');
      fields.push(field.endsWith('[]') ? field : field.replace(/\[.*/, ''));
    }
    structs.set(name, fields);
  }
  const opened = [...plain.matchAll(/\bstruct\s+\w+\s*\{/g)].length;
  if (opened !== structs.size) throw new Error(`${opened} structs begin but ${structs.size} were read`);
  return { structs, numbers, functions };
}

function only(form: RegExp, text: string): string {
  const found = form.exec(text)?.[1];
  if (found === undefined) throw new Error(`unknown form in a header: ${text}`);
  return found;
}

export function merge(all: readonly Names[]): Names {
  return {
    structs: new Map(all.flatMap((names) => [...names.structs])),
    numbers: all.flatMap((names) => names.numbers),
    functions: all.flatMap((names) => names.functions),
  };
}

/** The lines of a program that prints the facts of `names`. */
export function printing(names: Names, prefix = ''): string[] {
  const lines: string[] = [];
  for (const [name, fields] of names.structs) {
    const type = `${prefix}${name}`;
    lines.push(`printf("size ${name}=%zu\\n", sizeof(${type}));`);
    for (const field of fields) {
      const bare = field.replace('[]', '');
      lines.push(
        field === bare
          ? `printf("field ${name}.${bare}=%zu %zu\\n", offsetof(${type}, ${bare}), sizeof(${type}::${bare}));`
          : `printf("flexible ${name}.${bare}=%zu\\n", offsetof(${type}, ${bare}));`,
      );
    }
  }
  // Requests, flags and a few negative macros: all of them are passed to the kernel as 32 bits.
  for (const name of names.numbers) {
    lines.push(`printf("number ${name}=%u\\n", static_cast<uint32_t>(${prefix}${name}));`);
  }
  return lines;
}

/** Compiles and runs a program of these lines. Throws an error with the compiler's messages. */
export async function ask(includes: readonly string[], flags: readonly string[], lines: readonly string[]) {
  const directory = await mkdtemp(path.join(tmpdir(), 'vfio-uapi-'));
  try {
    const source = path.join(directory, 'ask.cc');
    const program = path.join(directory, 'ask');
    const standard = ['<cstddef>', '<cstdint>', '<cstdio>'];
    const head = [...standard, ...includes].map((name) => `#include ${name}\n`).join('');
    await writeFile(source, `${head}int main() {\n${lines.join('\n')}\n}\n`);
    await run('g++', ['-std=c++20', '-Wall', '-Wextra', '-Werror', ...flags, source, '-o', program]);
    const { stdout } = await run(program, { maxBuffer: 1 << 24 });
    const facts = new Map<string, string>();
    for (const line of stdout.trim().split('\n')) {
      const at = line.indexOf('=');
      facts.set(line.slice(0, at), line.slice(at + 1));
    }
    return facts as Facts;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** The directory with linux/NAME for each header of the kernel. */
export async function kernelHeaders(): Promise<string> {
  return path.join(await kernelSource(), 'include/uapi');
}

export async function parseFiles(files: readonly string[]): Promise<Names> {
  return merge(await Promise.all(files.map(async (file) => parse(await readFile(file, 'utf8')))));
}
