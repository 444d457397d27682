/** The exports of vfio/models: devices for the software host, each an example of how to write one. */
export { EduDevice, type EduOptions, eduRegisters } from './edu.ts';
