/**
 * Commands to the QEMU that runs the guest, for tests on the kernel backend: they plug devices in and out, inject errors and
 * log bus accesses. The guest's third serial port is connected to QEMU's monitor, which reads and writes one JSON object per
 * line (QMP).
 */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

let serial = 0;

/** Runs one QMP command, as in `await qemu('device_del', { id: 'edu1' })`, and returns its result. */
export async function qemu(execute: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
  const path = process.env['VFIO_GUEST_MONITOR'];
  if (!path) throw new Error('there is no QEMU to talk to: this is not the guest of test/kernel');
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    // 0xff makes the monitor discard an incomplete command: at boot the terminal echoed the monitor's greeting back to it.
    writeSync(fd, Buffer.of(0xff, 0x0a));
    // Only the first caller's handshake succeeds. Later ones get an error, which does no harm.
    await send(fd, 'qmp_capabilities', {});
    const reply = await send(fd, execute, args);
    if (reply.error) throw new Error(`QEMU refused ${execute}: ${reply.error.desc}`);
    return reply.return;
  } finally {
    closeSync(fd);
  }
}

/** Runs a line of QEMU's human monitor, as in `info pci` or `trace-event edu_* on`, and returns what it printed. */
export async function monitor(line: string): Promise<string> {
  return String(await qemu('human-monitor-command', { 'command-line': line }));
}

interface Reply {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
}

async function send(fd: number, execute: string, args: Readonly<Record<string, unknown>>): Promise<Reply> {
  const id = process.pid * 1000 + ++serial;
  writeSync(fd, `${JSON.stringify({ execute, arguments: args, id })}\n`);
  const deadline = Date.now() + 30_000;
  const chunk = Buffer.alloc(4096);
  let text = '';
  while (Date.now() < deadline) {
    const length = readSome(fd, chunk);
    if (length === 0) {
      await sleep(5);
      continue;
    }
    text += chunk.toString('utf8', 0, length);
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    const reply = lines.map(parse).find((each) => each?.id === id);
    if (reply) return reply;
  }
  throw new Error(`QEMU did not answer ${execute} within 30 seconds`);
}

function readSome(fd: number, into: Buffer): number {
  try {
    return readSync(fd, into);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EAGAIN') return 0;
    throw error;
  }
}

/** Null: no complete JSON. The beginning of the first line may be missing, since it was sent before this file was opened. */
function parse(line: string): Reply | null {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}
