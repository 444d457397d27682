/**
 * Code that tsc must refuse: for each kind of open file, a call of every other kind, and a file of another kind as an argument.
 * tsc fails if a line below an @ts-expect-error has no error. No code here runs.
 */
import type {
  NativeContainer,
  NativeDevice,
  NativeEventQueue,
  NativeFaultQueue,
  NativeFile,
  NativeGroup,
  NativeIommufd,
} from '../lib/addon/files.ts';
import type { NativeHost } from '../lib/addon/native.ts';
import { fileOf } from '../lib/handles/handle.ts';
import type { Container, Group, Iommufd, VfioDevice } from '../lib/index.ts';

export function iommufdCalls(file: NativeIommufd) {
  file.ioasAlloc();
  file.containerInfo(); // an iommufd answers them too
  // @ts-expect-error a call of another kind: group
  file.groupStatus();
  // @ts-expect-error a call of another kind: device
  file.deviceInfo();
  // @ts-expect-error a call of another kind: faultQueue
  file.readFaults();
  // @ts-expect-error a call of another kind: eventQueue
  file.readEvents('arm-smmuv3');
}

export function containerCalls(file: NativeContainer) {
  // @ts-expect-error a call of another kind: iommufd
  file.ioasAlloc();
  file.containerInfo();
  // @ts-expect-error a call of another kind: group
  file.groupStatus();
  // @ts-expect-error a call of another kind: device
  file.deviceInfo();
  // @ts-expect-error a call of another kind: faultQueue
  file.readFaults();
  // @ts-expect-error a call of another kind: eventQueue
  file.readEvents('arm-smmuv3');
}

export function groupCalls(file: NativeGroup) {
  // @ts-expect-error a call of another kind: iommufd
  file.ioasAlloc();
  // @ts-expect-error a call of another kind: container
  file.containerInfo();
  file.groupStatus();
  // @ts-expect-error a call of another kind: device
  file.deviceInfo();
  // @ts-expect-error a call of another kind: faultQueue
  file.readFaults();
  // @ts-expect-error a call of another kind: eventQueue
  file.readEvents('arm-smmuv3');
}

export function deviceCalls(file: NativeDevice) {
  // @ts-expect-error a call of another kind: iommufd
  file.ioasAlloc();
  // @ts-expect-error a call of another kind: container
  file.containerInfo();
  // @ts-expect-error a call of another kind: group
  file.groupStatus();
  file.deviceInfo();
  // @ts-expect-error a call of another kind: faultQueue
  file.readFaults();
  // @ts-expect-error a call of another kind: eventQueue
  file.readEvents('arm-smmuv3');
}

export function faultQueueCalls(file: NativeFaultQueue) {
  // @ts-expect-error a call of another kind: iommufd
  file.ioasAlloc();
  // @ts-expect-error a call of another kind: container
  file.containerInfo();
  // @ts-expect-error a call of another kind: group
  file.groupStatus();
  // @ts-expect-error a call of another kind: device
  file.deviceInfo();
  file.readFaults();
  // @ts-expect-error a call of another kind: eventQueue
  file.readEvents('arm-smmuv3');
}

export function eventQueueCalls(file: NativeEventQueue) {
  // @ts-expect-error a call of another kind: iommufd
  file.ioasAlloc();
  // @ts-expect-error a call of another kind: container
  file.containerInfo();
  // @ts-expect-error a call of another kind: group
  file.groupStatus();
  // @ts-expect-error a call of another kind: device
  file.deviceInfo();
  // @ts-expect-error a call of another kind: faultQueue
  file.readFaults();
  file.readEvents('arm-smmuv3');
}

/** A file of an unknown kind has only the calls that all files have. */
export function anyCalls(file: NativeFile) {
  file.release();
  // @ts-expect-error a call of one kind: iommufd
  file.ioasAlloc();
  // @ts-expect-error a call of one kind: container
  file.containerInfo();
  // @ts-expect-error a call of one kind: group
  file.groupStatus();
  // @ts-expect-error a call of one kind: device
  file.deviceInfo();
  // @ts-expect-error a call of one kind: faultQueue
  file.readFaults();
  // @ts-expect-error a call of one kind: eventQueue
  file.readEvents('arm-smmuv3');
}

export function fileArguments(iommufd: NativeIommufd, group: NativeGroup, device: NativeDevice) {
  // @ts-expect-error a group is no iommufd
  device.bindIommufd(group);
  // @ts-expect-error a device is no container
  group.groupSetContainer(device);
  // @ts-expect-error an iommufd is no group
  void device.hotReset([iommufd]);
}

export function opened(host: NativeHost) {
  host.open('/dev/iommu', 'iommufd', true).ioasAlloc();
  host.adopt(3, 'device').deviceInfo();
  // @ts-expect-error it was opened as a container
  host.open('/dev/iommu', 'container', true).ioasAlloc();
  // @ts-expect-error it was adopted as a group
  host.adopt(3, 'group').deviceInfo();
  // @ts-expect-error queues have no path
  host.open('/dev/iommu', 'faultQueue', true);
}

export function handles(iommufd: Iommufd, container: Container, group: Group, device: VfioDevice) {
  fileOf(iommufd).ioasAlloc();
  fileOf(container).containerInfo();
  fileOf(group).groupStatus();
  fileOf(device).deviceInfo();
  // @ts-expect-error the file of an Iommufd is no device
  fileOf(iommufd).deviceInfo();
  // @ts-expect-error the file of a Container is no iommufd
  fileOf(container).ioasAlloc();
  // @ts-expect-error the file of a Group is no device
  fileOf(group).deviceInfo();
  // @ts-expect-error the file of a VfioDevice is no group
  fileOf(device).groupStatus();
}
