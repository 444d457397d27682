/** Devices without an IOMMU: they are used only if the program asks for it, and no memory can be mapped for them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DmaBuffer, Host } from '../lib/index.ts';
import { backend, EDU, guestIommu, needs, openHost } from './support/backends.ts';
import { Edu, Reg } from './support/edu.ts';

const MODE = '/sys/module/vfio/parameters/enable_unsafe_noiommu_mode';
const here = backend === 'software' || guestIommu === 'none';
const code = (expected: string, reason: RegExp) =>
  expect.objectContaining({ code: expected, reason: expect.stringMatching(reason) });

/** A machine without an IOMMU, whose kernel allows VFIO to use its devices or not. */
function machine(allowed: boolean): Host {
  if (backend === 'kernel') {
    writeFileSync(MODE, allowed ? 'Y' : 'N');
    expect(readFileSync(MODE, 'utf8')).toBe(allowed ? 'Y\n' : 'N\n');
    return openHost();
  }
  const commandLine = allowed ? 'vfio.enable_unsafe_noiommu_mode=1' : '';
  const topology = { system: { commandLine }, iommus: [], devices: [{ model: 'edu', bdf: EDU } as const] };
  return Host.open({ backend, software: { topology } });
}

/** Whether the program has the capability for it, which root lacks in most containers. */
function mayDoRawIo(): boolean {
  const effective = /^CapEff:\s*(\w+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> 17n) & 1n) === 1n;
}

describe('without an IOMMU', () => {
  needs({ guest: ['none'], because: 'every device of the others has an IOMMU' });
  let host: Host;
  let group: number;
  afterAll(async () => {
    if (!here || backend === 'software') return;
    using last = machine(false);
    await last.device(EDU).unbind();
  });
  beforeEach(async (ctx) => {
    if (!mayDoRawIo()) ctx.skip('needs CAP_SYS_RAWIO, which this process has not');
    host = machine(true);
    await host.device(EDU).bind();
    group = host.device(EDU).group ?? -1;
  });
  afterEach(() => host?.[Symbol.dispose]());

  test('VFIO takes no such device unless its parameter allows it, and removes the group when it is unbound', async () => {
    await host.device(EDU).unbind();
    expect(host.device(EDU).group).toBeNull();
    expect(host.groups().map(({ id }) => id)).not.toContain(group);
    using strict = machine(false);
    await expect(strict.device(EDU).bind()).rejects.toThrow(code('EINVAL', /is in no IOMMU group/));
    expect(strict.device(EDU).group).toBeNull();
  });

  test('VFIO makes a group for it, and marks it as such', () => {
    expect(host.group(group).noIommu).toBe(true);
    expect(host.group(group).devices.map(({ bdf }) => bdf)).toEqual([EDU]);
  });

  test('A3: attach needs unsafeNoIommu, and the error says so', () => {
    const refused = code('ENODEV', /has no IOMMU/);
    const hint = expect.objectContaining({ hint: expect.stringContaining('unsafeNoIommu') });
    expect(() => host.attach(EDU)).toThrow(refused);
    expect(() => host.attach(EDU)).toThrow(hint);
    expect(() => host.openGroup(group)).toThrow(code('ENOENT', /has no IOMMU: its devices reach all memory/));
    expect(() => host.openGroup(group)).toThrow(hint);
  });

  test('A3: with it the device works, except for DMA that an IOMMU would translate', async () => {
    const user = host.attach(EDU, { unsafeNoIommu: true });
    expect([user.via, user.device.bdf]).toEqual(['noiommu', EDU]);
    const edu = new Edu(user.device);
    edu.registers.write32(Reg.liveness, 0x1234);
    expect(edu.registers.read32(Reg.liveness)).toBe(0xffffedcb);
    const [interrupt] = user.device.irq('msi').enable(1);
    user.device.irq('msi').trigger(0);
    expect(await interrupt?.wait({ timeout: 5000 })).toBe(1n);
    using memory = DmaBuffer.alloc(4096);
    expect(() => user.dma.map(memory)).toThrow(code('ENOTTY', /nothing can be mapped/));
    expect(() => user.dma.map(memory, { iova: 0x1000 })).toThrow(code('ENOTTY', /nothing can be mapped/));
    await expect(user.dma.mapAsync(memory)).rejects.toThrow(code('ENOTTY', /nothing can be mapped/));
    expect(user.dma.mappings()).toEqual([]);
    user[Symbol.dispose]();
    using again = host.attach(EDU, { via: 'noiommu', unsafeNoIommu: true });
    expect(again.via).toBe('noiommu');
  });

  test('such a group is marked, and takes no other kind of IOMMU', () => {
    const container = host.openContainer();
    const opened = host.openGroup(group, { unsafeNoIommu: true });
    expect([opened.noIommu, opened.viable]).toEqual([true, true]);
    opened.setContainer(container);
    expect([container.supports('noiommu'), container.supports('type1v2')]).toEqual([true, false]);
    expect(() => container.setIommu('type1v2')).toThrow(code('ENODEV', /no IOMMU of this type/));
    container.setIommu('noiommu');
    expect(() => container.info()).toThrow(code('ENOTTY', /physical addresses/));
    opened.openDevice(EDU)[Symbol.dispose]();
    opened.unsetContainer();
    expect(container.iommuType).toBeNull();
  });
});
