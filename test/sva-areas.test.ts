/** The areas of the process's memory, as the text of /proc/self/maps has them. */
import { describe, expect, test } from 'vitest';
import { areas, areasOf, forbids } from '../lib/sva/areas.ts';
import { needs } from './support/backends.ts';

describe('the areas of the process', () => {
  needs({ backends: ['software'], because: 'it is about text' });
  const list = areasOf(
    `00400000-00401000 r-xp 00000000 08:01 123                                /bin/with space
7f0000000000-7f0000002000 rw-p 00000000 00:00 0 
7f0000003000-7f0000004000 ---p 00000000 00:00 0 
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
`,
  );

  test('of this process: its stack can be read and written, and something can be executed', () => {
    const own = areas();
    expect(own.find(({ name }) => name === '[stack]')).toMatchObject({ read: true, write: true });
    expect(own.some(({ execute, write }) => execute && !write)).toBe(true);
    expect(own.every(({ start, last }) => start < last)).toBe(true);
  });

  test('are read with their rights and names', () => {
    expect(list).toEqual([
      { start: 0x400000n, last: 0x400fffn, read: true, write: false, execute: true, name: '/bin/with space' },
      { start: 0x7f0000000000n, last: 0x7f0000001fffn, read: true, write: true, execute: false, name: '' },
      { start: 0x7f0000003000n, last: 0x7f0000003fffn, read: false, write: false, execute: false, name: '' },
      {
        start: 0x7ffc00000000n,
        last: 0x7ffc00020fffn,
        read: true,
        write: true,
        execute: false,
        name: '[stack]',
      },
    ]);
  });

  test.each([
    [0x7f0000000000n, 0x7f0000001fffn, undefined],
    [0x7f0000001000n, 0x7f0000002fffn, /nothing is mapped in \[0x7f0000002000, 0x7f0000002fff\]/],
    [0x7f0000001000n, 0x7f0000003fffn, /nothing is mapped in \[0x7f0000002000, 0x7f0000002fff\]/],
    [0x7f0000003000n, 0x7f0000003000n, /may not read/],
    [0x400000n, 0x400000n, /may only read \[0x400000, 0x400fff\] \(\/bin\/with space\)/],
  ])('tell why %d to %d can not be given to a device', (start, last, reason) => {
    const found = forbids(list, start, last);
    if (reason === undefined) expect(found).toBeUndefined();
    else expect(found).toMatch(reason);
  });
});
