/**
 * Runs sequences of calls in a separate process, which main.mjs starts and watches, since it may crash or hang. The first
 * argument is the task, as JSON. The results are sent back as messages.
 */
import { openSync, readFileSync, writeSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { readDeclarations } from './declarations.mjs';
import { Random } from './random.mjs';
import { descriptors, disposeLeftovers, outcomeOf, Session } from './session.mjs';
import { setHarmless } from './values.mjs';

const task = JSON.parse(process.argv[2]);
const { dist, seed, first, last, from, to, only, trace } = task;
process.env.VFIO_BACKEND = 'software';
// A few stack frames are enough to find the place where a call failed.
Error.stackTraceLimit = 6;
const vfio = await import(pathToFileURL(`${dist}/vfio.js`));
const declarations = readDeclarations(`${dist}/lib`);
const memory = vfio.DmaBuffer.alloc(0x10000);
setHarmless(Number(memory.address));

// The current sequence and call, for the report after a crash. The file is open for writing only, so no call can map it.
const progress = openSync(task.progress, 'w');
const position = new Uint32Array(2);
const tell = (sequence, call) => {
  position[0] = sequence;
  position[1] = call;
  writeSync(progress, position, 0, 8, 0);
};

let stats = new Map();
let plain = new Map();
let calls = 0;
/** Sends the counts since the last message, so that they are not lost if the process crashes later. */
function count(callback) {
  const told = { calls, stats: Object.fromEntries(stats), plain: Object.fromEntries(plain) };
  process.send({ counted: told }, callback);
  stats = new Map();
  plain = new Map();
  calls = 0;
}
let session;
const report = {
  outcome({ kind, name, public: isPublic }, outcome) {
    calls++;
    const place = name.startsWith('new ') ? name : `${kind}.${name}`;
    let found = stats.get(place);
    if (found === undefined) {
      found = { public: isPublic, outcomes: {} };
      stats.set(place, found);
    }
    found.outcomes[outcome] = (found.outcomes[outcome] ?? 0) + 1;
  },
  finding(text) {
    process.send({ finding: text, sequence: position[0], call: position[1] });
  },
  /** An error without a code, thrown by the package's own code: allowed, but it says less than it should. */
  plain({ kind, name }, error, text) {
    const stack = typeof error.stack === 'string' ? error.stack : '';
    const frame = /\n\s+at (.*)/.exec(stack)?.[1] ?? '';
    if (
      !frame.includes('vfio.js') ||
      /private member|Receiver must|Illegal invocation|Class constructor|revoked/.test(stack)
    )
      return;
    const key = `${kind}.${name}: ${error.name}: ${String(error.message).slice(0, 120)}`;
    const found = plain.get(key);
    if (found === undefined)
      plain.set(key, { count: 1, frame, text: text(), sequence: position[0], call: position[1] });
    else found.count++;
  },
  uncaught(error) {
    if (outcomeOf(vfio, error) === undefined)
      report.finding(`an uncaught error: ${error?.stack ?? String(error)}`);
  },
  fromWorker({ made, finding }) {
    if (made !== undefined) calls += made;
    if (finding !== undefined) report.finding(`in a worker thread: ${finding}`);
  },
};
process.on('uncaughtException', report.uncaught);
process.on('unhandledRejection', report.uncaught);
// Warnings may come during any call, also from the garbage collector.
let warnings = 0;
process.on('warning', () => {
  const random = new Random(seed, position[0], warnings++);
  if (warnings < 10_000 && random.chance(0.2)) {
    try {
      session?.act(random.below(8), random.next());
    } catch (error) {
      report.uncaught(error);
    }
  }
});

const rss = () => Number(/^VmRSS:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024;
const areas = () => readFileSync('/proc/self/maps', 'utf8').split('\n').length;
const state = () => ({ descriptors: descriptors(), areas: areas(), rss: Math.round(rss()) });

/** What the process still uses after all garbage was collected and all calls have ended. */
async function settled(limit) {
  globalThis.gc();
  await new Promise((resolve) => setTimeout(resolve, 20));
  disposeLeftovers();
  let now = state();
  for (const end = Date.now() + limit; Date.now() < end; ) {
    globalThis.gc();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const next = state();
    if (next.descriptors >= now.descriptors && next.areas >= now.areas) return next;
    now = next;
  }
  return now;
}

const chosen = only === undefined ? undefined : new Set(only);
const states = [];
for (let number = first; number <= last; number++) {
  tell(number, 0xffffffff);
  const text = trace ? (line) => process.send({ trace: line }) : undefined;
  session = new Session({
    vfio,
    declarations,
    seed,
    number,
    report,
    trace: text,
    workerFile: task.workers ? { dist, file: new URL('./worker.mjs', import.meta.url) } : undefined,
  });
  if (number === last || (number - first) % 10 === 0) states.push(await settled(200));
  try {
    await session.run({
      from,
      to,
      wanted: (at) => chosen?.has(at) ?? true,
      before: (at) => tell(number, at),
    });
  } catch (error) {
    report.finding(`the fuzzer itself fails: ${error?.stack ?? String(error)}`);
  }
  session = undefined;
  count();
}
tell(last, 0xfffffffe);
// A change of a driver that waits for another program ends with an error after 5 seconds.
states.push(await settled(7000));
process.send({ done: { seconds: (process.cpuUsage().user + process.cpuUsage().system) / 1e6, states } }, () =>
  process.exit(0),
);
