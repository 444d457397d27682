/**
 * The errors of this package. A failed system call is a VfioError; a bad argument is a TypeError or RangeError with Node's
 * codes; the use of a disposed handle is an Error with the code ERR_VFIO_DISPOSED (lib/handles/handle.ts).
 */
import { constants } from 'node:os';
import { own, ownOf } from './own.ts';
import { shown } from './shell.ts';

// Some numbers have two names. The one that the kernel's documentation uses comes last, and replaces the other.
const names = new Map<number, string>([
  ...Object.entries(constants.errno).map(([name, number]) => [number, name] as const),
  [constants.errno.EAGAIN, 'EAGAIN'],
  [constants.errno.EOPNOTSUPP, 'EOPNOTSUPP'],
  [35, 'EDEADLK'],
  [77, 'EBADFD'],
]);

const meanings: Record<string, string> = {
  EPERM: 'operation not permitted',
  ENOENT: 'no such object',
  EIO: 'input/output error',
  ENXIO: 'no such device or address',
  E2BIG: 'argument too big',
  EBADF: 'bad file descriptor',
  EAGAIN: 'resource busy, try again',
  ENOMEM: 'out of memory, or over the locked-memory limit',
  EACCES: 'permission denied',
  EFAULT: 'bad address',
  EBUSY: 'device or resource busy',
  EEXIST: 'already there',
  ENODEV: 'no such device',
  EINVAL: 'invalid argument',
  EMFILE: 'too many open files',
  ENOTTY: 'not supported by this kernel or file',
  ENOSPC: 'no room left',
  ERANGE: 'out of range',
  EDEADLK: 'would never end',
  EPROTO: 'the answer can not be true',
  EOVERFLOW: 'value too large',
  EBADFD: 'descriptor of a wrong kind',
  EMSGSIZE: 'buffer too short',
  EADDRINUSE: 'address range in use',
  EOPNOTSUPP: 'operation not supported',
  ETIMEDOUT: 'timed out',
  ECANCELED: 'cancelled',
  ESPIPE: 'not a file that can be positioned',
};

/** The details of a {@link VfioError}. */
export interface VfioErrorDetails {
  syscall: string;
  request?: string | undefined;
  path?: string | undefined;
  reason?: string | undefined;
  hint?: string | undefined;
  handled?: number | undefined;
  /** The error that led to this one: becomes the error's `cause`. */
  cause?: unknown;
}

/**
 * Thrown for every failed system call, on both backends. `code` and `errno` follow Node's system errors.
 *
 * `message` reads `EBUSY: device or resource busy, ioctl VFIO_DEVICE_BIND_IOMMUFD (reason)`. It is one line, and control
 * characters in it are escaped, so that it can be printed to a terminal; `path`, `reason` and `hint` are not escaped.
 */
export class VfioError extends Error {
  override readonly name = 'VfioError';
  /** The error's name: `'EBUSY'`. */
  readonly code: string;
  /** The error's number, negative: `-16`. */
  readonly errno: number;
  /** The call that failed: `'open'`, `'ioctl'`, `'mmap'`, `'pread'` ... */
  readonly syscall: string;
  /** The ioctl's name: `'IOMMU_IOAS_MAP'`. */
  declare readonly request?: string;
  /** The path of the file that the call named, if it named one by path. */
  declare readonly path?: string;
  /** Why it failed, in words, where that can be known: which device, which range, which limit. */
  declare readonly reason?: string;
  /** What can be done about it. */
  declare readonly hint?: string;
  /** How many entries were handled before the one that failed (IOMMU_HWPT_INVALIDATE). */
  declare readonly handled?: number;

  static {
    // A detail that an error lacks reads as undefined, also if a program has put a property of that name on Object.prototype.
    for (const name of ['request', 'path', 'reason', 'hint', 'handled'])
      Object.defineProperty(VfioError.prototype, name, { value: undefined, writable: true });
  }

  constructor(errno: number, given: VfioErrorDetails) {
    const details = ownOf(given);
    const number = Math.abs(errno);
    const code = names.get(number) ?? `E${number}`;
    const what = [details.syscall, details.request, details.path && `'${details.path}'`]
      .filter(Boolean)
      .join(' ');
    super(
      // Other programs choose paths and names: characters that would move a terminal's cursor are shown as their numbers.
      shown(
        `${code}: ${meanings[code] ?? 'failed'}, ${what}` +
          (details.reason ? ` (${details.reason})` : '') +
          (details.hint ? `. ${details.hint}` : ''),
      ),
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.code = code;
    this.errno = -number;
    this.syscall = details.syscall;
    if (details.request !== undefined) this.request = details.request;
    if (details.path !== undefined) this.path = details.path;
    if (details.reason !== undefined) this.reason = details.reason;
    if (details.hint !== undefined) this.hint = details.hint;
    if (details.handled !== undefined) this.handled = details.handled;
  }
}

/** The number of the error with this name, positive; undefined: there is none. */
export function errnoOf(code: string): number | undefined {
  for (const [number, name] of names) if (name === code) return number;
  return undefined;
}

/** Makes the addon's errors: the addon calls it. */
export function makeSystemError(
  errno: number,
  syscall: string,
  request?: string,
  path?: string,
  handled?: number,
  reason?: string,
): VfioError {
  const known = reason === undefined ? ofDescriptors.get(Math.abs(errno)) : { reason };
  return new VfioError(errno, { syscall, request, path, handled, ...known });
}

/** The kernel has one cause for each of these. */
const ofDescriptors: ReadonlyMap<number, Words> = new Map([
  [
    constants.errno.EMFILE,
    {
      reason: 'this process has as many files open as its limit allows (RLIMIT_NOFILE)',
      hint: 'Raise it and start the program again: ulimit -n NUMBER. "ulimit -n" shows it',
    },
  ],
  [
    constants.errno.ENFILE,
    {
      reason: 'the system has as many files open as its limit allows (/proc/sys/fs/file-max)',
      hint: 'Raise it, as root: sysctl fs.file-max=NUMBER',
    },
  ],
]);

/** Why a call failed, and what to do: a command to run, where there is one. */
export interface Words {
  reason?: string;
  hint?: string;
}

/**
 * Runs `call`. If it fails with a VfioError that `explain` can explain, throws the same error with that reason and hint.
 * `explain` runs only on failure.
 */
export function explained<T>(
  call: () => T,
  explain: (error: VfioError) => { reason?: string | undefined; hint?: string | undefined } | undefined,
): T {
  try {
    return call();
  } catch (error) {
    throw withWords(error, explain);
  }
}

/** The same error with the reason and hint that `explain` returns for it. Anything but a VfioError is returned as it is. */
export function withWords(
  error: unknown,
  explain: (error: VfioError) => { reason?: string | undefined; hint?: string | undefined } | undefined,
): unknown {
  if (!(error instanceof VfioError)) return error;
  const words = explain(error);
  if (!words) return error;
  const better = new VfioError(error.errno, {
    reason: error.reason,
    hint: error.hint,
    ...definedIn(error),
    ...words,
  });
  const stack = stackOf(error);
  if (stack !== undefined)
    better.stack = `${better.name}: ${better.message}\n${stack.split('\n').slice(1).join('\n')}`;
  return better;
}

/** The stack of an error, if it is a string: a program's Error.prepareStackTrace may return anything, or throw. */
export function stackOf(error: Error): string | undefined {
  try {
    const stack: unknown = error.stack;
    return typeof stack === 'string' ? stack : undefined;
  } catch {
    return undefined; // the program's prepareStackTrace threw: that does not concern the call that is under way
  }
}

function definedIn(error: VfioError): VfioErrorDetails {
  const { syscall, request, path, handled } = error;
  return { syscall, request, path, handled, cause: own(error, 'cause') };
}
