/**
 * A program's own listeners for SIGSEGV and SIGBUS: a bad address in a call of this package is still an error, and the
 * program's own signals reach its listeners. (test/soft/guard.cc tests handlers in C, and each guarded routine by itself.)
 */
import { describe, expect, test } from 'vitest';
import { run } from './support/program.ts';

const patient = { timeout: 60_000 };

/** Accesses memory that does not exist, in each way; the program says how often its listeners were called. */
const TOUCH = `
  import { closeSync, ftruncateSync, openSync, unlinkSync, writeFileSync } from 'node:fs';
  const path = '/dev/shm/vfio-signals-' + process.pid;
  let called = 0;
  const listener = () => { called++; };
  const say = (what, call) => {
    try {
      call();
      console.log(what, 'no error');
    } catch (error) {
      console.log(what, error.code);
    }
  };
  const edu = await openEdu();
  function touch() {
    say('map', () => edu.dma.map(DmaBuffer.unsafeFromAddress(0x10000, 4096)));
    writeFileSync(path, Buffer.alloc(8192));
    const fd = openSync(path, 'r+');
    unlinkSync(path);
    const memory = DmaBuffer.fromFd(fd, { length: 8192 });
    ftruncateSync(fd, 0);
    say('read of a file that shrank', () => memory.read(4096, Buffer.alloc(8)));
    say('write to it', () => memory.write(0, Buffer.alloc(8)));
    memory[Symbol.dispose]();
    closeSync(fd);
  }
`;
const ERRORS = 'map EFAULT\nread of a file that shrank EFAULT\nwrite to it EFAULT\n';

describe.each(['SIGSEGV', 'SIGBUS'])('a listener for %s', (signal) => {
  test.each([
    ['that was there before', `process.on('${signal}', listener); touch();`],
    ['added a moment ago', `touch(); process.on('${signal}', listener); touch();`],
    [
      'added and removed again',
      `process.on('${signal}', listener); touch(); process.off('${signal}', listener); touch();`,
    ],
    [
      'added and removed a hundred times',
      `for (let i = 0; i < 100; i++) { process.once('${signal}', listener); process.off('${signal}', listener); }
       process.on('${signal}', listener); touch();`,
    ],
  ])('%s leaves a bad address an error, and does not hear of it', patient, async (_, does) => {
    const ended = await run(`${TOUCH} ${does} await sleep(50); console.log('called', called);`);
    expect({ ...ended, stdout: ended.stdout.replaceAll(ERRORS, '') }).toEqual({
      code: 0,
      signal: null,
      stdout: 'called 0\n',
      stderr: '',
    });
    expect(ended.stdout).toContain(ERRORS);
  });

  test(
    'is called when the signal is sent, and after it is removed the signal ends the process',
    patient,
    async () => {
      const ended = await run(`
      ${TOUCH}
      process.on('${signal}', listener);
      process.kill(process.pid, '${signal}');
      while (called === 0) await sleep(1);
      touch();
      console.log('called', called);
      process.off('${signal}', listener);
      process.kill(process.pid, '${signal}');
      await sleep(10_000);
    `);
      expect(ended).toEqual({ code: null, signal, stdout: `${ERRORS}called 1\n`, stderr: '' });
    },
  );

  test(
    'does no harm if only a worker has loaded the package, also after the worker has ended',
    patient,
    async () => {
      const ended = await run(`
      import { Worker } from 'node:worker_threads';
      let called = 0;
      process.on('${signal}', () => { called++; });
      const text = \`
        const { DmaBuffer } = await import(\${JSON.stringify(PACKAGE)});
        const { ftruncateSync, openSync, unlinkSync, writeFileSync } = await import('node:fs');
        const path = '/dev/shm/vfio-signals-worker-' + process.pid;
        writeFileSync(path, Buffer.alloc(8192));
        const fd = openSync(path, 'r+');
        unlinkSync(path);
        const memory = DmaBuffer.fromFd(fd, { length: 8192 });
        ftruncateSync(fd, 0);
        try {
          memory.read(0, Buffer.alloc(8));
        } catch (error) {
          console.log(error.code);
        }
      \`;
      const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(text)));
      await new Promise((resolve) => worker.once('exit', resolve));
      process.kill(process.pid, '${signal}');
      while (called === 0) await sleep(1);
      console.log('called', called);
    `);
      expect(ended).toEqual({ code: 0, signal: null, stdout: 'EFAULT\ncalled 1\n', stderr: '' });
    },
  );
});
