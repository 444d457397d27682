/** RLIMIT_MEMLOCK: how much memory this process may pin for devices, and the command that raises it. */
import { readFileSync } from 'node:fs';

/** The limit in bytes: what holds now, and up to what a process may raise it by itself. */
export interface LockLimit {
  soft: number;
  hard: number;
}

export const MEBIBYTE = 1048576;

/** What a program needs at least to be worth running: a ring and some buffers. */
export const LITTLE_MEMORY = 64 * MEBIBYTE;

/** CAP_IPC_LOCK lifts the limit. */
const CAP_IPC_LOCK = 14n;

const proc = (name: string): string => {
  try {
    return readFileSync(`/proc/self/${name}`, 'utf8');
  } catch {
    return ''; // no /proc: nothing is known
  }
};

const bytes = (field: string) => (field === 'unlimited' ? Number.POSITIVE_INFINITY : Number(field));

/** The limit of this process; undefined: none holds it, or none is known. */
export function lockLimit(): LockLimit | undefined {
  const effective = /^CapEff:\s+([0-9a-f]+)/m.exec(proc('status'))?.[1] ?? '0';
  if ((BigInt(`0x${effective}`) >> CAP_IPC_LOCK) & 1n) return undefined;
  const [, soft, hard] = /^Max locked memory\s+(\S+)\s+(\S+)/m.exec(proc('limits')) ?? [];
  if (soft === undefined || hard === undefined || soft === 'unlimited') return undefined;
  return { soft: bytes(soft), hard: bytes(hard) };
}

/** Bytes that this process has locked or pinned by calls of its own (mlock). */
export const lockedBytes = (): number => Number(/^VmLck:\s+(\d+) kB/m.exec(proc('status'))?.[1] ?? 0) * 1024;

/** The command that lets the programs of a shell lock `need` bytes: below the hard limit nobody has to ask root. */
export function raiseLockLimit(need: number, limit: LockLimit): string {
  if (need <= limit.hard) return `ulimit -S -l ${Math.ceil(need / 1024)}`;
  return `${process.geteuid?.() === 0 ? '' : 'sudo '}prlimit --pid $$ --memlock=unlimited:unlimited`;
}

/** What makes it last, at a user's next login. Numbers are marked: limits.conf takes a bare one for a name. */
export const lastingLockLimit = (user: string): string =>
  `${/^\d+$/.test(user) ? ':' : ''}${user} - memlock unlimited`;
