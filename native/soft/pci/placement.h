// Where everything of a topology goes: bus numbers and addresses, BARs, interrupt lines, requester ids,
// groups. What firmware and the kernel's enumeration do before drivers come.
#pragma once

#include <cstddef>
#include <vector>

#include "topology.h"

namespace vfio::soft::pci {

// Fills the second half of every DeviceSpec. The result is the order in which a kernel finds the functions,
// as indexes into `devices`. Throws std::invalid_argument where something can't be placed.
[[nodiscard]] std::vector<size_t> place(Topology& topology);

}  // namespace vfio::soft::pci
