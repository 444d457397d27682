// Chooses the IOVA of a mapping when the caller leaves it to the kernel: the lowest gap that fits, byte for
// byte as the kernel chooses it. Also the alignment that the choice, and every area, has to keep.
#include <algorithm>
#include <bit>
#include <cerrno>

#include "access.h"
#include "io_pagetable.h"

namespace vfio::soft::iommufd {
namespace {

// The kernel's largest useful alignment, a huge page of the processor.
constexpr uint64_t kLargestAlignment = uint64_t{2} << 20;

// Moves `start` up to where `length` bytes can begin, if they then end by `last`. The page offset is or-ed in
// after aligning, which for offsets finer than the alignment is more than an addition would give.
bool fits(uint64_t& start, uint64_t last, uint64_t length, uint64_t alignment, uint64_t pageOffset) {
  const uint64_t up = start + (alignment - 1);
  if (up < start) return false;
  const uint64_t aligned = (up & ~(alignment - 1)) | pageOffset;
  if (aligned >= last || last - aligned < length - 1) return false;
  start = aligned;
  return true;
}

}  // namespace

int IoPagetable::chooseIova(uint64_t user, uint64_t length, uint64_t& iova) const {
  if (length == 0 || length >= UINT64_MAX / 2) return -EOVERFLOW;
  const uint64_t page = mm::pageSize();
  const uint64_t pageOffset = user % page;
  // The IOVA is as aligned as the memory is, so that large pages can be used.
  uint64_t alignment = std::bit_ceil(length);
  if (user != 0) alignment = std::min(alignment, user & (~user + 1));
  alignment = std::min(alignment, kLargestAlignment);
  if (alignment < alignment_) return -EINVAL;

  const auto within = [&](uint64_t start, uint64_t last) {
    if (!fits(start, last, length, alignment, pageOffset)) return false;
    return reservedUnion_.firstGap(start, last, length, [&](uint64_t from, uint64_t to) {
      return areas_.firstGap(from, to, length, [&](uint64_t first, uint64_t end) {
        if (!fits(first, end, length, alignment, pageOffset)) return false;
        iova = first;
        return true;
      });
    });
  };
  // Never at 0, nor in the last page.
  const uint64_t lowest = page;
  const uint64_t highest = UINT64_MAX - page;
  if (allowed_.empty()) return within(lowest, highest) ? 0 : -ENOSPC;

  const Allowed::Entry* entry = allowed_.find(lowest, highest);
  while (entry != nullptr) {
    const uint64_t start = std::max(lowest, entry->start);
    uint64_t last = entry->last;
    entry = nullptr;
    // Ranges that touch count as one.
    while (last < highest) {
      entry = allowed_.find(last + 1, highest);
      if (entry == nullptr || entry->start != last + 1) break;
      last = entry->last;
    }
    if (within(start, std::min(last, highest))) return 0;
    if (last >= highest) break;
  }
  return -ENOSPC;
}

// Would all areas fit a coarser alignment?
int IoPagetable::checkAlignment(uint64_t alignment) const {
  const uint64_t mask = alignment - 1;
  const bool all = areas_.forEach([mask](const Areas::Entry& area) {
    return ((area.start | (area.last - area.start + 1) | area.value.user % mm::pageSize()) & mask) == 0;
  });
  return all ? 0 : -EADDRINUSE;
}

int IoPagetable::recalculateAlignment() {
  uint64_t alignment = hugePages_ ? 1 : mm::pageSize();
  for (const iommu::Domain* domain : domains_) alignment = std::max(alignment, domain->smallestPage());
  for (const Access* access : accesses_) alignment = std::max(alignment, access->alignment());
  if (alignment > alignment_) {
    if (const int error = checkAlignment(alignment); error != 0) return error;
  }
  alignment_ = alignment;
  return 0;
}

}  // namespace vfio::soft::iommufd
