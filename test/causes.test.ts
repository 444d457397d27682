/**
 * The words of failed calls: a cause is asserted only if it was checked, and is called possible otherwise. Here each cause is
 * provoked, and the words must name it.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { Container, DmaBuffer, Host, type Topology, type VfioError } from '../lib/index.ts';
import { EDU, needs, openHost } from './support/backends.ts';
import { run } from './support/program.ts';

const TOKEN = '00112233-4455-6677-8899-aabbccddeeff';

/** The error of a call, which must fail. */
function failure(call: () => unknown): VfioError {
  try {
    call();
  } catch (error) {
    return error as VfioError;
  }
  throw new Error('it did not fail');
}

const software = (topology: Topology, kernel = '7.3') =>
  Host.open({ backend: 'software', software: { kernel, topology } });

describe('EINVAL, a token that the device does not take:', () => {
  const PF = '0000:01:00.0';
  const VF = '0000:01:00.1';
  const topology: Topology = {
    devices: [
      { model: 'root-port', bdf: '0000:00:01.0' },
      {
        model: 'passive',
        bdf: PF,
        behind: '0000:00:01.0',
        vendor: 0x1b36,
        device: 0x10,
        classCode: 0x010802,
        driver: 'nvme',
        functionReset: true,
        bars: [{ kind: 'memory64', size: 16384 }],
        sriov: { totalVfs: 2, bars: [{ kind: 'memory64', size: 16384 }] },
      },
    ],
  };
  const ways = ['cdev', 'group-iommufd', 'group-type1', undefined] as const;

  test.for(ways)(
    'a virtual function whose physical one is not bound to vfio-pci, by %s',
    async (via, ctx) => {
      needs(ctx, { backends: ['software'], because: "QEMU's nvme driver makes no virtual functions" });
      using host = software(topology);
      await host.device(PF).setNumVfs(1);
      await host.device(VF).bind();
      const error = failure(() => host.attach(VF, { vfToken: TOKEN, ...(via && { via }) }));
      expect(error).toMatchObject({ code: 'EINVAL', hint: 'Leave the token out' });
      expect(error.reason).toBe(
        `${VF} takes no token: its physical function ${PF} is not bound to vfio-pci (its driver: nvme)`,
      );
      host.attach(VF, via && { via })[Symbol.dispose]();
    },
  );

  test.for(['group-iommufd', 'group-type1'] as const)(
    'a device without virtual functions, by %s',
    async (via, ctx) => {
      needs(ctx, { guest: ['intel', 'amd', 'virtio'], because: 'the other has no IOMMU, so no group' });
      using host = openHost();
      await host.device(EDU).bind();
      const error = failure(() => host.attach(EDU, { vfToken: TOKEN, via }));
      expect(error.code).toBe('EINVAL');
      expect(error.reason).toBe(`${EDU} takes no token: it has no virtual functions and is none`);
    },
  );
});

test('ENOSPC, more mappings than type1 takes in a container', async (ctx) => {
  needs(ctx, { guest: ['intel', 'amd', 'virtio'], because: 'without an IOMMU nothing is mapped' });
  using host = openHost();
  await host.device(EDU).bind();
  using user = host.attach(EDU, { via: 'group-type1' });
  using memory = DmaBuffer.alloc(4096);
  const { dma } = user;
  if (!(dma instanceof Container)) throw new Error('it is no container');
  const most = dma.info().dmaAvailable ?? 0;
  for (let each = 0; each < most; each++) dma.map(memory, { iova: 0x1_0000_0000 + each * 4096 });
  for (const chosen of [{ iova: 0x1000 }, undefined]) {
    const error = failure(() => dma.map(memory, chosen));
    expect(error.code).toBe('ENOSPC');
    expect(error.reason).toMatch(new RegExp(`has ${most} mappings, as many as type1 takes .dma_entry_limit`));
    expect(error.hint).toMatch(/dma_entry_limit/);
  }
  dma.unmapAll();
});

describe('ENODEV, a device without an IOMMU, though unsafeNoIommu is given:', () => {
  const bare = (commandLine: string): Topology => ({
    iommus: [],
    devices: [{ model: 'edu', bdf: EDU }],
    system: { commandLine },
  });

  test('the parameter of the module is off', (ctx) => {
    needs(ctx, { backends: ['software'], because: 'the guest turns the parameter on for all tests' });
    using host = software(bare(''));
    const error = failure(() => host.attach(EDU, { unsafeNoIommu: true }));
    expect(error.code).toBe('ENODEV');
    expect(error.reason).toMatch(/enable_unsafe_noiommu_mode is off$/);
    expect(error.hint).toMatch(/echo 1 > \/sys\/module\/vfio\/parameters\/enable_unsafe_noiommu_mode/);
    expect(failure(() => host.attach(EDU)).reason).not.toMatch(/noiommu/);
  });

  test('it is on, but the device is not bound', async (ctx) => {
    needs(ctx, { backends: ['software'], because: 'the guest turns the parameter on for all tests' });
    using host = software(bare('vfio.enable_unsafe_noiommu_mode=1'));
    const error = failure(() => host.attach(EDU, { unsafeNoIommu: true }));
    expect(error.reason).toMatch(/Possible: 0000:00:10.0 is not bound to vfio-pci/);
    await host.device(EDU).bind();
    host.attach(EDU, { unsafeNoIommu: true })[Symbol.dispose]();
  });
});

test('EMFILE, more eventfds than the process may have files open; none is left', async (ctx) => {
  needs(ctx, { backends: ['software'], because: "QEMU's devices have fewer vectors" });
  const ended = await run(
    `
    import { readdirSync } from 'node:fs';
    const device = { model: 'passive', bdf: '0000:00:05.0', vendor: 1, device: 2, classCode: 0xff0000, driver: 'vfio-pci',
      bars: [{ kind: 'memory64', size: 65536 }], msix: 2048 };
    const host = Host.open({ backend: 'software', software: { topology: { devices: [device] } } });
    const user = host.attach('0000:00:05.0');
    const irq = user.device.irq('msix');
    const before = readdirSync('/proc/self/fd').length;
    try {
      irq.enable();
    } catch ({ code, reason, hint }) {
      console.log([code, reason, hint, readdirSync('/proc/self/fd').length - before].join('|'));
    }
    user[Symbol.dispose]();
    host[Symbol.dispose]();`,
    {},
    60,
    ['prlimit', '--nofile=256:256'],
  );
  expect(ended.stderr).toBe('');
  expect(ended.stdout).toMatch(/^EMFILE\|.*\(RLIMIT_NOFILE\)\|.*ulimit -n NUMBER.*\|0\n$/);
});

test.each(['2M', '1G'] as const)('ENOMEM, more huge pages of %s than the pool has', (hugePages) => {
  const kib = { '2M': 2048, '1G': 1048576 }[hugePages];
  const folder = `/sys/kernel/mm/hugepages/hugepages-${kib}kB`;
  let free: number | undefined;
  try {
    free = Number(readFileSync(`${folder}/free_hugepages`, 'utf8'));
  } catch {
    // This kernel has no such pages.
  }
  const error = failure(() => DmaBuffer.alloc(((free ?? 0) + 1) * kib * 1024, { hugePages }));
  expect(error.reason).toContain(folder);
  if (free === undefined)
    return expect(error.reason).toMatch(/^possible: the kernel has no huge pages of this size/);
  expect(error.reason).toMatch(
    /^\d+ huge pages are needed, and the pool .* has \d+, of which \d+ can be had$/,
  );
  expect(error.hint).toMatch(new RegExp(`^As root: echo \\d+ > ${folder}/nr_hugepages`));
});

test("EINVAL, the interrupt 'err' of a device that is not PCI Express", async (ctx) => {
  needs(ctx, { guest: ['intel', 'amd', 'virtio'], because: 'the other has no IOMMU' });
  using host = openHost();
  await host.device(EDU).bind();
  using user = host.attach(EDU);
  for (const which of ['err', 3] as const) {
    const error = failure(() => user.device.irq(which));
    expect([error.code, error.reason]).toEqual([
      'EINVAL',
      "vfio-pci has the interrupt 'err' for PCI Express devices only",
    ]);
  }
});
