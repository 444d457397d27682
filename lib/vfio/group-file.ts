/** The part of a group that the devices opened through it use. Group is the only class that extends it. */
import type { NativeGroup } from '../addon/files.ts';
import { type OURS, ours } from '../base/private.ts';
import { FileHandle, type Handle } from '../handles/handle.ts';

/** The open file of a group. */
export abstract class GroupFile extends FileHandle<NativeGroup> {
  /** Its number in /sys/kernel/iommu_groups. */
  readonly id: number;

  constructor(
    key: typeof OURS,
    parent: Handle,
    file: NativeGroup,
    id: number,
    release: (self: never) => void,
  ) {
    ours(key, 'Group');
    super(key, `Group ${id}`, parent, file, [file], release);
    this.id = id;
  }
}
