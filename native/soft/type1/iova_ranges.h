// The IOVAs that a container can map: what all its page tables reach, without what any of its groups has
// reserved. In ascending order.
#pragma once

#include <cstdint>
#include <vector>

#include "../iommu/endpoint.h"

namespace vfio::soft::type1 {

class IovaRanges {
 public:
  [[nodiscard]] const std::vector<iommu::Range>& list() const { return list_; }
  [[nodiscard]] bool empty() const { return list_.empty(); }
  [[nodiscard]] iommu::Range outline() const { return {list_.front().start, list_.back().last}; }
  [[nodiscard]] bool holds(uint64_t start, uint64_t last) const;

  // From the outline of what is reached by some tables to what another one reaches too.
  void narrow(const iommu::Range& aperture);
  // Takes out what the group has reserved: 0, or -EINVAL when nothing is left.
  [[nodiscard]] int exclude(const iommu::Group& group);

 private:
  std::vector<iommu::Range> list_;
};

// Shows what a group may not map, until `visit` returns true. Returns whether it did.
template <class Visit>
bool anyReserved(const iommu::Group& group, const Visit& visit) {
  for (const iommu::Endpoint* member : group.members) {
    const std::vector<iommu::ReservedRegion>* const lists[] = {&member->unit.reserved, &member->reserved};
    for (const auto* regions : lists) {
      for (const iommu::ReservedRegion& region : *regions) {
        if (region.kind == iommu::ReservedKind::directRelaxable) continue;
        if (visit(region.range)) return true;
      }
    }
  }
  return false;
}

}  // namespace vfio::soft::type1
