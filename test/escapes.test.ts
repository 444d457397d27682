/**
 * Text that other programs chose, in text for people: names, paths and parts of files, in messages and in the command's output,
 * can't move a terminal's cursor or reverse a line, wherever they come from. And a description that is no machine is an error.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { main } from '../cli/main.ts';
import { native } from '../lib/addon/native.ts';
import { refusal } from '../lib/base/check.ts';
import { shown } from '../lib/base/shell.ts';
import { type DeviceModel, Host, type Topology, VfioError } from '../lib/index.ts';
import { needs } from './support/backends.ts';

needs({ backends: ['software'], because: 'it is about machines of the software host alone' });

const folder = mkdtempSync(join(tmpdir(), 'vfio-escapes-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Control characters, format characters (such as marks of direction), line separators, halves of surrogate pairs. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;
const expectPlain = (text: string) => expect(UNSEEN.exec(text)?.[0], JSON.stringify(text)).toBe(undefined);

const messageOf = (call: () => unknown): string => {
  try {
    call();
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
};

/** Hostile text, with many such characters. */
const hostile = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        '\x1b[2J',
        '\x1b]0;title\x07',
        '\u202e',
        '\u2066',
        '\u2069',
        '\u009b31m',
        '\x7f',
        '\r',
        '\n',
      ),
      fc.constantFrom(
        '\u2028',
        '\u2029',
        '\u200f',
        '\u061c',
        '\ufeff',
        '\ud800',
        '\ufffd',
        '\u{e0001}',
        '\0',
      ),
      fc.string({ unit: 'binary', maxLength: 4 }),
      fc.string({ unit: 'grapheme', maxLength: 4 }),
    ),
    { minLength: 1, maxLength: 12 },
  )
  .map((parts) => parts.join(''));

test('each invisible character is shown as its number, by this library and by the addon', () => {
  const unseen: number[] = [];
  for (let point = 0; point < 0x110000; point++)
    if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\ufffd]/u.test(String.fromCodePoint(point))) unseen.push(point);
  expect(unseen.length).toBeGreaterThan(6000);
  // There are 137,000 characters for private use: tests some of them.
  const some = unseen.filter(
    (point) => point < 0xe000 || (point > 0xf8ff && point < 0xf0000) || point % 97 === 0,
  );
  for (const point of some) {
    const letter = String.fromCodePoint(point);
    const number = `\\u{${point.toString(16)}}`;
    expect(shown(`a${letter}b`)).toBe(`a${number}b`);
    expect(messageOf(() => new native.Host('software', `a${letter}b`))).toContain(
      point === 0 ? 'a string without NUL' : `'a${number}b'`,
    );
  }
});

test('letters and signs stay as they are', () => {
  for (const text of ['0000:00:10.0', 'größer', '日本語', 'ქართული', '🎛️'.slice(0, 2), "it's", '\\u{1b}']) {
    expect(shown(text)).toBe(text);
    expect(messageOf(() => new native.Host('software', text))).toContain(`'${text}'`);
  }
});

test('messages about arguments are one line of plain text', () => {
  using host = Host.open({ backend: 'software' });
  fc.assert(
    fc.property(hostile, (text) => {
      const calls: (() => unknown)[] = [
        () => Host.open({ backend: text as 'software' }),
        () => Host.open({ backend: 'software', software: { kernel: text } }),
        () => Host.open({ [text]: 1 }),
        () => Host.open({ backend: 'software', software: { topology: text as Topology } }),
        () => Host.open({ backend: 'software', software: { topology: { [text]: 1 } as Topology } }),
        () => host.device(text),
        () => host.attach(text),
        () => host.diagnose(text),
        () => host.grant(text, 0),
        () => {
          throw refusal('a thing', 'it', { [text]: text });
        },
        () => {
          throw refusal('a thing', 'it', text);
        },
        () => {
          throw new VfioError(2, { syscall: 'open', path: text, request: text, reason: text, hint: text });
        },
      ];
      for (const call of calls) {
        const message = messageOf(call);
        expect(message).not.toBe('no error');
        expectPlain(message);
      }
    }),
    { numRuns: 300 },
  );
});

test('the parts of a VfioError are not escaped, its message is', () => {
  const error = new VfioError(2, { syscall: 'open', path: '/dev/\x1b[31m', reason: 'a\u202eb' });
  expect(error.path).toBe('/dev/\x1b[31m');
  expect(error.reason).toBe('a\u202eb');
  expect(error.message).toBe("ENOENT: no such object, open '/dev/\\u{1b}[31m' (a\\u{202e}b)");
});

test('messages about machines are one line of plain text', () => {
  const edu = (more: object) => ({
    devices: [{ model: 'edu', bdf: '0000:00:10.0', ...more } as DeviceModel],
  });
  fc.assert(
    fc.property(hostile, (text) => {
      for (const topology of [
        edu({ model: text }),
        edu({ bdf: text }),
        edu({ behind: text }),
        edu({ [text]: 1 }),
        edu({ mdevs: [text] }),
        edu({ driver: `${text}/` }),
        edu({ driver: 'nvme', disk: { name: `${text}/` } }),
        edu({ driver: 'nvme', disk: { name: 'sda', mountedOn: text.replace(/^\/+/, '') } }),
        edu({ network: { name: `${text}/` } }),
        { iommus: [{ kind: text }], ...edu({}) },
        { system: { commandLine: `${text}\n` }, ...edu({}) },
        { system: { without: [text] }, ...edu({}) },
        { devices: [edu({}).devices[0], { model: 'edu', bdf: text }] },
      ] as Topology[]) {
        const message = messageOf(() => Host.open({ backend: 'software', software: { topology } }));
        expect(message).not.toBe('no error');
        expectPlain(message);
      }
    }),
    { numRuns: 150 },
  );
});

/** Names that a machine accepts: one part of a path, on one line. */
const hostileName = hostile
  .map((text) => {
    const letters = [...text].filter((letter) => !/[/\0\n\t \p{Cs}\ufffd]/u.test(letter));
    return `x${letters.slice(0, 12).join('')}`;
  })
  .filter((name) => Buffer.byteLength(name) < 60);

test('the command prints plain text, and JSON that says the same', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(hostileName, hostileName, fc.boolean(), async (name, other, colors) => {
      const driver = other === 'vfio-pci' ? 'other' : other;
      const topology: Topology = {
        system: { commandLine: `quiet ${name}` },
        devices: [
          { model: 'edu', bdf: '0000:00:10.0', driver, disk: { name, mountedOn: `/${other}` } },
          { model: 'edu', bdf: '0000:00:11.0', driver, network: { name, up: true, route: true } },
        ],
      };
      using host = Host.open({ backend: 'software', software: { topology } });
      for (const args of [
        ['list'],
        ['explain', '0000:00:10.0'],
        ['explain', '0000:00:11.0'],
        ['doctor'],
        ['bind', '0000:00:10.0'],
        ['bind', '0000:00:11.0', '--force'],
        ['restore', '0000:00:11.0'],
        ['grant', '0000:00:10.0', '--user', name],
        ['explain', name],
        [name],
        ['list', `--${name}`],
        ['bind', '0000:00:10.0', '--force', '--driver', driver],
      ])
        for (const json of [[], ['--json']]) {
          let out = '';
          let err = '';
          await main([...json, ...args], {
            host,
            colors,
            out: (text) => {
              out += text;
            },
            err: (text) => {
              err += text;
            },
          });
          // The command's own colours are the only escape sequences.
          // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what it is about
          const colourless = colors ? out.replace(/\x1b\[(?:\d\d?)m/g, '') : out;
          for (const line of `${colourless}\n${err}`.split('\n')) expectPlain(line);
          if (json.length > 0 && out !== '') JSON.parse(out);
          if (json.length > 0 && args[0] === 'list' && args.length === 1)
            expect(JSON.parse(out)[0].driver).toBe(driver);
        }
    }),
    { numRuns: 25 },
  );
});

const NO_MACHINES = [
  '',
  ' ',
  '\n',
  '\t\r\n ',
  'null',
  '[]',
  '""',
  '0',
  'true',
  '{}',
  '{',
  '\x1b[2J',
  '{"devices":null}',
];

test.each(NO_MACHINES.map((text) => [text]))(
  'a file that contains %j is no machine: the command says so and names the file',
  async (text) => {
    const file = join(folder, 'machine.json');
    writeFileSync(file, text);
    for (const json of [[], ['--json']]) {
      let out = '';
      let err = '';
      const around = {
        out: (said: string) => {
          out += said;
        },
        err: (said: string) => {
          err += said;
        },
      };
      expect(await main([...json, '--topology', file, 'list'], { ...around, colors: false })).toBe(2);
      expect(err).toContain(file);
      expect(err).toMatch(/^vfio: .*Expected .*\n$/);
      expect(UNSEEN.test(err.trimEnd())).toBe(false);
      if (json.length > 0) expect(JSON.parse(out).error.message).toContain(file);
      else expect(out).toBe('');
    }
  },
);

test('a value that is no machine is refused: a text, nothing at all, or half a machine', () => {
  for (const topology of [
    ...NO_MACHINES,
    null,
    0,
    1n,
    true,
    [],
    [{}],
    {},
    { devices: null },
    { devices: {} },
    Symbol('s'),
  ])
    expect(
      messageOf(() => Host.open({ backend: 'software', software: { topology: topology as Topology } })),
    ).toMatch(/Expected .* but received /);
  for (const text of NO_MACHINES)
    expect(messageOf(() => new native.Host('software', undefined, text))).toMatch(/^(line \d+: )?Expected /);
});

test('a machine that is nested a million times is an error, wherever it comes from', {
  timeout: 60_000,
}, async () => {
  const deep = '['.repeat(1_000_000);
  expect(messageOf(() => new native.Host('software', undefined, deep))).toContain('no more than 32 levels');
  const file = join(folder, 'deep.json');
  for (const text of [deep, deep + ']'.repeat(1_000_000), '{"devices":'.repeat(1_000_000)]) {
    writeFileSync(file, text);
    let err = '';
    const around = {
      out: () => undefined,
      err: (said: string) => {
        err += said;
      },
      colors: false,
    };
    expect(await main(['--topology', file, 'list'], around)).toBe(2);
    expect(err).toContain(file);
  }
  let nested: unknown = [];
  for (let i = 0; i < 100_000; i++) nested = [nested];
  expect(
    messageOf(() =>
      Host.open({ backend: 'software', software: { topology: { devices: nested } as Topology } }),
    ),
  ).toMatch(/Expected .* for software.topology/);
});

test('a description larger than 16 MiB is an error', () => {
  const large = `{"devices":[${' '.repeat(17 << 20)}]}`;
  expect(messageOf(() => new native.Host('software', undefined, large))).toContain('at most 16777216 bytes');
});
