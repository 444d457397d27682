/**
 * Finds out why a device can't be used, from the state of its host alone: drivers, groups, nodes, open files. `vfio explain`
 * prints all findings; a failed call takes its reason and hint from the finding that fits.
 */

import type { NativeHost } from '../../addon/native.ts';
import type { VfioError } from '../../base/errors.ts';
import { LITTLE_MEMORY, lockLimit, MEBIBYTE, raiseLockLimit } from '../../base/memlock.ts';
import type { GroupFacts } from '../facts/group-facts.ts';
import { describeOwnership, groupNode, mayOpen, openersOf } from '../facts/nodes.ts';
import { type PciFacts, usesVfioDriver } from '../facts/pci-facts.ts';
import { usesOf } from '../facts/uses.ts';

/** The kind of a finding. */
export type Cause =
  | 'iommu-off'
  | 'no-driver'
  | 'driver'
  | 'group'
  | 'no-iommufd'
  | 'no-device-node'
  | 'permission'
  | 'open-elsewhere'
  | 'interrupts'
  | 'memlock'
  | 'no-reset'
  | 'attempt';

/** A reason why a device can't be used, or a warning. */
export interface Finding {
  cause: Cause;
  /** Whether the device can't be used before this is repaired. If not, it is a warning. */
  blocks: boolean;
  /** The reason in words: which device, which group, which driver, which process. */
  reason: string;
  /** Shell commands that repair it, in this order. Empty: no command can. */
  commands: string[];
}

/** A command that needs root, with sudo if this process does not run as root. */
export function asRoot(host: NativeHost, command: string): string {
  return host.user() === 0 ? command : `sudo ${command}`;
}

/** All reasons why `device` can't be used. The one that must be repaired first comes first. */
export function causesOf(host: NativeHost, device: PciFacts, group: GroupFacts | undefined): Finding[] {
  if (group === undefined) return [iommuOff(host, device)];
  return [
    ...noIommuCauses(device, group),
    ...(device.mediated ? [] : driverCauses(host, device, group)),
    ...nodeCauses(host, device, group),
    ...openCauses(
      host,
      device.vfioNode,
      (who, node) => `${who} has ${device.bdf} open by its own node ${node}`,
    ),
    ...groupOpenCauses(host, group),
    ...neighbourOpenCauses(host, device, group),
    ...(device.mediated ? [] : interruptCauses(host, device.bdf)),
    ...resetCauses(host, device, group),
  ];
}

const words = (host: NativeHost) => (host.readText('/proc/cmdline') ?? '').trim().split(/\s+/);

/**
 * A command line that removes words from the kernel's command line and adds others, for GRUB as Debian configures it. If
 * there is nothing to change, or another boot loader, it stops before the reboot.
 */
function bootCommands(host: NativeHost, remove: readonly string[], add: readonly string[]): string[] {
  const grub = '/etc/default/grub';
  const steps = [
    ...remove.flatMap((word) => [
      `grep -q '^GRUB_CMDLINE.*\\b${word}\\b' ${grub}`,
      `sed -i '/^GRUB_CMDLINE/s/ *\\b${word}\\b//' ${grub}`,
    ]),
    ...add.flatMap((word) => [
      `sed -i 's/^GRUB_CMDLINE_LINUX=["\\x27]/&${word} /' ${grub}`,
      `grep -q '^GRUB_CMDLINE_LINUX=.${word}' ${grub}`,
    ]),
    'update-grub',
    'reboot',
  ];
  return [steps.map((step) => asRoot(host, step)).join(' && ')];
}

function iommuOff(host: NativeHost, device: PciFacts): Finding {
  const { bdf } = device;
  const off = words(host).filter((word) => /^(intel_iommu|amd_iommu|iommu)=off$/.test(word));
  const on = words(host).includes('intel_iommu=on');
  const cpus = host.readText('/proc/cpuinfo') ?? 'GenuineIntel'; // a software host has no such file, and VT-d by default
  const intel = cpus.includes('GenuineIntel');
  const groups = host.list('/sys/kernel/iommu_groups')?.length ?? 0;
  const why =
    off.length > 0
      ? `the kernel was started with ${off.join(' ')}`
      : groups > 0
        ? 'the IOMMU of this machine does not serve it'
        : intel && !on
          ? 'the kernel was not started with intel_iommu=on, or the IOMMU ("VT-d") is off in the firmware'
          : 'the IOMMU is off in the firmware ("IOMMU", "VT-d", "AMD-Vi" or "SMMU"), or this machine has none';
  return {
    cause: 'iommu-off',
    blocks: true,
    reason: `${bdf} is in no IOMMU group: ${why}`,
    // No command can change the settings of the firmware.
    commands:
      off.length > 0 || (groups === 0 && intel && !on)
        ? bootCommands(host, off, intel && !on ? ['intel_iommu=on'] : [])
        : [],
  };
}

/** A warning for a device without an IOMMU, which VFIO accepts because of its parameter enable_unsafe_noiommu_mode. */
function noIommuCauses({ bdf }: PciFacts, group: GroupFacts): Finding[] {
  if (!group.noIommu) return [];
  return [
    {
      cause: 'iommu-off',
      blocks: false,
      reason: `${bdf} has no IOMMU and reaches all memory: VFIO has made group ${group.id} for it, which programs with CAP_SYS_RAWIO can use`,
      commands: [],
    },
  ];
}

function driverCauses(host: NativeHost, device: PciFacts, group: GroupFacts): Finding[] {
  const { bdf, driver } = device;
  if (device.classCode >> 16 === 0x06 && !usesVfioDriver(device))
    return [
      {
        cause: 'driver',
        blocks: true,
        reason: `${bdf} is a bridge, which stays with the kernel`,
        commands: [],
      },
    ];
  const findings: Finding[] = [];
  const blockers = group.viability().blockers.filter((each) => each.bdf !== bdf);
  const wanted = !usesVfioDriver(device) || blockers.length > 0;
  if (wanted && host.list('/sys/bus/pci/drivers/vfio-pci') === null)
    findings.push({
      cause: 'no-driver',
      blocks: true,
      reason: 'this kernel has no driver vfio-pci loaded',
      commands: [asRoot(host, 'modprobe vfio-pci')],
    });
  const bind = asRoot(host, blockers.length > 0 ? `vfio bind --group ${bdf}` : `vfio bind ${bdf}`);
  if (!usesVfioDriver(device)) {
    const uses = driver === null ? [] : usesOf(host, bdf);
    findings.push({
      cause: 'driver',
      blocks: true,
      reason: `${bdf} ${driver === null ? 'has no driver' : `is held by driver ${driver}`}${listed(uses)}`,
      commands: [...uses.map((each) => asRoot(host, each.command)), bind],
    });
  }
  if (blockers.length > 0) {
    const uses = blockers.map((each) => usesOf(host, each.bdf));
    const held = blockers.map(
      (each, index) => `${each.bdf} is held by driver ${each.driver}${listed(uses[index] ?? [])}`,
    );
    // A bridge of the chipset stays bound to its driver: no command of this package unbinds it.
    const free = new Set(group.endpoints.map((each) => each.bdf));
    const stays = blockers.filter((each) => !free.has(each.bdf)).map((each) => each.bdf);
    findings.push({
      cause: 'group',
      blocks: true,
      reason: `group ${group.id} is not viable: ${held.join('; ')}. ${whyTogether(host, device, group)}${stays.length > 0 ? `. ${stays.join(', ')} stays with the kernel` : ''}`,
      commands: stays.length > 0 ? [] : [...uses.flat().map((each) => asRoot(host, each.command)), bind],
    });
  }
  return findings;
}

const listed = (uses: readonly { reason: string }[]) =>
  uses.length === 0 ? '' : ` (${uses.map((each) => each.reason).join(', ')})`;

/** Why these devices are in one group, as far as the tree of buses shows. */
function whyTogether(host: NativeHost, device: PciFacts, group: GroupFacts): string {
  const members = group.devices;
  const bridge = members.find(
    (each) => each.bdf !== device.bdf && pathOf(host, device).includes(`/${each.bdf}/`),
  );
  const which = `All devices of a group need one owner`;
  if (bridge !== undefined)
    return `${which}: these are behind the bridge ${bridge.bdf}, which does not keep them apart (no ACS)`;
  const slot = device.bdf.slice(0, -2);
  if (members.every((each) => each.bdf.startsWith(slot)))
    return `${which}: these are functions of one device, which does not keep them apart (no ACS)`;
  return `${which}: nothing between them and the IOMMU keeps them apart (no ACS)`;
}

/** The path of a device in the tree of buses. */
const pathOf = (host: NativeHost, device: PciFacts) =>
  host.readlink(`/sys/bus/pci/devices/${device.bdf}`) ?? '';

/** The nodes that a program opens to use `device`: by iommufd, or without iommufd by its group and a container. */
export function nodesFor(host: NativeHost, device: PciFacts, group: GroupFacts): string[] {
  const node = device.vfioNode;
  return node !== null && host.ownership('/dev/iommu') !== null
    ? ['/dev/iommu', node]
    : ['/dev/vfio/vfio', groupNode(host, group.id)];
}

function nodeCauses(host: NativeHost, device: PciFacts, group: GroupFacts): Finding[] {
  const { bdf } = device;
  const findings: Finding[] = [];
  // Without iommufd, devices have no nodes of their own, and are opened by their groups and a container.
  const iommufd = host.ownership('/dev/iommu') !== null;
  if (!iommufd)
    findings.push({
      cause: 'no-iommufd',
      blocks: host.ownership('/dev/vfio/vfio') === null,
      reason:
        'there is no /dev/iommu: iommufd is not loaded, or the kernel is older than 6.2 or was built without CONFIG_IOMMUFD',
      commands: [asRoot(host, 'modprobe iommufd')],
    });
  if (!usesVfioDriver(device)) return findings;
  if (iommufd && device.vfioNode === null && !group.noIommu)
    findings.push({
      cause: 'no-device-node',
      blocks: host.ownership(`/dev/vfio/${group.id}`) === null,
      reason: `${bdf} has no character device in /dev/vfio/devices: the kernel is older than 6.6 or was built without CONFIG_VFIO_DEVICE_CDEV`,
      commands: [],
    });
  const closed = nodesFor(host, device, group).filter((path) => !mayOpen(host, path));
  if (closed.length > 0)
    findings.push({
      cause: 'permission',
      blocks: true,
      reason: closed.map((path) => `${path} ${describeOwnership(host, path)}`).join('; '),
      commands: [asRoot(host, `vfio grant ${bdf} --user ${host.user()}`)],
    });
  // A user who may open only some devices of a group can use none of them (requirement E1).
  const others = group.devices
    .flatMap(({ vfioNode }) => vfioNode ?? [])
    .filter((path) => !mayOpen(host, path));
  if (closed.length === 0 && others.length > 0)
    findings.push({
      cause: 'permission',
      blocks: false,
      reason: `permissions differ within group ${group.id}: ${others.map((path) => `${path} ${describeOwnership(host, path)}`).join('; ')}`,
      commands: [asRoot(host, `vfio grant ${bdf} --user ${host.user()}`)],
    });
  return findings;
}

/** A finding if processes have a node open, since others can't use it then. `node` null: there is no node. */
function openCauses(
  host: NativeHost,
  node: string | null,
  reason: (who: string, node: string) => string,
): Finding[] {
  const openers = node === null ? [] : openersOf(host, node);
  if (node === null || openers.length === 0) return [];
  return [
    {
      cause: 'open-elsewhere',
      blocks: true,
      reason: reason(openers.map((each) => each.name).join(' and '), node),
      // This process can close the node itself: no command to kill it is suggested.
      commands: openers
        .filter(({ pid }) => pid !== process.pid)
        .map(({ pid }) => asRoot(host, `kill ${pid}`)),
    },
  ];
}

/** A finding if the group's node is open. */
export function groupOpenCauses(host: NativeHost, group: GroupFacts): Finding[] {
  return openCauses(
    host,
    groupNode(host, group.id),
    (who, node) => `${who} has the node of group ${group.id} open, ${node}: a group can't be opened twice`,
  );
}

/** Findings if other devices of the group are open by their own nodes. */
export function neighbourOpenCauses(host: NativeHost, device: PciFacts, group: GroupFacts): Finding[] {
  return group.devices
    .filter((each) => each.bdf !== device.bdf)
    .flatMap((each) =>
      openCauses(
        host,
        each.vfioNode,
        (who) =>
          `${who} has ${each.bdf} of the same group ${group.id} open: all devices of a group are used through one iommufd`,
      ),
    );
}

/** The kernel's parameters that accept devices that can raise any interrupt: iommufd and type1 each have their own. */
const UNSAFE_INTERRUPTS = {
  iommufd: '/sys/module/iommufd/parameters/allow_unsafe_interrupts',
  type1: '/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts',
};

/** The requests that check the isolation of interrupts, and the parameter that each of them obeys. */
const CHECKS_INTERRUPTS = new Map([
  ['VFIO_DEVICE_BIND_IOMMUFD', UNSAFE_INTERRUPTS.iommufd],
  ['VFIO_GROUP_GET_DEVICE_FD', UNSAFE_INTERRUPTS.iommufd], // of a group that has joined an iommufd
  ['VFIO_SET_IOMMU', UNSAFE_INTERRUPTS.type1],
]);

/** The parameters among these that are set. */
export function unsafeInterrupts(host: NativeHost): string[] {
  return Object.values(UNSAFE_INTERRUPTS).filter((path) => host.readText(path)?.trim() === 'Y');
}

/** The words of the kernel's command line that turn interrupt remapping off. */
export const remappingOff = (host: NativeHost): string[] =>
  words(host).filter((word) => /^(intremap=off|nointremap)$/.test(word));

/** A finding if the kernel's command line turns interrupt remapping off: no more can be known without an attempt. */
function interruptCauses(host: NativeHost, bdf: string): Finding[] {
  const off = remappingOff(host);
  if (off.length === 0 || unsafeInterrupts(host).length > 0) return [];
  return [
    {
      cause: 'interrupts',
      blocks: true,
      reason: `interrupts are not isolated: the kernel was started with ${off.join(' ')}, so ${bdf} could raise any interrupt of the machine`,
      commands: bootCommands(host, off, []),
    },
  ];
}

/**
 * A finding after `request` was refused (EPERM) and no other reason was found: then it is inferred that the interrupts are not
 * isolated. Undefined: the request does not check interrupts.
 */
export function interruptsRefused(
  host: NativeHost,
  bdf: string,
  request: string | undefined,
): Finding | undefined {
  const parameter = CHECKS_INTERRUPTS.get(request ?? '');
  if (parameter === undefined) return undefined;
  const [known] = interruptCauses(host, bdf);
  return (
    known ?? {
      cause: 'interrupts',
      blocks: true,
      reason: `the kernel refuses ${bdf} although nobody else uses its group: its IOMMU does not isolate interrupts (inferred)`,
      commands: [
        `echo Y | ${asRoot(host, `tee ${parameter}`)} # the device could then raise any interrupt of the machine`,
      ],
    }
  );
}

function resetCauses(host: NativeHost, device: PciFacts, group: GroupFacts): Finding[] {
  const { bdf } = device;
  if (device.mediated || device.classCode >> 8 === 0x0604) return [];
  // Devices behind a bridge can be reset together with all others on their bus, by a program that owns all of them.
  const bus = (each: PciFacts) => pathOf(host, each).split('/').slice(0, -1).join('/');
  const onBridge = /[0-9a-f]{2}\.[0-7]$/.test(bus(device));
  const neighbours = group.devices.filter((each) => each.bdf !== bdf && bus(each) === bus(device));
  // The kernel determines a device's reset methods when the device is added. The first device of a bus is alone there then: it
  // keeps the method 'bus', which fails as soon as it has neighbours.
  if (device.resetMethods.some((method) => method !== 'bus' || neighbours.length === 0)) return [];
  const strangers = neighbours.filter((each) => !usesVfioDriver(each));
  if (onBridge && strangers.length === 0) return [];
  return [
    {
      cause: 'no-reset',
      blocks: false,
      reason: onBridge
        ? `${bdf} can't be reset alone, only with the others on its bus, which are not bound to a VFIO driver: ${strangers.map((each) => each.bdf).join(', ')}. The next program finds it as the last one left it`
        : `${bdf} can't be reset: the next program finds it as the last one left it`,
      commands: onBridge ? [asRoot(host, `vfio bind --group ${bdf}`)] : [],
    },
  ];
}

/** A finding if a program can't lock `memory` bytes. Without `memory`: a warning if it can lock only very little. */
export function memlockFinding(memory: number | undefined): Finding | undefined {
  const limit = lockLimit();
  const need = memory ?? LITTLE_MEMORY;
  if (limit === undefined || limit.soft >= need) return undefined;
  return {
    cause: 'memlock',
    blocks: memory !== undefined,
    reason: `this process can map at most ${limit.soft / MEBIBYTE} MiB for devices (RLIMIT_MEMLOCK)${memory === undefined ? '' : `, not ${memory / MEBIBYTE} MiB`}`,
    commands: [raiseLockLimit(need, limit)],
  };
}

/** The finding for an attempt to use a device that failed, although no reason was found before. */
export function failedAttempt(host: NativeHost, device: PciFacts, error: VfioError): Finding {
  const interrupts = error.code === 'EPERM' ? interruptsRefused(host, device.bdf, error.request) : undefined;
  return interrupts ?? { cause: 'attempt', blocks: true, reason: error.message, commands: [] };
}
