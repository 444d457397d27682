// The IOVAs that a container can map: those that all of its page tables reach and none of its groups
// reserves. In ascending order.
//
// Life: a Type1 (type1.h) owns its ranges, and replaces them when a group is attached or detached.
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

  // Keeps only the IOVAs inside `aperture`, the range that one more page table reaches. An empty list becomes
  // that range.
  void narrow(const iommu::Range& aperture);
  // Removes the IOVAs that the group reserves: 0, or -EINVAL if none are left.
  [[nodiscard]] int exclude(const iommu::Group& group);

 private:
  std::vector<iommu::Range> list_;
};

// Calls `visit` for each range that a group may not map, until `visit` returns true. Returns whether it did.
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
