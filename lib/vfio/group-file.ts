/** The part of a group that the devices opened through it use. Group is the only class that extends it. */
import type { NativeFile } from '../addon/native.ts';
import { type OURS, ours } from '../base/private.ts';
import { Handle, keepFile } from '../handles/handle.ts';

/** The open file of a group. */
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
