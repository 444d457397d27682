// Where everything of a topology goes: bus numbers and addresses, BARs, interrupt lines, requester ids,
// groups. What firmware and the kernel's enumeration do before drivers come.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "topology.h"

namespace vfio::soft::topology {

// Fills the second half of every DeviceSpec. The result is the order in which a kernel finds the functions,
// as indexes into `devices`. Throws std::invalid_argument where something can't be placed.
[[nodiscard]] std::vector<size_t> place(Topology& topology);

// What a function that is there already takes of the bus's addresses.
struct Taken {
  devices::BarKind kind;
  uint64_t address;
  uint64_t size;
};

// Places one more device among those that are there: its address is known, its BARs and line follow.
void place(DeviceSpec& device, const std::vector<Taken>& taken);
// Whether it can be behind that bridge (none: on a root bus). Throws as above where it can't.
void checkPlace(const DeviceSpec& device, std::optional<PortKind> bridge);

}  // namespace vfio::soft::topology
