/** The file of a group, as far as the devices that are opened through it need to know it. Group is the only class of it. */
import type { NativeFile } from '../addon/native.ts';
import { type OURS, ours } from '../base/private.ts';
import { Handle, keepFile } from '../handles/handle.ts';

/** An open group. */
export abstract class GroupFile extends Handle {
  /** Its number in /sys/kernel/iommu_groups. */
  readonly id: number;

  constructor(
    key: typeof OURS,
    parent: Handle,
    file: NativeFile,
    id: number,
    release: (self: never) => void,
  ) {
    ours(key, 'Group');
    super(key, `Group ${id}`, parent, [file], release);
    this.id = id;
    keepFile(this, `Group ${id}`, file);
  }
}
