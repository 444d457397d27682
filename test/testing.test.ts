/**
 * vfio/testing: fixtures, matchers and assertions. Each passes, and each fails with the right words: the cases in
 * fixtures/testing are run by vitest, node:test and Jest, as a user runs them.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { Host } from '../lib/index.ts';
import {
  assertMappings,
  assertNoDmaFaults,
  assertNoOpenHandles,
  fixtures,
  withDevice,
} from '../lib/testing/index.ts';
import { EduModel } from './fixtures/testing/edu-model.ts';
import { backend, EDU, NVME, needs } from './support/backends.ts';

const root = join(import.meta.dirname, '..');
const folder = join(root, 'test/fixtures/testing');

interface Result {
  readonly status: 'passed' | 'failed' | 'skipped';
  /** What it failed with. */
  readonly words: string;
}

function node(args: readonly string[], env: NodeJS.ProcessEnv = {}): { stdout: string; stderr: string } {
  const { NODE_OPTIONS: _, ...inherited } = process.env;
  const clean = Object.fromEntries(Object.entries(inherited).filter(([name]) => !/^VITEST/.test(name)));
  return spawnSync(process.execPath, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...clean, NO_COLOR: '1', NODE_ENV: 'test', ...env },
  });
}

/** The results in a report in Jest's format, which vitest writes too. */
function resultsOf({ stdout, stderr }: { stdout: string; stderr: string }): Map<string, Result> {
  const [report] = /^\{".*\}$/m.exec(stdout) ?? [];
  if (report === undefined) throw new Error(`no report:\n${stdout}\n${stderr}`);
  const { testResults } = JSON.parse(report) as {
    testResults: {
      message: string;
      assertionResults: { title: string; status: string; failureMessages: string[] }[];
    }[];
  };
  const all = testResults.flatMap(({ assertionResults }) => assertionResults);
  if (all.length === 0) throw new Error(testResults.map(({ message }) => message).join('\n'));
  return new Map(
    all.map(({ title, status, failureMessages }) => [
      title,
      {
        status: status === 'pending' ? 'skipped' : (status as Result['status']),
        words: failureMessages.join('\n====\n'),
      },
    ]),
  );
}

function vitest(name: string, reporters: readonly string[], env?: NodeJS.ProcessEnv) {
  const config = ['--config', join(folder, 'vitest.config.ts'), '--root', root];
  const cli = join(root, 'node_modules/vitest/vitest.mjs');
  return node(
    [cli, 'run', ...config, ...reporters.map((each) => `--reporter=${each}`), `testing/${name}`],
    env,
  );
}

describe('One file of tests', () => {
  const softwareOnly = ['a map that fails', 'what the model has'];

  test('runs on a software host', { timeout: 120_000 }, (ctx) => {
    needs(ctx, { backends: ['software'], because: 'the device is simulated' });
    const results = resultsOf(vitest('edu.case.ts', ['json']));
    expect(results.size).toBe(7);
    expect([...results].filter(([, { status }]) => status !== 'passed')).toEqual([]);
  });

  test('runs on the real device that VFIO_TEST_DEVICE names, and skips what needs a simulated host, with the reason', {
    timeout: 300_000,
  }, async (ctx) => {
    needs(ctx, { backends: ['kernel'], because: 'it uses a real device' });
    using host = Host.open({ backend: 'kernel' });
    await host.device(EDU).bind();
    const { stdout } = vitest('edu.case.ts', ['verbose', 'json'], { VFIO_TEST_DEVICE: EDU });
    const results = resultsOf({ stdout, stderr: '' });
    const expected = (title: string) => (softwareOnly.includes(title) ? 'skipped' : 'passed');
    expect(results.size).toBe(7);
    for (const [title, { status, words }] of results)
      expect(status, `${title}\n${words}`).toBe(expected(title));
    for (const title of softwareOnly)
      expect(stdout).toMatch(
        new RegExp(`${title}.*needs a simulated host, and VFIO_TEST_DEVICE names the real device ${EDU}`),
      );
  });

  test('does not touch a real device that is not what the model simulates', async (ctx) => {
    needs(ctx, { backends: ['kernel'], because: 'it uses a real device' });
    process.env['VFIO_TEST_DEVICE'] = NVME;
    try {
      await expect(withDevice({ model: () => new EduModel() }, () => {})).rejects.toThrow(
        `Expected VFIO_TEST_DEVICE to name a device 1234:11e8, which the model simulates, but ${NVME} is 1b36:0010`,
      );
    } finally {
      delete process.env['VFIO_TEST_DEVICE'];
    }
  });

  test('says which address is wrong', { timeout: 120_000 }, (ctx) => {
    needs(ctx, { backends: ['software'], because: 'it needs no device' });
    const results = resultsOf(vitest('edu.case.ts', ['json'], { VFIO_TEST_DEVICE: 'edu' }));
    expect(results.get('a register')?.words).toContain(
      "Expected a PCI address such as '0000:00:10.0' for VFIO_TEST_DEVICE but received 'edu'",
    );
  });
});

describe('Under vitest,', () => {
  needs({ backends: ['software'], because: 'the devices are simulated' });
  let results: Map<string, Result>;
  beforeAll(() => {
    results = resultsOf(vitest('mistakes.case.ts', ['json']));
  }, 120_000);

  const of = (title: string): Result => {
    const found = results.get(title);
    if (found === undefined) throw new Error(`no case "${title}"`);
    return found;
  };
  /** The text of a failed case. */
  const words = (title: string): string => {
    expect(of(title).status, title).toBe('failed');
    return of(title).words;
  };

  test.each(['makes a mistake on purpose', 'is allowed everything'])('a test that %s passes', (title) => {
    expect(of(title)).toEqual({ status: 'passed', words: '' });
  });

  test('a handle that is left fails the test, with the line that opened it', () => {
    expect(words('leaves a handle')).toMatch(
      /^Error: 1 handle is still open\. Declare each with "using".*\n {2}Iommufd, opened\n(?:.*\n)*? +at .*mistakes\.case\.ts:\d+/,
    );
    expect(words('leaves a handle of its device')).toMatch(
      /^Error: 1 handle is still open.*\n {2}MappedRegion, opened\n(?:.*\n)*? +at .*mistakes\.case\.ts:\d+/,
    );
    expect(words('leaves a handle')).not.toContain('====');
    expect(words('leaves a handle')).not.toContain('left-at-close');
  });

  test('an injected fault that is left fails the test', () => {
    expect(words('leaves a fault')).toMatch(
      /^Error: 1 injected fault is left\. .*\n {2}\{ request: 'IOMMU_IOAS_MAP', code: 'ENOMEM' \}, injected\n(?:.*\n)*? +at .*mistakes\.case\.ts:\d+/,
    );
  });

  test('a finding of the sanitizer fails the test, with its text', () => {
    expect(words('lets the device write late')).toMatch(
      /1 mistake with DMA:\n1\. use-after-unmap: 0000:00:1c\.0 tried to write 64 bytes at IOVA 0x10000/,
    );
  });

  test('a mapping that is left fails the test, also without the sanitizer', () => {
    expect(words('leaves a mapping')).toMatch(/^Error: 1 mistake with DMA:\n1\. left-at-close: .*0x10000/);
    expect(words('leaves a mapping, without a sanitizer')).toMatch(
      /^Error: 1 mapping is left:\n {2}0x10000-0x10fff {2}0x1000 bytes {2}writable/,
    );
  });

  test('what the model threw fails the test', () => {
    expect(words('has a model that throws')).toMatch(
      /^Error: The model of the device threw 1 error:\n {2}in \w+.*: Error: the model is broken\n +at .*edu-model\.ts/,
    );
  });

  test('a test that has failed is told of mistakes with DMA besides, and of nothing that it could not clean up', () => {
    expect(words('fails by itself and leaves a handle')).toMatch(/^AssertionError: expected 1 to be 2/);
    expect(words('fails by itself and leaves a handle')).not.toContain('still open');
    const both = words('fails by itself after a late write');
    expect(both).toMatch(/^AssertionError: expected 1 to be 2/);
    expect(both).toMatch(/====\nError: 1 mistake with DMA:\n1\. use-after-unmap/);
    expect(both).not.toContain('threw');
  });

  test('fixtures without a device say so', () => {
    expect(words('names no device')).toContain(
      'Expected the options to name a device, by model or bdf, but they name none',
    );
  });

  test('the matchers tell what is wrong', () => {
    expect(words('toHaveNoDmaFaults')).toMatch(/1 mistake with DMA:\n1\. use-after-unmap/);
    expect(words('toHaveNoOpenHandles')).toMatch(/1 handle is still open.*\n {2}Iommufd, opened\n/);
    expect(words('toHaveMappings')).toContain(
      `Expected other mappings (- expected and missing, + there and unexpected):
   0x10000-0x10fff          0x1000 bytes  writable
-  0x20000-0x20fff          0x1000 bytes  writable
+  0x20000-0x21fff          0x2000 bytes  read-only
-  0x100000000-0x100000fff  0x1000 bytes
`,
    );
    expect(words('not.toHaveMappings')).toContain('Expected other mappings than these:\n  none');
    expect(words('not.toHaveNoDmaFaults')).toContain('Expected mistakes with DMA but there is none');
    expect(words('not.toHaveNoOpenHandles')).toContain('Expected open handles but none is');
    expect(words('toHaveNoDmaFaults without a sanitizer')).toContain(
      'Expected a software Host whose sanitizer is on for host but received Host',
    );
    expect(words('toHaveMappings of something else')).toContain(
      'Expected an address space with mappings() for dma but received Host',
    );
  });
});

describe('Under', () => {
  needs({ backends: ['software'], because: 'the devices are simulated' });
  const MESSAGES = {
    'leaves a handle':
      /1 handle is still open.*\n.*Iommufd, opened\n(?:.*\n)*?.*at .*(?:node|jest)\.case\.mjs/,
    'rings with a wrong address': /1\. unmapped: 0000:00:1c\.0 tried to write 64 bytes at IOVA 0x5000/,
    'expects other mappings': /Expected other mappings .*\n *- {2}0x10000-0x10fff {2}0x1000 bytes/,
  };

  test('node:test, the same is said', { timeout: 120_000 }, () => {
    const { stdout } = node(['--test', '--test-reporter=tap', join(folder, 'node.case.mjs')]);
    expect(stdout).toMatch(/^ *ok \d+ - is right$/m);
    for (const [title, message] of Object.entries(MESSAGES)) {
      const [, said = ''] =
        new RegExp(`^not ok \\d+ - ${title}\\n([^]*?)^ {2}\\.\\.\\.$`, 'm').exec(stdout) ?? [];
      expect(said, title).toMatch(message);
      expect(said.match(/mistake with DMA/g) ?? [], title).not.toHaveLength(2);
    }
  });

  test('node:test, a test that needs a simulated host is skipped with the reason', {
    timeout: 120_000,
  }, () => {
    const { stdout } = node(['--test', '--test-reporter=tap', join(folder, 'node.case.mjs')], {
      VFIO_TEST_DEVICE: '0000:00:1f.7',
    });
    expect(stdout).toMatch(
      /ok \d+ - rings with a wrong address # SKIP needs a simulated host, and VFIO_TEST_DEVICE names the real device 0000:00:1f\.7/,
    );
  });

  test('Jest, the same is said', { timeout: 120_000 }, () => {
    const config = { rootDir: folder, testMatch: ['**/jest.case.mjs'], transform: {} };
    const jest = join(root, 'node_modules/jest/bin/jest.js');
    const options = ['--runInBand', '--colors=false', '--json', '--config', JSON.stringify(config)];
    const results = resultsOf(node(['--experimental-vm-modules', '--no-warnings', jest, ...options]));
    expect(results.get('is right')).toEqual({ status: 'passed', words: '' });
    for (const [title, message] of Object.entries(MESSAGES))
      expect(results.get(title)?.words, title).toMatch(message);
  });
});

describe('withDevice', () => {
  needs({ backends: ['software'], because: 'the device is simulated' });

  test('passes on what the body returns, and what it throws', async () => {
    expect(await withDevice({ bdf: EDU }, ({ bdf }) => bdf)).toBe(EDU);
    const error = new Error('of the body');
    await expect(withDevice({ bdf: EDU }, () => Promise.reject(error))).rejects.toBe(error);
  });

  test('closes the device and the host', async () => {
    const { host, device } = await withDevice({ bdf: EDU }, ({ host, device }) => ({ host, device }));
    expect([host.disposed, device.disposed]).toEqual([true, true]);
  });

  test.each([
    [{ models: 1 }, /^Expected only 'model' and 'bdf' and .* for options but received 'models'/],
    [{ model: 1 }, /^Expected a function for model but received 1/],
    [{ model: () => ({}) }, /^Expected a SimulatedDevice for what model returns but received/],
    [{ bdf: 'edu' }, /^Expected a PCI address .* for bdf but received 'edu'/],
    [{ checks: { leaks: true } }, /^Expected only .* for checks but received 'leaks'/],
    [{ checks: { dma: 1 } }, /^Expected a boolean for checks.dma but received 1/],
    [{ software: { sanitiser: false } }, /^Expected only .* for software but received 'sanitiser'/],
  ])('refuses %j', async (options, message) => {
    await expect(withDevice(options as never, () => {})).rejects.toThrow(message);
    // What `model` returns is known when a test begins; all else at once.
    if ('model' in options && typeof options.model === 'function')
      expect(fixtures(options as never)).toHaveProperty('bench');
    else expect(() => fixtures(options as never)).toThrow(message);
  });

  test('refuses a body that is no function', async () => {
    await expect(withDevice({}, 1 as never)).rejects.toThrow(/^Expected a function for body but received 1/);
  });
});

test('the assertions refuse what is no host, no address space and no list of mappings', async () => {
  expect(() => assertNoDmaFaults({} as never)).toThrow(/^Expected a Host for host but received \{\}/);
  expect(() => assertNoOpenHandles(undefined as never)).toThrow(/^Expected a Host for host/);
  expect(() => assertMappings(null as never, [])).toThrow(/^Expected an address space with mappings\(\)/);
  const none = { mappings: () => [] };
  expect(() => assertMappings(none, {} as never)).toThrow(/^Expected an array for mappings/);
  expect(() => assertMappings(none, [{ iova: -1, length: 1 }])).toThrow(/^Expected .* for mapping.iova/);
  expect(() => assertMappings(none, [{ iova: 1, length: 1, write: true } as never])).toThrow(
    /^Expected only 'iova' and 'length' and 'writable' for mapping but received 'write'/,
  );
});

test('openHandles of a host has what is open, on both backends', async () => {
  using host = Host.open({ backend });
  expect(host.openHandles()).toEqual([]);
  {
    using iommufd = host.openIommufd();
    using _ioas = iommufd.allocIoas();
    expect(host.openHandles().map(({ kind }) => kind)).toEqual(['Ioas', 'Iommufd']);
    expect(host.openHandles()[0]?.opened).toContain('testing.test.ts');
  }
  expect(host.openHandles()).toEqual([]);
});

test('openFaults has the injected faults that were not disposed', (ctx) => {
  needs(ctx, { backends: ['software'], because: 'a real kernel fails when it wants to' });
  using host = Host.open({ backend: 'software' });
  const first = host.software.injectFault({ code: 'EIO', request: 'pread' });
  using _second = host.software.injectFault({ interrupt: 'lost' });
  expect(host.software.openFaults()).toEqual([
    { fault: "{ code: 'EIO', request: 'pread' }", injected: expect.stringContaining('testing.test.ts') },
    { fault: "{ interrupt: 'lost' }", injected: expect.stringContaining('testing.test.ts') },
  ]);
  first[Symbol.dispose]();
  expect(host.software.openFaults().length).toBe(1);
});
