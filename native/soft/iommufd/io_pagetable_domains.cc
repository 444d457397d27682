// How an address space and its page tables are kept the same: filling, pinning, and undoing both.
#include <algorithm>
#include <cerrno>

#include "io_pagetable.h"

namespace vfio::soft::iommufd {

int IoPagetable::fill(iommu::Domain& domain, uint64_t start, uint64_t last, const Area& area) const {
  return domain.map(start, area.user, last - start + 1, area.access, !hugePages_);
}

// Pins one area's memory and puts it into every page table, or changes nothing.
int IoPagetable::fillDomains(uint64_t start, uint64_t last, const Area& area) {
  if (domains_.empty()) return 0;
  const uint64_t length = last - start + 1;
  if (const int error = area.pages->pin(memory_, area.user, length); error != 0) return error;
  for (size_t at = 0; at < domains_.size(); ++at) {
    const int error = fill(*domains_[at], start, last, area);
    if (error == 0) continue;
    while (at-- != 0) domains_[at]->unmap(start, length);
    area.pages->unpin(memory_, area.user, length);
    return error;
  }
  return 0;
}

void IoPagetable::unfillDomains(uint64_t start, uint64_t last, const Area& area) {
  if (domains_.empty()) return;
  const uint64_t length = last - start + 1;
  for (iommu::Domain* domain : domains_) domain->unmap(start, length);
  area.pages->unpin(memory_, area.user, length);
}

// Every area into a page table that is not among domains_; the first one pins.
int IoPagetable::fillDomain(iommu::Domain& domain) {
  int error = 0;
  const Areas::Entry* failed = nullptr;
  areas_.forEach([&](const Areas::Entry& area) {
    const uint64_t length = area.last - area.start + 1;
    if (domains_.empty()) error = area.value.pages->pin(memory_, area.value.user, length);
    if (error == 0) {
      error = fill(domain, area.start, area.last, area.value);
      if (error != 0 && domains_.empty()) area.value.pages->unpin(memory_, area.value.user, length);
    }
    if (error != 0) failed = &area;
    return error == 0;
  });
  if (error != 0) unfillDomain(domain, failed);
  return error;
}

// Takes the areas below `end` (null: all) out of a page table that is not among domains_; the last one
// unpins.
void IoPagetable::unfillDomain(iommu::Domain& domain, const Areas::Entry* end) {
  areas_.forEach([&](const Areas::Entry& area) {
    if (&area == end) return false;
    const uint64_t length = area.last - area.start + 1;
    domain.unmap(area.start, length);
    if (domains_.empty()) area.value.pages->unpin(memory_, area.value.user, length);
    return true;
  });
}

int IoPagetable::addDomain(iommu::Domain& domain) {
  const uint64_t alignment = std::max(domain.smallestPage(), alignment_);
  // A page of the processor is the most that memory is sure to be contiguous in.
  if (alignment > mm::pageSize()) return -EINVAL;
  if (alignment != alignment_) {
    if (const int error = checkAlignment(alignment); error != 0) return error;
  }
  int error = 0;
  const iommu::Range aperture = domain.aperture();
  if (aperture.start != 0) error = reserve({0, aperture.start - 1}, &domain);
  if (error == 0 && aperture.last != UINT64_MAX) error = reserve({aperture.last + 1, UINT64_MAX}, &domain);
  if (error == 0) error = fillDomain(domain);
  if (error != 0) {
    unreserve(&domain);
    return error;
  }
  alignment_ = alignment;
  domains_.push_back(&domain);
  return 0;
}

void IoPagetable::removeDomain(iommu::Domain& domain) {
  const auto found = std::find(domains_.begin(), domains_.end(), &domain);
  if (found == domains_.end()) return;
  *found = domains_.back();
  domains_.pop_back();
  unfillDomain(domain, nullptr);
  unreserve(&domain);
  (void)recalculateAlignment();  // only ever gets finer here
}

int IoPagetable::disableHugePages() {
  if (!hugePages_) return 0;
  // Large pages may be in use already.
  if (!domains_.empty() && !areas_.empty()) return -EINVAL;
  hugePages_ = false;
  const int error = recalculateAlignment();
  if (error != 0) hugePages_ = true;
  return error;
}

void IoPagetable::enableHugePages() {
  hugePages_ = true;
  (void)recalculateAlignment();  // only ever gets finer here
}

}  // namespace vfio::soft::iommufd
