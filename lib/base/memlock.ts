/** RLIMIT_MEMLOCK: how much memory this process may pin for devices, and the command that raises it. */
import { readFileSync } from 'node:fs';

/** The limit in bytes: `soft` is in force, and a process may raise it up to `hard` by itself. */
export interface LockLimit {
  soft: number;
  hard: number;
}

export const MEBIBYTE = 1048576;

/** With a lower limit than this, Host.report and explain warn: a driver's rings and buffers may not fit. */
export const LITTLE_MEMORY = 64 * MEBIBYTE;

/** The number of CAP_IPC_LOCK. The limit does not apply to a process that has it. */
const CAP_IPC_LOCK = 14n;

const proc = (name: string): string => {
  try {
    return readFileSync(`/proc/self/${name}`, 'utf8');
  } catch {
    return ''; // without /proc nothing is known
  }
};

const bytes = (field: string) => (field === 'unlimited' ? Number.POSITIVE_INFINITY : Number(field));

/** The limit of this process; undefined: no limit applies to it, or none is known. */
export function lockLimit(): LockLimit | undefined {
  const effective = /^CapEff:\s+([0-9a-f]+)/m.exec(proc('status'))?.[1] ?? '0';
  if ((BigInt(`0x${effective}`) >> CAP_IPC_LOCK) & 1n) return undefined;
  const [, soft, hard] = /^Max locked memory\s+(\S+)\s+(\S+)/m.exec(proc('limits')) ?? [];
  if (soft === undefined || hard === undefined || soft === 'unlimited') return undefined;
  return { soft: bytes(soft), hard: bytes(hard) };
}

/** Bytes that this process has locked by mlock. */
export const lockedBytes = (): number => Number(/^VmLck:\s+(\d+) kB/m.exec(proc('status'))?.[1] ?? 0) * 1024;

/** The command that lets the programs of a shell lock `need` bytes. Up to the hard limit it needs no root. */
export function raiseLockLimit(need: number, limit: LockLimit): string {
  if (need <= limit.hard) return `ulimit -S -l ${Math.ceil(need / 1024)}`;
  return `${process.geteuid?.() === 0 ? '' : 'sudo '}prlimit --pid $$ --memlock=unlimited:unlimited`;
}

/**
 * The line for limits.conf that removes the limit at the user's next login. A numeric user id is written `:1000`: limits.conf
 * takes a bare number for a name.
 */
export const lastingLockLimit = (user: string): string =>
  `${/^\d+$/.test(user) ? ':' : ''}${user} - memlock unlimited`;
