/**
 * Prints the summary of a run: the backend, how many tests passed, failed and were skipped, and why each was skipped. Also
 * writes it as JSON to the file that VFIO_TEST_REPORT names, if it is set.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { SerializedError } from 'vitest';
import type { Reporter, TestModule, Vitest } from 'vitest/node';
import { leftOut } from './software-only.ts';

export interface Report {
  readonly backend: string;
  /** The guest's IOMMU, on the kernel backend. */
  readonly guest: string | null;
  readonly node: string;
  readonly seconds: number;
  readonly passed: number;
  readonly failed: number;
  readonly failures: readonly string[];
  /** The tests that passed and have the id of a requirement in their name: docs/requirements.md. */
  readonly shown: readonly string[];
  readonly skipped: readonly { readonly test: string; readonly reason: string }[];
}

export default class SummaryReporter implements Reporter {
  #started = performance.now();
  #vitest: Vitest | undefined;

  onInit(vitest: Vitest): void {
    this.#vitest = vitest;
  }

  onTestRunStart(): void {
    this.#started = performance.now();
  }

  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    const filtered = this.#vitest?.config.testNamePattern !== undefined;
    const report = summarize(modules, unhandled, filtered, (performance.now() - this.#started) / 1000);
    print(report);
    // Vitest counts a test that never ran as skipped.
    if (report.failed > 0) process.exitCode = 1;
    const file = process.env['VFIO_TEST_REPORT'];
    if (!file) return;
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
  }
}

function summarize(
  modules: readonly TestModule[],
  unhandled: readonly SerializedError[],
  filtered: boolean,
  seconds: number,
): Report {
  let passed = 0;
  const failures: string[] = [];
  const shown: string[] = [];
  const skipped: { test: string; reason: string }[] = [];
  for (const module of modules) {
    const file = module.relativeModuleId;
    // A file or a describe that failed outside its tests (an import, a beforeAll) is a failure of its own.
    if (module.errors().length > 0) failures.push(`${file}: ${module.errors()[0]?.message}`);
    for (const suite of module.children.allSuites()) {
      if (suite.errors().length > 0)
        failures.push(`${file} > ${suite.fullName}: ${suite.errors()[0]?.message}`);
    }
    for (const test of module.children.allTests()) {
      const name = `${file} > ${test.fullName}`;
      const result = test.result();
      if (result.state === 'passed') {
        passed += 1;
        if (/\b[A-E]\d\b/.test(test.fullName)) shown.push(name);
      } else if (result.state === 'failed') failures.push(name);
      else if (result.state === 'pending') failures.push(`${name} (never finished)`);
      else if (result.note) skipped.push({ test: name, reason: result.note });
      // With -t, tests that were left out look like skipped ones. Without it, a hook failed, or no reason was given.
      else if (!filtered) failures.push(`${name} (did not run, and no test said why)`);
      // A part of the test was skipped; the rest has passed.
      for (const { type, message } of test.annotations())
        if (type === 'skip') skipped.push({ test: `${name}: a part of it`, reason: message });
    }
  }
  for (const [file, because] of leftOut())
    skipped.push({ test: `${file}: all of it`, reason: `needs the software backend: ${because}` });
  if (passed + failures.length + skipped.length === 0) failures.push('there was no test to run');
  for (const error of unhandled) failures.push(`outside any test: ${error.message}`);
  return {
    backend: process.env['VFIO_TEST_BACKEND'] || 'software',
    guest: process.env['VFIO_GUEST'] || null,
    node: process.version,
    seconds: Math.round(seconds * 10) / 10,
    passed,
    failed: failures.length,
    failures,
    shown,
    skipped,
  };
}

function print(report: Report): void {
  const guest = process.env['VFIO_GUEST'] ? ` (guest, IOMMU=${process.env['VFIO_GUEST']})` : '';
  const lines = [
    '',
    `${report.backend} backend${guest}, Node ${report.node}: ${report.passed} passed, ${report.failed} failed, ` +
      `${report.skipped.length} skipped, in ${report.seconds} s`,
    ...report.failures.map((name) => `  failed   ${name}`),
    ...report.skipped.map(({ test, reason }) => `  skipped  ${test}\n           ${reason}`),
    '',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}
