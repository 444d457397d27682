/**
 * Fifteen drivers, each with one mistake (test/fixtures/drivers): the sanitizer finds it, and names the line that is marked with
 * BUG. The same drivers without the mistake are clean, whenever the card is done: in 20 runs, or DRIVER_RUNS.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type DmaFinding, type DmaStacks, Host, type SoftwareHost, type Topology } from '../lib/index.ts';
import { Card } from './fixtures/drivers/card.ts';
import { CARD } from './fixtures/drivers/queue.ts';
import { needs } from './support/backends.ts';

needs({ backends: ['software'], because: 'only the software host has a sanitizer' });

const RUNS = Number(process.env['DRIVER_RUNS'] || 20);

type Driver = (host: SoftwareHost, buggy: boolean) => Promise<void>;

/** What a driver's mistake is called, and which stack of the finding has its line. */
interface Expected {
  readonly kind: DmaFinding['kind'];
  readonly stack: keyof DmaStacks;
  readonly message: RegExp;
  /** What the driver throws in spite of being right. */
  readonly throws?: RegExp;
  /** What happens to the host before the driver starts. */
  prepare?(host: SoftwareHost): void;
}

const drivers: Readonly<Record<string, Expected>> = {
  'use-after-unmap': { kind: 'use-after-unmap', stack: 'unmap', message: /which was unmapped before/ },
  'off-by-one-ring': { kind: 'unmapped', stack: 'doorbell', message: /right behind the end of/ },
  'no-barrier': {
    kind: 'changed-while-owned',
    stack: 'doorbell',
    message: /^1 byte at IOVA 0x\w+, byte 9 of .* changed from 00 to 08/,
  },
  'interrupt-race': {
    kind: 'lost-interrupt',
    stack: 'doorbell',
    message: /came before interrupts were enabled/,
  },
  'forgotten-detach': {
    kind: 'left-at-close',
    stack: 'map',
    message: /was not disposed before the Host was/,
    throws: /This card is too old/,
  },
  'wrong-permission': { kind: 'permission', stack: 'map', message: /mapped without write/ },
  'leak-on-failure': {
    kind: 'left-at-close',
    stack: 'map',
    message: /was still mapped when its address space ended/,
    throws: /ENOSPC/,
    // The first map is that of the ring.
    prepare: (host) => host.software.injectFault({ request: 'IOMMU_IOAS_MAP', nth: 3, code: 'ENOSPC' }),
  },
  'double-unmap': { kind: 'double-unmap', stack: 'call', message: /it had been unmapped before/ },
  'before-bus-master': {
    kind: 'bus-master',
    stack: 'doorbell',
    message: /set device.config.busMaster first/,
  },
  'pasid-after-exit': {
    kind: 'not-attached',
    stack: 'unmap',
    message: /with PASID 5, but it is not attached to an address space any more/,
  },
  'freed-while-queued': {
    kind: 'disposed-buffer',
    stack: 'dispose',
    message: /whose DmaBuffer was disposed before/,
  },
  'doorbell-after-reset': {
    kind: 'unmapped',
    stack: 'doorbell',
    message: /not set up again after its reset/,
  },
  'unmasked-too-late': { kind: 'lost-interrupt', stack: 'doorbell', message: /INTx was masked/ },
  'truncated-iova': {
    kind: 'unmapped',
    stack: 'doorbell',
    message: /the IOVA lacks its upper 32 bits \(0x300100000 is mapped\)/,
  },
  'wrong-endianness': { kind: 'unmapped', stack: 'doorbell', message: /tried to write 520192 bytes/ },
};

const pathOf = (name: string) => new URL(`fixtures/drivers/${name}.ts`, import.meta.url);

async function load(name: string): Promise<Driver> {
  const { default: driver }: { default: Driver } = await import(`./fixtures/drivers/${name}.ts`);
  return driver;
}

/** The line of a driver that is marked. */
function markedLine(name: string): number {
  const lines = readFileSync(pathOf(name), 'utf8').split('\n');
  const marked = lines.flatMap((line, at) => (line.includes('// BUG') ? [at + 1] : []));
  expect(marked, `the marks in ${name}.ts`).toHaveLength(1);
  return marked[0] as number;
}

/** The line of a driver that a stack names first. */
function lineIn(name: string, stack: string | undefined): number | undefined {
  const found = new RegExp(`/drivers/${name}\\.ts:(\\d+)`).exec(stack ?? '');
  return found === null ? undefined : Number(found[1]);
}

/** A host bridge, so that there is a bus, and an IOMMU with PASIDs. */
const topology: Topology = {
  iommus: [{ kind: 'vtd', pasidBits: 8 }],
  devices: [{ model: 'host-bridge', bdf: '0000:00:00.0' }],
};

/** Runs a driver on a host of its own, with virtual time that passes while the driver waits. */
async function run(driver: Driver, buggy: boolean, seed: number, prepare?: (host: SoftwareHost) => void) {
  using host = Host.open({ backend: 'software', software: { deterministic: true, seed, topology } });
  const { report } = host.software;
  const card = new Card(seed);
  host.software.addDevice(CARD, card);
  prepare?.(host);
  let thrown: unknown;
  let ended = false;
  const work = driver(host, buggy)
    .catch((error: unknown) => {
      thrown = error;
    })
    .finally(() => {
      ended = true;
    });
  while (!ended) {
    host.software.step();
    await turn();
  }
  await work;
  await host.software.settle();
  host[Symbol.dispose]();
  return { findings: report.findings, text: String(report), thrown, errors: card.errors };
}

describe.each(Object.keys(drivers))('%s', (name) => {
  const { kind, stack, message, throws, prepare } = drivers[name] as Expected;

  test('is found, with its line', async () => {
    const { findings, text, errors } = await run(await load(name), true, 1, prepare);
    expect(errors).toEqual([]);
    expect(findings.length, text).toBeGreaterThan(0);
    for (const found of findings) {
      expect(found.kind, text).toBe(kind);
      expect(found.message).toMatch(message);
      expect(lineIn(name, found.stacks[stack]), text).toBe(markedLine(name));
    }
  });

  test(
    `is clean without it, ${RUNS} times`,
    async () => {
      const driver = await load(name);
      for (let seed = 0; seed < RUNS; seed++) {
        const { text, thrown, errors } = await run(driver, false, seed, prepare);
        expect(text, `with seed ${seed}`).toBe('');
        expect(errors).toEqual([]);
        if (throws === undefined) expect(thrown, `with seed ${seed}`).toBeUndefined();
        else expect(String(thrown)).toMatch(throws);
      }
    },
    30_000 + 1000 * RUNS,
  );
});

test('every driver in the folder is among them', () => {
  const files = readdirSync(new URL('fixtures/drivers', import.meta.url)).map((file) =>
    file.replace('.ts', ''),
  );
  expect([...Object.keys(drivers), 'card', 'queue'].sort()).toEqual(files.sort());
});
