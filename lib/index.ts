/// <reference lib="es2020" preserve="true" />
/// <reference lib="esnext.disposable" preserve="true" />
/** The exports of the package vfio: PCI devices from TypeScript, through Linux VFIO and iommufd or on a software host. */

export type {
  ContainerInfo,
  HwInfo,
  HwInfoCommon,
  IoPageFault,
  IovaRange,
  ViommuEvent,
} from './addon/records.ts';
export type { U64Like } from './base/check.ts';
export { VfioError, type VfioErrorDetails } from './base/errors.ts';
export type { AttachedBy, AttachOptions, UserDevice } from './host/attach.ts';
export type { Diagnosis } from './host/diagnose.ts';
export {
  type DmaFault,
  Host,
  type HostOptions,
  type OpenHandle,
  type SoftwareControls,
  type SoftwareHost,
  type SoftwareOptions,
} from './host/host.ts';
export type {
  CallFault,
  FaultInjection,
  FaultOccurrence,
  FaultStrike,
  InjectedFault,
  InterruptFault,
  OpenFault,
  PageRequestFault,
  TransferFault,
} from './host/software/faults.ts';
export type { HotPlug, PlugOptions } from './host/software/hot-plug.ts';
export type { DmaFinding, DmaRange, DmaReport, DmaStacks } from './host/software/sanitizer/report.ts';
export type { Settling } from './host/software/settle.ts';
export type {
  DeviceModel,
  IommuModel,
  PassiveBar,
  SriovModel,
  SystemModel,
  Topology,
} from './host/software/topology.ts';
export type { TraceEntry, VirtualTime } from './host/software/virtual-time.ts';
export { FaultQueue, type FaultResponse } from './iommufd/fault-queue.ts';
export {
  type ArmSmmuv3Invalidation,
  Hwpt,
  type HwptData,
  type Invalidations,
  type VtdS1Invalidation,
} from './iommufd/hwpt.ts';
export { Ioas } from './iommufd/ioas.ts';
export { Iommufd, type IommufdFeature } from './iommufd/iommufd.ts';
export { HwQueue, Vdevice, VeventQueue, Viommu, type ViommuType } from './iommufd/viommu.ts';
export { DmaBuffer, type MemorySlice } from './memory/dma-buffer.ts';
export type { DmaSpace, MapOptions, Mapping } from './memory/dma-space.ts';
export type { RegisterAccessor, RegisterAccessors } from './registers/accessor.ts';
export {
  RegisterBank,
  type RegisterBankHandlers,
  type RegisterFile,
  type RegisterHandlers,
} from './registers/register-bank.ts';
export {
  type FieldDescription,
  type FieldValues,
  type RegisterAccess,
  type RegisterDescription,
  type RegisterLayout,
  RegisterMap,
  type RegisterRow,
  type RegisterValue,
  type RegisterWidth,
  registers,
} from './registers/register-map.ts';
export type { Registers } from './registers/registers.ts';
export { view } from './registers/view.ts';
export type { BarArea, DeviceIdentity, SimulatedBar, VirtualFunctions } from './simulation/description.ts';
export { DmaError } from './simulation/dma-error.ts';
export type { DoorbellWrite } from './simulation/doorbell.ts';
export { type DeviceError, type ResetKind, SimulatedDevice } from './simulation/simulated-device.ts';
export { SvaBond, type SvaOps } from './sva/bond.ts';
export type { SvaNode } from './sva/nodes.ts';
export { Sva, type SvaBindOptions, type SvaFeatures } from './sva/sva.ts';
export type { SvaFault, SvaWay } from './sva/way.ts';
export type { HostCheck, HostReport } from './system/doctor/report.ts';
export type { BindOptions } from './system/driver-change.ts';
export type { Cause, Finding } from './system/explain/causes.ts';
export type { Blocker, DmaOwnership } from './system/facts/group-facts.ts';
export type { Grant } from './system/grant.ts';
export { IommuGroup } from './system/groups.ts';
export { PciDevice } from './system/pci.ts';
export { Container, type ContainerExtension, type ContainerIommu } from './type1/container.ts';
export { type PciCapability, PciConfig, type PciExtendedCapability } from './vfio/config-space.ts';
export {
  type DeviceInfo,
  type HotResetFunction,
  type IrqName,
  type RegionName,
  VfioDevice,
} from './vfio/device.ts';
export { Group } from './vfio/group.ts';
export { Interrupt, type Interrupts, Irq } from './vfio/irq.ts';
export { MappedRegion, Region } from './vfio/region.ts';
