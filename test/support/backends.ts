/**
 * The backend of this run of the suite, and the way in which a test says what it needs.
 *
 * The same test files run on both backends. VFIO_TEST_BACKEND chooses one: `software` (the default; any machine) or `kernel`
 * (inside the guest of test/kernel: only there may these tests unbind devices from the kernel's drivers).
 */
import { writeFileSync } from 'node:fs';
import { beforeEach, type TestContext } from 'vitest';
import { Host } from '../../lib/index.ts';

export type Backend = 'software' | 'kernel';
export type GuestIommu = 'intel' | 'amd' | 'virtio' | 'none';

function oneOf<T extends string>(name: string, allowed: readonly T[], fallback: T): T {
  const value = process.env[name] || fallback;
  const found = allowed.find((each) => each === value);
  if (found === undefined)
    throw new Error(`Expected ${name} to be ${allowed.join(' or ')} but it is '${value}'`);
  return found;
}

export const backend = oneOf<Backend>('VFIO_TEST_BACKEND', ['software', 'kernel'], 'software');

/** The guest's IOMMU on the kernel backend; null on the software one. */
export const guestIommu =
  backend === 'kernel' && process.env['VFIO_GUEST']
    ? oneOf<GuestIommu>('VFIO_GUEST', ['intel', 'amd', 'virtio', 'none'], 'intel')
    : null;

if (backend === 'kernel' && guestIommu === null) {
  throw new Error('the kernel backend is tested inside the guest only: npm run test:kernel');
}

// QEMU's virtio-iommu does not isolate interrupts. With this parameter a user allows devices in spite of that.
if (guestIommu === 'virtio')
  for (const module of ['iommufd', 'vfio_iommu_type1'])
    writeFileSync(`/sys/module/${module}/parameters/allow_unsafe_interrupts`, 'Y');

/** The test devices: at the same addresses on both backends. */
export const EDU = '0000:00:10.0';
/** Two edu devices behind one bridge, so in one group (in the guest, with the bridge as a third; virtio: in none). */
export const GROUP_OF_TWO = ['0000:03:01.0', '0000:03:02.0'] as const;
/** Those of the two that VFIO can use: QEMU's virtio-iommu does not translate accesses of devices behind that bridge. */
export const USABLE_TWO: readonly string[] = guestIommu === 'virtio' ? [] : GROUP_OF_TWO;
/** The reason why a test of these two devices needs another guest. */
export const NO_TWO = "QEMU's virtio-iommu does not translate what is behind a conventional bridge";
export const NVME = '0000:01:00.0';
/** QEMU's pci-testdev: BAR0 is registers, BAR1 is I/O ports. */
export const PCI_TESTDEV = '0000:00:13.0';
/** QEMU's ivshmem-plain: BAR2 is 1 MiB of plain memory. */
export const IVSHMEM = '0000:00:14.0';

/** QEMU's NVMe controller with up to four virtual functions (SR-IOV), in the guest. */
export const SRIOV_PF = '0000:04:00.0';

/** A host driver that can be bound to an edu, and that claims the DMA of the group for the kernel. */
export const HOST_DRIVER = backend === 'kernel' ? 'uio_pci_generic' : 'nvme';

export interface Need {
  /** The backends that this can run on; all by default. */
  readonly backends?: readonly Backend[];
  /** The guest IOMMUs that this can run on, on the kernel backend; all by default. */
  readonly guest?: readonly GuestIommu[];
  /** The reason, which is printed with the skipped test. */
  readonly because: string;
}

/** Why this run does not meet `need`; null if it does. */
export function unmet(need: Need): string | null {
  if (need.backends && !need.backends.includes(backend)) {
    return `needs the ${need.backends.join(' or ')} backend: ${need.because}`;
  }
  if (guestIommu !== null && need.guest && !need.guest.includes(guestIommu)) {
    return `needs a guest with IOMMU=${need.guest.join(' or ')}: ${need.because}`;
  }
  return null;
}

/**
 * Skips a test that this run can't do, and gives the reason.
 *
 *     test('...', (ctx) => { needs(ctx, { backends: ['kernel'], because: '...' }); ... })     one test
 *     describe('...', () => { needs({ backends: ['kernel'], because: '...' }); ... })         all tests of a describe
 *
 * The second form stops a test before its own `beforeEach` hooks, if called above them, but not before `beforeAll`.
 */
export function needs(need: Need): void;
export function needs(ctx: TestContext, need: Need): void;
export function needs(...args: [Need] | [TestContext, Need]): void {
  const reason = unmet(args.length === 1 ? args[0] : args[1]);
  if (reason === null) return;
  if (args.length === 1) beforeEach((ctx) => ctx.skip(reason));
  else args[0].skip(reason);
}

/** Opens a host of this run's backend. The caller disposes it. */
export function openHost(): Host {
  return Host.open({ backend });
}
