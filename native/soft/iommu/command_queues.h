// The sizes of the command queues that a guest fills by itself (Unit::commandQueues).
#pragma once

namespace vfio::soft::iommu {

// How many queues and stream ids a program can have for one virtual IOMMU.
inline constexpr unsigned kCommandQueuesLog2 = 1;
inline constexpr unsigned kStreamIdsLog2 = 4;
// The largest queue: 2^19 commands of 16 bytes.
inline constexpr unsigned kMostCommandsLog2 = 19;
inline constexpr unsigned kCommandSizeLog2 = 4;

}  // namespace vfio::soft::iommu
