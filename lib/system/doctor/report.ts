/** The report of Host.report() and `vfio doctor`: each check looks at one ability of the host and says how to repair it. */
import { readFileSync } from 'node:fs';
import { type KeptMemory, keptMemory } from '../../addon/kept-memory.ts';
import type { NativeHost } from '../../addon/native.ts';
import { LITTLE_MEMORY, lastingLockLimit, lockLimit, MEBIBYTE, raiseLockLimit } from '../../base/memlock.ts';
import { asRoot, remappingOff, unsafeInterrupts } from '../explain/causes.ts';
import { describeOwnership, mayOpen } from '../facts/nodes.ts';

/** The result of one check. */
export interface HostCheck {
  /** What was checked. */
  name: string;
  /** 'warning': programs run, but some of them fail or run less well. */
  level: 'ok' | 'warning' | 'fail';
  /** Whether `level` is not 'fail'. */
  ok: boolean;
  /** What was found. */
  detail: string;
  /** How to repair it, unless `level` is 'ok': commands, or settings. */
  fix?: string;
}

/** What a host can do. Where it can't, the checks say why, and how to repair it. */
export interface HostReport {
  backend: 'kernel' | 'software';
  /** The kernel's release: the running one's, or the one that the software host answers as. */
  kernel: string;
  /** The seed of a software host ({@link SoftwareOptions.seed}), which repeats its run; null: the machine's kernel has none. */
  seed: number | null;
  checks: HostCheck[];
  /** Memory of this process that is kept, because nobody knows whether a device can still reach it. */
  keptMemory: KeptMemory[];
}

const ok = (name: string, detail: string): HostCheck => ({ name, level: 'ok', ok: true, detail });
const warning = (name: string, detail: string, fix: string): HostCheck => ({
  name,
  level: 'warning',
  ok: true,
  detail,
  fix,
});
const fail = (name: string, detail: string, fix: string): HostCheck => ({
  name,
  level: 'fail',
  ok: false,
  detail,
  fix,
});

/** How these checks differ between the machine's kernel and a software host. */
export interface Differences {
  readonly backend: HostReport['backend'];
  readonly seed: HostReport['seed'];
  /** Whether /proc/interrupts shows if interrupts are remapped. */
  readonly showsInterrupts: boolean;
  /** How to reserve huge pages if there are none; null: they are not needed. */
  readonly hugePagesHint: string | null;
}

export function reportOf(host: NativeHost, differences: Differences): HostReport {
  const kernel = host.release();
  return {
    backend: differences.backend,
    kernel,
    seed: differences.seed,
    checks: [
      release(kernel),
      iommu(host),
      interrupts(host, differences),
      iommufd(host),
      deviceNodes(host),
      driver(host),
      ...permissions(host),
      memlock(),
      hugePages(differences),
    ],
    keptMemory: keptMemory(),
  };
}

function release(kernel: string): HostCheck {
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  const at = major * 1000 + minor;
  if (at >= 6006) return ok('kernel', kernel);
  return at >= 4000
    ? warning(
        'kernel',
        `${kernel}: devices have no nodes of their own, groups and containers only`,
        'Linux 6.6 or later',
      )
    : fail('kernel', kernel, 'Linux 6.6 or later');
}

function iommu(host: NativeHost): HostCheck {
  const groups = host.list('/sys/kernel/iommu_groups')?.length ?? 0;
  const units = host.list('/sys/class/iommu') ?? [];
  return groups > 0
    ? ok('IOMMU', `${units.join(', ') || 'on'}: ${groups} groups`)
    : fail(
        'IOMMU',
        'no IOMMU group: it is off or absent',
        'turn it on in the firmware (VT-d, AMD-Vi), and start the kernel with intel_iommu=on (Intel)',
      );
}

function interrupts(host: NativeHost, { showsInterrupts }: Differences): HostCheck {
  const name = 'interrupt remapping';
  const off = remappingOff(host);
  const unsafe = unsafeInterrupts(host);
  if (off.length > 0 && unsafe.length === 0)
    return fail(name, `off: the kernel was started with ${off.join(' ')}`, `start it without`);
  if (unsafe.length > 0)
    return warning(
      name,
      'devices without it are accepted (allow_unsafe_interrupts)',
      `echo N | ${asRoot(host, `tee ${unsafe.join(' ')}`)}`,
    );
  if (!showsInterrupts) return ok(name, 'each simulated IOMMU says whether it remaps');
  const table = host.readText('/proc/interrupts') ?? '';
  // On x86 the name of a remapped interrupt begins with IR-. Other processors isolate interrupts in ways that no file shows.
  if (/\bIR-/.test(table)) return ok(name, 'on (/proc/interrupts has IR-)');
  return process.arch === 'x64'
    ? warning(
        name,
        'no interrupt in /proc/interrupts is remapped: binding a device to an iommufd may be refused (inferred)',
        'turn it on in the firmware (VT-d, x2APIC), or allow_unsafe_interrupts',
      )
    : ok(name, 'unknown: no file of this kernel shows it');
}

function iommufd(host: NativeHost): HostCheck {
  if (host.ownership('/dev/iommu') !== null) return ok('iommufd', '/dev/iommu');
  const fix = asRoot(host, 'modprobe iommufd');
  return host.ownership('/dev/vfio/vfio') !== null
    ? warning('iommufd', 'no /dev/iommu: groups and containers only', fix)
    : fail(
        'iommufd',
        'neither /dev/iommu nor /dev/vfio/vfio',
        `${fix} (Linux 6.2 or later with CONFIG_IOMMUFD)`,
      );
}

/** Whether devices have nodes of their own. Only a device that is bound to a VFIO driver shows it. */
function deviceNodes(host: NativeHost): HostCheck {
  const name = 'device nodes';
  const devices = host.list('/sys/class/vfio-dev') ?? [];
  if (devices.length === 0) return ok(name, 'no device is bound to a VFIO driver now');
  const without = devices.filter((each) => host.readText(`/sys/class/vfio-dev/${each}/dev`) === null);
  return without.length === 0
    ? ok(name, `${devices.length} in /dev/vfio/devices`)
    : warning(
        name,
        `${without.join(', ')}: no character device`,
        'a kernel of 6.6 or later with CONFIG_VFIO_DEVICE_CDEV; without, devices are opened by their groups',
      );
}

function driver(host: NativeHost): HostCheck {
  return host.list('/sys/bus/pci/drivers/vfio-pci') !== null
    ? ok('vfio-pci', 'the driver is there')
    : fail('vfio-pci', 'no driver vfio-pci', asRoot(host, 'modprobe vfio-pci'));
}

function permissions(host: NativeHost): HostCheck[] {
  const nodes = (host.list('/dev/vfio/devices') ?? []).map((name) => `/dev/vfio/devices/${name}`);
  const open = (path: string) => mayOpen(host, path);
  const iommufd = '/dev/iommu';
  const checks: HostCheck[] = [];
  if (host.ownership(iommufd) !== null)
    checks.push(
      open(iommufd)
        ? ok('permission', `this user may open ${iommufd}`)
        : fail(
            'permission',
            `${iommufd} ${describeOwnership(host, iommufd)}`,
            asRoot(host, `chmod 0666 ${iommufd}`),
          ),
    );
  if (nodes.length > 0)
    checks.push(
      nodes.every(open)
        ? ok('permission', `this user may open ${nodes.length} of ${nodes.length} devices`)
        : warning(
            'permission',
            `this user may open ${nodes.filter(open).length} of ${nodes.length} devices`,
            asRoot(host, `vfio grant BDF --user ${host.user()}`),
          ),
    );
  return checks;
}

function memlock(): HostCheck {
  const name = 'locked memory';
  const limit = lockLimit();
  if (limit === undefined) return ok(name, 'no limit');
  const detail = `at most ${limit.soft / MEBIBYTE} MiB can be mapped for devices (RLIMIT_MEMLOCK)`;
  return limit.soft >= LITTLE_MEMORY
    ? ok(name, detail)
    : warning(
        name,
        detail,
        `${raiseLockLimit(LITTLE_MEMORY, limit)}; for good: a line "${lastingLockLimit('USER')}" in /etc/security/limits.conf`,
      );
}

function hugePages({ hugePagesHint }: Differences): HostCheck {
  const name = 'huge pages';
  const info = read('/proc/meminfo');
  const of = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(info)?.[1] ?? 0);
  const total = of('HugePages_Total');
  return total > 0
    ? ok(name, `${of('HugePages_Free')} of ${total} free, ${of('Hugepagesize') / 1024} MiB each`)
    : ok(name, hugePagesHint === null ? 'none reserved' : `none reserved; ${hugePagesHint}`);
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // without /proc nothing is known
  }
}
