// Places the devices of a topology: bus numbers and addresses, BARs, interrupt lines, requester ids, groups.
// On a real machine firmware and the kernel's enumeration do this before drivers are bound.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "topology.h"

namespace vfio::soft::topology {

// Fills the second half of every DeviceSpec. Returns the order in which a kernel finds the functions, as
// indexes into `devices`. Throws std::invalid_argument if a device can't be placed.
[[nodiscard]] std::vector<size_t> place(Topology& topology);

// A range of bus addresses that a function on the machine already uses.
struct Taken {
  devices::BarKind kind;
  uint64_t address;
  uint64_t size;
};

// Places one more device among those that are there. Its address is known; this chooses its BARs and its
// line.
void place(DeviceSpec& device, const std::vector<Taken>& taken);
// Checks that a device can be behind a bridge of that kind (null: on a root bus). Throws as above if not.
void checkPlace(const DeviceSpec& device, std::optional<PortKind> bridge);

}  // namespace vfio::soft::topology
