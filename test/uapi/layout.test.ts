// Proves that native/uapi is the binary interface of iommufd and VFIO. A script takes every struct, field, macro and
// enumerator out of the kernel's own headers (Debian's linux-source-6.12) and out of ours; one program per side prints
// sizes, offsets and values; the two must agree, and a name that only one side has must be explained below. What came
// after 6.12 is held against a table of its own (newer.ts). Needs g++; without the kernel source two tests are skipped.
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { missing } from '../support/kernel-source.ts';
import { ask, type Facts, kernelHeaders, type Names, ourDirectory, parseFiles, printing } from './headers.ts';
import { minimums, numbers, requestNames, structs } from './newer.ts';

// vfio_ccw.h is left out: it describes what channel I/O regions of s390 contain, which is no request.
const headers = ['iommufd.h', 'vfio.h', 'vfio_zdev.h'];

/** Names of the 6.12 headers that ours leave out, and why. */
const leftOut: Readonly<Record<string, readonly string[]>> = {
  'parts of a request number: ours are whole, and compared as such': [
    'IOMMUFD_CMD_BASE',
    'IOMMUFD_CMD_DESTROY',
    'IOMMUFD_CMD_IOAS_ALLOC',
    'IOMMUFD_CMD_IOAS_ALLOW_IOVAS',
    'IOMMUFD_CMD_IOAS_COPY',
    'IOMMUFD_CMD_IOAS_IOVA_RANGES',
    'IOMMUFD_CMD_IOAS_MAP',
    'IOMMUFD_CMD_IOAS_UNMAP',
    'IOMMUFD_CMD_OPTION',
    'IOMMUFD_CMD_VFIO_IOAS',
    'IOMMUFD_CMD_HWPT_ALLOC',
    'IOMMUFD_CMD_GET_HW_INFO',
    'IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING',
    'IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP',
    'IOMMUFD_CMD_HWPT_INVALIDATE',
    'IOMMUFD_CMD_FAULT_QUEUE_ALLOC',
  ],
  'strings of the mediated-device sysfs, no numbers': [
    'VFIO_DEVICE_API_PCI_STRING',
    'VFIO_DEVICE_API_PLATFORM_STRING',
    'VFIO_DEVICE_API_AMBA_STRING',
    'VFIO_DEVICE_API_CCW_STRING',
    'VFIO_DEVICE_API_AP_STRING',
  ],
  'the first migration protocol: obsolete, no kernel since 5.18 speaks it': [
    'vfio_device_migration_info',
    'VFIO_DEVICE_STATE_V1_STOP',
    'VFIO_DEVICE_STATE_V1_RUNNING',
    'VFIO_DEVICE_STATE_V1_SAVING',
    'VFIO_DEVICE_STATE_V1_RESUMING',
    'VFIO_DEVICE_STATE_MASK',
    'VFIO_DEVICE_STATE_VALID',
    'VFIO_DEVICE_STATE_IS_ERROR',
    'VFIO_DEVICE_STATE_SET_ERROR',
  ],
};

/** Structs that grew after 6.12: the size there. Their fields of 6.12 are compared, the whole is in newer.ts. */
const grown: Readonly<Record<string, number>> = {
  vfio_device_attach_iommufd_pt: 12, // 6.15: pasid
  vfio_device_detach_iommufd_pt: 8, // 6.15: pasid
  vfio_device_bind_iommufd: 16, // 6.17: token_uuid_ptr
};

const excluded = new Set(Object.values(leftOut).flat());
const isMinimum = (name: string) => name.endsWith('_min');

let ours: Names;
let ourFacts: Facts;
let theirs: Names | undefined;
let theirFacts: Facts | undefined;

beforeAll(async () => {
  // layout.h has macros of ours, sva.h calls of the software host: neither has a name of the kernel's.
  const files = (await readdir(ourDirectory)).filter((name) => name !== 'layout.h' && name !== 'sva.h');
  ours = await parseFiles(files.map((name) => path.join(ourDirectory, name)));
  const asked = Object.keys(requestNames).map(
    (name) =>
      `for (uint32_t r = 0x3b00; r < 0x3c00; r++) if (auto* n = vfio::uapi::${name}(r)) printf("${name} %x=%s\\n", r, n);`,
  );
  const kernel = async () => {
    const directory = await kernelHeaders();
    theirs = await parseFiles(headers.map((name) => path.join(directory, 'linux', name)));
    const compared = { ...theirs, numbers: theirs.numbers.filter((name) => !excluded.has(name)) };
    const includes = headers.map((name) => `<linux/${name}>`);
    // headers_install would strip __user.
    theirFacts = await ask(includes, ['-I', directory, '-D__user='], printing(compared));
  };
  [ourFacts] = await Promise.all([
    ask(['"names.h"'], ['-I', ourDirectory], [...printing(ours, 'vfio::uapi::'), ...asked]),
    missing === undefined ? kernel() : undefined,
  ]);
}, 120_000);

test('[B] every struct, field and number of the kernel headers is here, of the same size, place and value', (ctx) => {
  if (theirs === undefined || theirFacts === undefined) return ctx.skip(missing);
  const wrong: string[] = [];
  const count: Record<string, number> = { size: 0, field: 0, flexible: 0, number: 0 };
  for (const [key, value] of theirFacts) {
    const [kind = '', name = ''] = key.split(' ');
    const [struct = ''] = name.split('.');
    if (excluded.has(struct)) continue;
    count[kind] = (count[kind] ?? 0) + 1;
    // Elements of a flexible array, which ours leave out, begin where the struct ends.
    const mine = ourFacts.get(kind === 'flexible' ? `size ${struct}` : key);
    const grew = kind === 'size' ? grown[name] : undefined;
    if (grew !== undefined ? mine === undefined || value !== String(grew) : mine !== value) {
      wrong.push(`${key}: the kernel has ${value}, we have ${mine ?? 'no such name'}`);
    }
  }
  expect(wrong).toEqual([]);
  expect(theirs.functions.filter((name) => !excluded.has(name))).toEqual([]);
  // Not fewer than 6.12 has: a parser that lost its way would compare nothing and be content.
  expect(count['size']).toBeGreaterThanOrEqual(73);
  expect(count['field']).toBeGreaterThanOrEqual(300);
  expect(count['number']).toBeGreaterThanOrEqual(245);
  console.log(
    `compared with linux-source-6.12: ${count['size']} structs, ${count['field']} fields, ` +
      `${count['flexible']} flexible arrays, ${count['number']} numbers`,
  );
});

test('[B] every explained difference from the kernel headers is one', (ctx) => {
  if (theirs === undefined) return ctx.skip(missing);
  const kernel = new Set([...theirs.structs.keys(), ...theirs.numbers, ...theirs.functions]);
  const here = new Set([...ours.structs.keys(), ...ours.numbers]);
  expect([...excluded].filter((name) => !kernel.has(name) || here.has(name))).toEqual([]);
  expect(Object.keys(grown).filter((name) => ourFacts.get(`size ${name}`) === String(grown[name]))).toEqual(
    [],
  );

  const stray: string[] = [];
  for (const [name, fields] of ours.structs) {
    const known =
      structs[name]?.[1].split(', ').map((field) => field.split(' ')[0]) ?? theirs.structs.get(name);
    if (known === undefined) stray.push(name);
    else stray.push(...fields.filter((field) => !known.includes(field)).map((field) => `${name}.${field}`));
  }
  stray.push(...ours.numbers.filter((name) => !kernel.has(name) && !(name in numbers) && !isMinimum(name)));
  expect(stray).toEqual([]);
});

test('[B] every struct, field and number that came after 6.12 is as described', () => {
  const expected = new Map<string, string>();
  for (const [name, [size, fields]] of Object.entries(structs)) {
    expected.set(`size ${name}`, String(size));
    for (const [, field = '', place = ''] of fields.matchAll(/(\w+) (\d+ \d+)/g)) {
      expected.set(`field ${name}.${field}`, place);
    }
  }
  for (const [name, value] of Object.entries(numbers)) expected.set(`number ${name}`, String(value));
  const found = new Map([...expected.keys()].map((key) => [key, ourFacts.get(key)]));
  expect(found).toEqual(expected);
  const of = (kind: string) => [...expected.keys()].filter((key) => key.startsWith(kind)).length;
  console.log(
    `compared with the table: ${of('size')} structs, ${of('field')} fields, ${of('number')} numbers`,
  );
});

test('[B] every minimum size is what the kernel checks, and no struct has another', () => {
  const here = ours.numbers
    .filter(isMinimum)
    .map((name) => [name.replace(/_min$/, ''), ourFacts.get(`number ${name}`)]);
  expect(Object.fromEntries(here)).toEqual(
    Object.fromEntries(Object.entries(minimums).map(([name, size]) => [name, String(size)])),
  );
});

test.each(Object.keys(requestNames))(
  '[B] %s names the requests of its kind of file and nothing else',
  (kind) => {
    const here: Record<string, string> = {};
    for (const [key, value] of ourFacts)
      if (key.startsWith(`${kind} `)) here[key.slice(kind.length + 1)] = value;
    expect(here).toEqual(requestNames[kind]);
  },
);

test('[B] a header with a wrong size or offset does not compile, whichever field it is', async () => {
  const compile = (layout: string) =>
    ask(
      ['"layout.h"'],
      ['-I', ourDirectory],
      ['struct sample { uint32_t a, b; uint64_t c; };', `VFIO_UAPI_LAYOUT(sample, ${layout}) return 0;`],
    );
  await expect(compile('16, a, 0, b, 4, c, 8')).resolves.toBeDefined();
  await expect(compile('24, a, 0, b, 4, c, 8')).rejects.toThrow('static assertion failed');
  await expect(compile('16, a, 1, b, 4, c, 8')).rejects.toThrow('static assertion failed');
  await expect(compile('16, a, 0, b, 4, c, 12')).rejects.toThrow('static assertion failed');
}, 30_000);
