/**
 * A test of a user, which Jest runs (../copies.test.ts). Jest gives each test file its own registry of modules, and so its own
 * copy of the package. After resetModules the next import makes another copy. The registry does not contain addons: the
 * process loads each addon file once.
 */
import { afterEach, expect, jest, test } from '@jest/globals';

const EDU = '0000:00:10.0';
const MSI = 0xfee00000; // no IOVA can be here: x86 uses these addresses for message interrupts
const opened = [];

afterEach(() => {
  for (const each of opened.splice(0).reverse()) each[Symbol.dispose]();
});

async function copy() {
  jest.resetModules();
  const vfio = await import('vfio');
  const host = vfio.Host.open({ backend: 'software' });
  opened.push(host);
  await host.device(EDU).bind();
  return { ...vfio, host, user: host.attach(EDU) };
}

function errorOf(call) {
  try {
    call();
  } catch (error) {
    return error;
  }
  throw new Error('Expected an error but the call succeeded');
}

test('after resetModules the first copy goes on with errors and words of its own', async () => {
  const first = await copy();
  const second = await copy();
  expect(second.VfioError).not.toBe(first.VfioError);
  for (const { DmaBuffer, user, VfioError } of [first, second, first]) {
    const error = errorOf(() => user.dma.map(DmaBuffer.alloc(4096), { iova: MSI }));
    expect(error).toBeInstanceOf(VfioError);
    expect(error.reason).toMatch(/reserved range/);
    await expect(user.dma.mapAsync(DmaBuffer.alloc(4096), { iova: MSI })).rejects.toBeInstanceOf(VfioError);
    expect(() => user.device.irq('msi').disable()).not.toThrow();
  }
});

test('what was started by one copy ends with that one, whichever came meanwhile', async () => {
  const first = await copy();
  const pending = first.user.dma.mapAsync(first.DmaBuffer.alloc(1 << 20), { iova: MSI });
  const ended = expect(pending).rejects.toBeInstanceOf(first.VfioError);
  await copy();
  await ended;
});
