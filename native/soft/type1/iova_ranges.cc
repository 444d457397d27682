#include "iova_ranges.h"

#include <algorithm>
#include <cerrno>

namespace vfio::soft::type1 {

bool IovaRanges::holds(uint64_t start, uint64_t last) const {
  return std::ranges::any_of(
      list_, [=](const iommu::Range& range) { return start >= range.start && last <= range.last; });
}

void IovaRanges::narrow(const iommu::Range& aperture) {
  if (list_.empty()) {
    list_.push_back(aperture);
    return;
  }
  std::vector<iommu::Range> narrowed;
  for (const iommu::Range& range : list_) {
    const iommu::Range both = {std::max(range.start, aperture.start), std::min(range.last, aperture.last)};
    if (both.start <= both.last) narrowed.push_back(both);
  }
  list_ = std::move(narrowed);
}

int IovaRanges::exclude(const iommu::Group& group) {
  (void)anyReserved(group, [this](const iommu::Range& reserved) {
    std::vector<iommu::Range> left;
    for (const iommu::Range& range : list_) {
      if (reserved.start > range.last || reserved.last < range.start) {
        left.push_back(range);
        continue;
      }
      if (reserved.start > range.start) left.push_back({range.start, reserved.start - 1});
      if (reserved.last < range.last) left.push_back({reserved.last + 1, range.last});
    }
    list_ = std::move(left);
    return false;
  });
  return list_.empty() ? -EINVAL : 0;
}

}  // namespace vfio::soft::type1
