/// <reference lib="es2020" preserve="true" />
/// <reference lib="esnext.disposable" preserve="true" />
/** vfio: PCI devices from TypeScript, through Linux VFIO and iommufd or on a software host. */
export type { AttachedBy, AttachOptions, UserDevice } from './attach.ts';
export type { Cause, Finding } from './causes.ts';
export type { U64Like } from './check.ts';
export { type PciCapability, PciConfig, type PciExtendedCapability } from './config-space.ts';
export {
  Container,
  type ContainerExtension,
  type ContainerInfo,
  type ContainerIommu,
} from './container.ts';
export {
  type DeviceInfo,
  type HotResetFunction,
  type IrqName,
  type RegionName,
  VfioDevice,
} from './device.ts';
export { DmaBuffer, type MemorySlice } from './dma-buffer.ts';
export type { DmaSpace, IovaRange, MapOptions, Mapping } from './dma-space.ts';
export { VfioError, type VfioErrorDetails } from './errors.ts';
export { FaultQueue, type FaultResponse, type IoPageFault } from './fault-queue.ts';
export type { Grant } from './grant.ts';
export { Group } from './group.ts';
export { type Blocker, type DmaOwnership, IommuGroup } from './groups.ts';
export {
  type Diagnosis,
  type DmaFault,
  Host,
  type HostOptions,
  type SoftwareControls,
  type SoftwareHost,
  type SoftwareOptions,
} from './host.ts';
export type { HotPlug, PlugOptions } from './hot-plug.ts';
export {
  type ArmSmmuv3Invalidation,
  Hwpt,
  type HwptData,
  type Invalidations,
  type VtdS1Invalidation,
} from './hwpt.ts';
export { Ioas } from './ioas.ts';
export { type HwInfo, type HwInfoCommon, Iommufd, type IommufdFeature } from './iommufd.ts';
export { Interrupt, type Interrupts, Irq } from './irq.ts';
export { type BindOptions, PciDevice } from './pci.ts';
export { MappedRegion, Region } from './region.ts';
export type { HostCheck, HostReport } from './report.ts';
export type { DeviceModel, IommuModel, PassiveBar, SriovModel, SystemModel, Topology } from './topology.ts';
export {
  HwQueue,
  Vdevice,
  VeventQueue,
  Viommu,
  type ViommuEvent,
  type ViommuType,
} from './viommu.ts';
