// Which functions can't be kept apart: how access control services (ACS) of ports and functions decide the
// groups, and whether a request reaches a neighbour before it reaches the IOMMU.
//
// Life: an Isolation describes one function and lives as long as it; a Fabric refers to the Isolations of
// the functions that are on the buses. The rules are those of the kernel's pci_device_group as of Linux
// 6.12.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace vfio::soft::pci {

enum class PortKind : uint8_t { endpoint, rootPort, upstreamPort, downstreamPort, conventionalBridge };

struct Isolation {
  uint8_t bus = 0;
  uint8_t devfn = 0;
  const Isolation* bridge = nullptr;  // null: on a root bus
  PortKind kind = PortKind::endpoint;
  bool express = false;
  bool multifunction = false;  // its device has several functions
  bool acs = false;            // the kernel takes it as isolated: it has the capability, or a quirk says so
  std::optional<int> group;

  // Does its device send its requests to others upstream, and nowhere else? Ports need ACS for that, and so
  // do functions with siblings; a conventional device does only where a quirk of the kernel says so.
  [[nodiscard]] bool isolates() const;
  // Are its requests redirected to the IOMMU at the points where they could reach a neighbour?
  [[nodiscard]] bool redirects() const { return acs; }
};

class Fabric {
 public:
  // Returns the group of those present functions that the newcomer can't be told apart from, if there is
  // one.
  [[nodiscard]] std::optional<int> groupFor(const Isolation& newcomer) const;
  void add(const Isolation& isolation) { slots_[slotOf(isolation)].push_back(&isolation); }
  void remove(const Isolation& isolation) { std::erase(slots_[slotOf(isolation)], &isolation); }

 private:
  static unsigned slotOf(const Isolation& isolation) {
    return unsigned{isolation.bus} << 5 | isolation.devfn >> 3;
  }

  std::map<unsigned, std::vector<const Isolation*>> slots_;
};

}  // namespace vfio::soft::pci
