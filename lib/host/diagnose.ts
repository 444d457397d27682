/** Finds out whether a device can be used, and why not: from the state of the host, then by an attempt. */
import type { NativeHost } from '../addon/native.ts';
import { flag, integer, known } from '../base/check.ts';
import { VfioError } from '../base/errors.ts';
import { OURS } from '../base/private.ts';
import { causesOf, type Finding, failedAttempt, memlockFinding } from '../system/explain/causes.ts';
import { IommuGroup } from '../system/groups.ts';
import { attach } from './attach.ts';
import type { Opener } from './opener.ts';

/** The result of {@link Host.diagnose}. */
export interface Diagnosis {
  bdf: string;
  /** Whether a program of this process can use it now. */
  usable: boolean;
  /** The reasons why it can't be used, and warnings. */
  findings: Finding[];
}

/** @internal See {@link Host.diagnose}. */
export function diagnose(
  host: Opener,
  native: NativeHost,
  bdf: string,
  o?: { attempt?: boolean; memory?: number },
): Diagnosis {
  const wanted = known(o, 'options', ['attempt', 'memory']);
  const attempt = flag(wanted.attempt, 'attempt', true);
  const memory =
    wanted.memory === undefined ? undefined : integer(wanted.memory, 'memory', 1, Number.MAX_SAFE_INTEGER);
  const device = host.device(bdf);
  const group = device.group === null ? undefined : new IommuGroup(OURS, native, device.group);
  const findings = causesOf(native, device, group);
  if (attempt && !findings.some((each) => each.blocks)) {
    try {
      attach(host, device.bdf, undefined)[Symbol.dispose]();
    } catch (error) {
      if (!(error instanceof VfioError)) throw error;
      findings.push(failedAttempt(native, device, error));
    }
  }
  const memlock = memlockFinding(memory);
  if (memlock !== undefined) findings.push(memlock);
  return { bdf: device.bdf, usable: !findings.some((each) => each.blocks), findings };
}
