/** The file of a group, as far as the devices that are opened through it need to know it. Group is the only class of it. */
import type { NativeGroup } from '../addon/files.ts';
import { type OURS, ours } from '../base/private.ts';
import { FileHandle, type Handle } from '../handles/handle.ts';

/** An open group. */
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
