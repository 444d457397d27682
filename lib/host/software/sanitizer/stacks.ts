/**
 * Stacks that cost little until somebody reads them.
 *
 * Life: what is taken first is the engine's own record of the frames. It refers to the objects whose methods were running, and
 * so to the program's handles, which could then not be collected. So after a short time, or when many are waiting, it is replaced
 * by the text, unless nobody needs the stack any more by then.
 */
import { stackOf } from '../../../base/errors.ts';

/** Frames of this package are left out of the text: up to six of them are among those that are taken. */
const TAKEN = 12;
/** So many stacks may wait to be made into text. */
const WAITING = 4096;
/** For so long, in milliseconds. */
const PATIENCE = 20;

/** This package's own files: all of lib/ in a checkout, and one file in the package. */
const OWN = import.meta.url.replace(/lib\/host\/software\/sanitizer\/[^/]*$/, 'lib/');
const OWN_PATH = OWN.replace(/^file:\/\//, '');

// A program may replace these, or freeze Error: a stack is then shorter, or made into text later, and nothing else happens.
const Errors = Error;
const { captureStackTrace } = Error;
const { set } = Reflect;
const soon = setTimeout;

let waiting: Stack[] = [];
let planned = false;

function settle(): void {
  planned = false;
  const all = waiting;
  waiting = [];
  for (const each of all) each.settle();
}

/** Where the program was. */
export class Stack {
  #taken: { readonly stack?: unknown } | undefined = {};
  #text = '';

  /** Where the program is now. */
  constructor() {
    try {
      const limit = Errors.stackTraceLimit;
      set(Errors, 'stackTraceLimit', TAKEN);
      captureStackTrace(this.#taken as object, Stack);
      set(Errors, 'stackTraceLimit', limit);
    } catch {
      // An accessor of the program's threw: there is no stack, and the driver's call goes on.
    }
    waiting.push(this);
    if (waiting.length > WAITING) {
      waiting = waiting.filter((each) => each.#taken !== undefined);
      if (waiting.length > WAITING / 2) settle();
    }
    if (planned) return;
    planned = true;
    soon(settle, PATIENCE).unref();
  }

  /** The lines `at f (file:line:column)`, the program's innermost first. */
  get text(): string {
    this.settle();
    return this.#text;
  }

  /** Makes the text now. */
  settle(): void {
    if (this.#taken === undefined) return;
    const taken = this.#taken;
    this.#taken = undefined;
    this.#text = textOf(taken);
  }

  /** Nobody will read it. */
  drop(): void {
    this.#taken = undefined;
  }
}

/** A program's own Error.prepareStackTrace makes the text, since it may know of source maps; but it may also make anything else. */
function textOf(taken: object): string {
  const theirs = Errors.prepareStackTrace;
  if (typeof theirs === 'function')
    set(Errors, 'prepareStackTrace', (error: Error, sites: NodeJS.CallSite[]): string => {
      try {
        const text: unknown = theirs.call(Errors, error, sites);
        if (typeof text === 'string') return text;
      } catch {
        // Theirs does not work: the engine's own form is made instead.
      }
      return sites.map((site) => `at ${site}`).join('\n');
    });
  const text = stackOf(taken as Error);
  if (typeof theirs === 'function') set(Errors, 'prepareStackTrace', theirs);
  return framesOf(text ?? '');
}

/** The program's frames of a stack. */
export function framesOf(text: string): string {
  return (
    text
      .split('\n')
      .filter((line) => /^\s*at /.test(line) && !line.includes(OWN) && !line.includes(OWN_PATH))
      .map((line) => line.trim())
      .join('\n') || '(no frame of the program)'
  );
}
