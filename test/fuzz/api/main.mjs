/**
 * npm run test:api-fuzz -- [--calls N] [--seconds N] [--seed S] [--sequence A] [--last B] [--from C] [--to D] [--plain]
 *
 * Calls the public API with valid and with hostile arguments, on an addon that is compiled with AddressSanitizer and UBSan.
 * Runs sequences of calls in separate processes, and ends with status 1 if one of them crashes, hangs or leaks, or if a call
 * fails with an unexpected error (docs/fuzzing.md). A sequence that crashed or hung is shortened, and the remaining calls are
 * printed.
 */
import { execFileSync, fork, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { exclusions } from './values.mjs';

const root = resolve(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '../../..');
const { values: options } = parseArgs({
  options: {
    calls: { type: 'string' },
    seconds: { type: 'string' },
    seed: { type: 'string' },
    sequence: { type: 'string' },
    last: { type: 'string' },
    from: { type: 'string' },
    to: { type: 'string' },
    only: { type: 'string' },
    addon: { type: 'string' },
    dist: { type: 'string' },
    tries: { type: 'string' },
    plain: { type: 'boolean' },
    'no-workers': { type: 'boolean' },
  },
});
const number = (name, otherwise) => {
  if (options[name] === undefined) return otherwise;
  if (!/^\d+$/.test(options[name]))
    throw new Error(`Expected a number for --${name} but received '${options[name]}'`);
  return Number(options[name]);
};

/** The number of calls in a sequence, and of sequences in a process. */
const LENGTH = 2000;
const SEQUENCES = 25;
/** After so many findings and crashes the run ends. */
const MOST_FINDINGS = 20;
/** A call that takes longer than this hangs. */
const PATIENCE = 60_000;
/** How much more a process may use at its end than after its first sequences. */
const SLACK = { descriptors: 16, areas: 400, rss: 300 };

const seed = number('seed', Math.floor(Math.random() * 2 ** 31));
const wanted = number('calls', options.seconds === undefined ? 100_000 : Number.POSITIVE_INFINITY);
const limit = 1000 * number('seconds', 1e9);
const work = mkdtempSync(join(tmpdir(), 'vfio-api-fuzz-'));
process.on('exit', () => rmSync(work, { recursive: true, force: true }));

// 'plain' is the usual build, for examining a finding without a sanitizer.
const addon =
  options.addon ?? execFileSync(join(root, 'test/fuzz/api/build.sh'), { encoding: 'utf8' }).trim();
const dist = resolve(options.dist ?? join(root, 'dist'));
if (!existsSync(join(dist, 'vfio.js')))
  throw new Error(`${dist}/vfio.js is missing: "npm run build:ts" makes it`);
const environment = { ...process.env };
if (addon !== 'plain') {
  const library = execFileSync(join(root, 'test/fuzz/api/build.sh'), ['library'], {
    encoding: 'utf8',
  }).trim();
  Object.assign(environment, {
    VFIO_PREBUILD: addon,
    LD_PRELOAD: library,
    // Leaks are not reported, since Node has some. An allocation that fails returns null and does not end the process.
    ASAN_OPTIONS: `detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=32:log_path=${work}/asan`,
    UBSAN_OPTIONS: `print_stacktrace=1`,
  });
}

/** The state of a process that hangs: its processor time, and the stacks of its threads if there is a debugger. */
function stateOf(pid) {
  const [utime, stime] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ').slice(11, 13);
  const had = `it has had ${(Number(utime) + Number(stime)) / 100} s of processor time`;
  const { stdout } = spawnSync('gdb', ['-p', `${pid}`, '-batch', '-ex', 'thread apply all backtrace 12'], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  return `${had}\n${(stdout ?? 'gdb is missing')
    .split('\n')
    .filter((line) => /^(#|Thread)/.test(line))
    .join('\n')}`;
}

/** Runs a task in a separate process; returns the results. */
function run(task) {
  const progress = join(work, 'progress');
  writeFileSync(progress, '');
  const at = () => {
    const bytes = readFileSync(progress);
    if (bytes.length < 8) return { sequence: task.first, call: 0xffffffff }; // it has made no call yet
    return { sequence: bytes.readUInt32LE(0), call: bytes.readUInt32LE(4) };
  };
  return new Promise((done) => {
    const result = { findings: [], counted: [], trace: [], output: '', hung: false };
    const whole = {
      dist,
      progress,
      seed,
      from: 0,
      to: LENGTH,
      workers: !options['no-workers'],
      ...task,
    };
    const child = fork(join(root, 'test/fuzz/api/child.mjs'), [JSON.stringify(whole)], {
      env: environment,
      execArgv: ['--expose-gc', '--no-warnings'],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (bytes) => {
        if (result.output.length < 200_000) result.output += bytes;
      });
    child.on('message', ({ finding, trace, counted, done: end, ...where }) => {
      if (counted !== undefined) result.counted.push(counted);
      if (finding !== undefined) result.findings.push({ text: finding, ...where });
      if (trace !== undefined) result.trace.push(trace);
      if (end !== undefined) result.end = end;
    });
    let last = '';
    let since = Date.now();
    const watch = setInterval(() => {
      const now = JSON.stringify(at());
      if (now !== last) {
        last = now;
        since = Date.now();
      } else if (Date.now() - since > PATIENCE) {
        result.hung = true;
        result.output += `${stateOf(child.pid)}\n`;
        child.kill('SIGKILL');
      }
    }, 500);
    child.on('close', (code, signal) => {
      clearInterval(watch);
      if (!result.end) {
        let report = '';
        const log = join(work, `asan.${child.pid}`);
        if (existsSync(log)) report = readFileSync(log, 'utf8');
        const how = result.hung
          ? `hangs for ${PATIENCE / 1000} s`
          : `ends the process (${signal ?? `status ${code}`})`;
        result.crash = { how, ...at(), report: `${report}${result.output}`.slice(0, 6000) };
      }
      done(result);
    });
  });
}

/** The shortest part of a sequence that still crashes, as far as a limited number of tries finds it. */
async function shortened(crash) {
  const { sequence } = crash;
  const base = { first: sequence, last: sequence, from: 0, to: Math.min(crash.call, LENGTH) + 1 };
  const crashes = async (only) => (await run({ ...base, only })).crash !== undefined;
  let only = Array.from({ length: base.to }, (_, at) => at);
  if (!(await crashes(only))) return undefined;
  let tries = number('tries', 60);
  for (
    let part = Math.ceil(only.length / 2);
    part >= 1 && tries > 0;
    part = part === 1 ? 0 : Math.ceil(part / 2)
  ) {
    for (let start = 0; start < only.length && tries > 0; ) {
      const rest = [...only.slice(0, start), ...only.slice(start + part)];
      tries--;
      if (rest.length > 0 && (await crashes(rest))) only = rest;
      else start += part;
    }
  }
  const { trace } = await run({ ...base, only, trace: true });
  return { only, trace };
}

const stats = new Map();
const plain = new Map();
const findings = new Map();
let calls = 0;
let crashes = 0;
let seconds = 0;
const found = (text, where) => {
  // The same error of the same call counts as one finding.
  const key = text.replace(/#\d+|@[\d.-]+|0x[0-9a-f]+|\d+/g, 'N').slice(0, 300);
  const known = findings.get(key);
  if (known !== undefined) {
    known.count++;
    return false;
  }
  findings.set(key, { count: 1 });
  console.log(
    `\nFINDING ${findings.size}: ${text}\n  again with: npm run test:api-fuzz -- --seed ${seed} ${where}`,
  );
  return true;
};

function add({ calls: made, stats: its, plain: errors }) {
  calls += made;
  for (const [place, { public: isPublic, outcomes }] of Object.entries(its)) {
    const known = stats.get(place) ?? { public: isPublic, outcomes: {} };
    for (const [outcome, count] of Object.entries(outcomes))
      known.outcomes[outcome] = (known.outcomes[outcome] ?? 0) + count;
    stats.set(place, known);
  }
  for (const [key, value] of Object.entries(errors))
    plain.set(key, { ...value, count: value.count + (plain.get(key)?.count ?? 0) });
}

async function batch(first, last, more) {
  const { findings: told, counted, end, crash, trace, output } = await run({ first, last, ...more });
  for (const each of counted) add(each);
  for (const each of told) found(each.text, `--sequence ${each.sequence} --to ${each.call + 1}`);
  if (more.trace) console.log(trace.join('\n'));
  if (crash !== undefined && counted.length === 0 && crash.call >= LENGTH && crash.sequence === first) {
    found(
      `the process does not get to the first call: it ${crash.how}\n${crash.report}`,
      `--sequence ${first}`,
    );
    return undefined;
  }
  if (crash !== undefined) {
    const again = `--sequence ${crash.sequence} --to ${crash.call + 1}`;
    crashes++;
    const isNew = found(
      `call ${crash.call} of sequence ${crash.sequence} ${crash.how}\n${crash.report}`,
      again,
    );
    if (isNew && !more.trace) {
      const short = await shortened(crash);
      if (short === undefined)
        console.log(`  alone, the sequence does not do it: it began with --sequence ${first} --last ${last}`);
      else
        console.log(
          `  or with: --sequence ${crash.sequence} --only ${short.only.join(',')}\n${short.trace.join('\n')}`,
        );
    }
    return crash.sequence + 1;
  }
  if (output.trim() !== '') console.log(output.trim().slice(0, 2000));
  seconds += end.seconds;
  // Memory and descriptors that the first sequences allocate once are not counted. Later sequences must leave none behind.
  const [, early, ...later] = end.states;
  const now = later.at(-1);
  if (now !== undefined && last - first >= 20)
    for (const what of Object.keys(SLACK))
      if (now[what] > early[what] + SLACK[what])
        found(`${what} grow: ${JSON.stringify(end.states)}`, `--sequence ${first} --last ${last}`);
  return last + 1;
}

console.log(`seed ${seed}; never passed:\n${exclusions.map((each) => `  ${each}`).join('\n')}`);
const began = Date.now(); // measured after compiling, which can take longer than the limit
const until = began + limit;
const replay = options.sequence !== undefined;
if (replay) {
  const first = number('sequence');
  const more = { from: number('from', 0), to: number('to', LENGTH), trace: options.last === undefined };
  if (options.only !== undefined)
    Object.assign(more, { only: options.only.split(',').map(Number), to: LENGTH });
  await batch(first, number('last', first), more);
} else {
  for (
    let next = 0;
    next !== undefined && calls < wanted && Date.now() < until && findings.size + crashes < MOST_FINDINGS;
  ) {
    const left = Math.ceil((wanted - calls) / LENGTH);
    next = await batch(next, next + Math.min(SEQUENCES, left) - 1, {});
    console.log(`${calls} calls, ${Math.round((Date.now() - began) / 1000)} s, ${findings.size} findings`);
  }
}

const total = (outcomes) => Object.values(outcomes).reduce((sum, each) => sum + each, 0);
if (!replay) {
  console.log('\ncalls, and what came of them:');
  for (const [place, { outcomes }] of [...stats].sort()) {
    const list = Object.entries(outcomes).sort((a, b) => b[1] - a[1]);
    console.log(
      `${String(total(outcomes)).padStart(7)} ${place}: ${list.map(([code, count]) => `${code} ${count}`).join(', ')}`,
    );
  }
  const never = [...stats].filter(([, each]) => each.public && !each.outcomes['ok']).map(([place]) => place);
  const known = [...stats].filter(([, each]) => each.public).length;
  console.log(
    `\n${known} public calls, of which ${never.length} never succeeded${never.length > 0 ? `: ${never.sort().join(', ')}` : ''}`,
  );
}
if (options.plain)
  for (const [key, { count, frame, text }] of [...plain].sort((a, b) => b[1].count - a[1].count))
    console.log(`${String(count).padStart(6)} ${key}\n         at ${frame}\n         ${text.slice(0, 300)}`);
console.log(
  `\nseed ${seed}: ${calls} calls in ${Math.round((Date.now() - began) / 1000)} s (${Math.round(calls / Math.max(seconds, 1))} a processor second), ${findings.size} findings`,
);
if (calls === 0 && !replay) console.log('no call was made: nothing was tried');
process.exitCode = findings.size > 0 || (calls === 0 && !replay) ? 1 : 0;
