// How users inside the kernel reach the memory of an address space by IOVA: they pin its pages, or copy.
#include <algorithm>
#include <cerrno>
#include <new>

#include "access.h"
#include "io_pagetable.h"

namespace vfio::soft::iommufd {

int IoPagetable::addAccess(Access& access) {
  accesses_.push_back(&access);
  const int error = recalculateAlignment();
  if (error != 0) accesses_.pop_back();
  return error;
}

void IoPagetable::removeAccess(const Access& access) {
  std::erase(accesses_, &access);
  (void)recalculateAlignment();  // can only become finer here
}

// Goes through a copy of the list, since a user that is notified may remove itself.
void IoPagetable::notifyUnmapped(uint64_t iova, uint64_t length) const {
  const std::vector<Access*> told = accesses_;
  for (const Access* access : told) access->notifyUnmapped(iova, length);
}

bool IoPagetable::locked(uint64_t iova, uint64_t last) const {
  return std::ranges::any_of(accesses_, [=](const Access* access) { return access->locks(iova, last); });
}

// Shows the parts of the areas that make up [iova, last], lowest first, until `visit` returns other than 0
// (which is returned). 0: all of it was shown; -ENOENT: up to a hole.
template <class Visit>
int IoPagetable::forAreas(uint64_t iova, uint64_t last, const Visit& visit) {
  for (uint64_t next = iova;;) {
    Areas::Entry* const area = areas_.find(next, next);
    if (area == nullptr) return -ENOENT;
    const uint64_t end = std::min(last, area->last);
    if (const int error = visit(*area, next, end); error != 0) return error;
    if (end == last) return 0;
    next = end + 1;
  }
}

int IoPagetable::pinForAccess(uint64_t iova, uint64_t last, bool write, std::vector<uint64_t>& pages) {
  const uint64_t page = mm::pageSize();
  uint64_t pinned = iova;  // up to here, if this fails
  const int error = forAreas(iova, last, [&](Areas::Entry& entry, uint64_t first, uint64_t end) {
    Area& area = entry.value;
    const uint64_t user = area.user + (first - entry.start);
    const uint64_t lastUser = area.user + (end - entry.start);
    // Pages that lie one behind the other in the list must do so in IOVAs.
    if (area.closed != 0 || user % page != 0) return -EINVAL;
    if (end != last && lastUser % page != page - 1) return -EINVAL;
    if ((area.access & (write ? iommu::kWrite : iommu::kRead)) == 0) return -EPERM;
    try {
      pages.reserve(pages.size() + (lastUser - user) / page + 1);
    } catch (const std::bad_alloc&) {
      return -ENOMEM;
    }
    if (const int failed = area.pages->pin(memory_, user, end - first + 1); failed != 0) return failed;
    ++area.accesses;
    for (uint64_t at = user; at <= lastUser; at += page) pages.push_back(at);
    pinned = end + 1;
    return 0;
  });
  if (error != 0) {
    if (pinned != iova) unpinForAccess(iova, pinned - 1);
    pages.clear();
  }
  return error;
}

void IoPagetable::unpinForAccess(uint64_t iova, uint64_t last) {
  (void)forAreas(iova, last, [this](Areas::Entry& entry, uint64_t first, uint64_t end) {
    Area& area = entry.value;
    if (area.accesses == 0) return -EINVAL;  // the driver of the access has an error
    --area.accesses;
    area.pages->unpin(memory_, area.user + (first - entry.start), end - first + 1);
    return 0;
  });
}

int IoPagetable::copyForAccess(uint64_t iova, uint64_t last, unsigned char* data, bool write, bool pinning) {
  const uint64_t page = mm::pageSize();
  return forAreas(iova, last, [&](Areas::Entry& entry, uint64_t first, uint64_t end) {
    const Area& area = entry.value;
    if (area.closed != 0) return -EINVAL;
    if ((area.access & (write ? iommu::kWrite : iommu::kRead)) == 0) return -EPERM;
    const uint64_t user = area.user + (first - entry.start);
    const uint64_t length = end - first + 1;
    // A single page is reached with the requested right. Several pages, and those of a file in any case, are
    // reached with the rights of the mapping.
    const bool several = user / page != (user + length - 1) / page;
    if (area.pages->ofFile() || (pinning && several)) {
      if (const int error = area.pages->reach(memory_, user, length); error != 0) return error;
    }
    const int error =
        write ? mm::Memory::copyOut(user, data, length) : mm::Memory::copyIn(data, user, length);
    data += length;
    return error;
  });
}

iommu::Translation::Reach IoPagetable::reachForAccess(uint64_t iova, uint64_t limit, uint32_t access) {
  Areas::Entry* const entry = areas_.find(iova, iova);
  if (entry == nullptr || entry->value.closed != 0) return {.reason = "not mapped"};
  const Area& area = entry->value;
  if ((area.access & access) == 0) {
    return {.reason = access == iommu::kWrite ? "not writable" : "not readable"};
  }
  const uint64_t user = area.user + (iova - entry->start);
  const uint64_t size = std::min(limit, entry->last - iova + 1);
  if (area.pages->ofFile() && area.pages->reach(memory_, user, size) != 0) {
    return {.reason = "no memory behind the mapping"};
  }
  return {.user = user, .size = size};
}

}  // namespace vfio::soft::iommufd
