/**
 * Words for failed calls: the kernel returns an errno, the user needs which range, which limit, which device, and what
 * to do. The entry to the family of explain-*.ts: one function a family of calls, each asked only after a failure, with
 * what is known of the state. What the state of the host says by itself, before any call, is in causes.ts.
 */

export * from '../../iommufd/iommufd-words.ts';
export * from '../../memory/map-words.ts';
export * from '../../vfio/group-words.ts';
export * from './host-words.ts';

/** Why a call failed, and what to do: a command to run, where there is one. */
export interface Words {
  reason?: string;
  hint?: string;
}
