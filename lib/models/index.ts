/** The exports of vfio/models: devices for the software host, each an example of how to write one. */

export { DmaEngine, type DmaEngineOptions, dmaEngineDescriptor, dmaEngineRegisters } from './dma-engine.ts';
export { EduDevice, type EduOptions, eduRegisters } from './edu.ts';
export { link, Nic, type NicLink, type NicOptions } from './nic.ts';
export { nicDescriptor, nicRegisters } from './nic-registers.ts';
