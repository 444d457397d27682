// What GET_HW_INFO tells of each kind of unit: its registers, derived from what the unit can do, so that they
// never say anything else.
#pragma once

#include "endpoint.h"

namespace vfio::soft::iommu {

[[nodiscard]] HwInfo describeVtd(const Unit& unit);
[[nodiscard]] HwInfo describeSmmuv3(const Unit& unit);
[[nodiscard]] HwInfo describeAmd(const Unit& unit);
// The virtual command queues beside an SMMUv3.
[[nodiscard]] HwInfo describeTegra241Cmdqv();

// What a program can have of these queues for one virtual IOMMU.
inline constexpr unsigned kCommandQueuesLog2 = 1;
inline constexpr unsigned kStreamIdsLog2 = 4;
// The largest queue of commands of an SMMUv3: 2^19 commands of 16 bytes.
inline constexpr unsigned kMostCommandsLog2 = 19;
inline constexpr unsigned kCommandSizeLog2 = 4;

}  // namespace vfio::soft::iommu
