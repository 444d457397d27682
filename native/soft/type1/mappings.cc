// See type1.h. Mapping, unmapping, and tracking of dirty pages.
#include <linux/capability.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <new>
#include <utility>

#include "../../uapi/vfio_container.h"
#include "../core/capable.h"
#include "../core/services.h"
#include "type1.h"

namespace vfio::soft::type1 {

// The lowest mapping with a byte in [start, last].
Type1::Mapping* Type1::find(uint64_t start, uint64_t last) {
  auto after = mappings_.upper_bound(start);
  if (after != mappings_.begin()) {
    Mapping& before = std::prev(after)->second;
    if (before.last() >= start) return &before;
  }
  return after != mappings_.end() && after->first <= last ? &after->second : nullptr;
}

// Pins a mapping's pages and charges them to the process: 0, -EFAULT or -ENOMEM. The kernel pins and charges
// page by page. So if it can't pin one page (EFAULT) and can't charge another (ENOMEM), the error is that of
// the first one. Memory of devices is not charged.
int Type1::pin(Mapping& mapping) const {
  mm::Memory& memory = host_.memory();
  const uint64_t user = mapping.user, size = mapping.size;
  const bool write = (mapping.access & iommu::kWrite) != 0;
  const bool limited = !capable(CAP_IPC_LOCK);
  const uint64_t page = mm::pageSize();
  uint64_t free = 0;
  const int pinned = memory.pin(user, size, write, &free);
  if (pinned == -ENOMEM) return pinned;
  if (pinned == 0) {
    mapping.charged = size / page - free;
    const int error = memory.charges.lock(mapping.charged, limited);
    if (error != 0) memory.unpin(user, size);
    mapping.pinned = error == 0;
    return error;
  }
  uint64_t good = 0, charged = 0;
  for (; good < size && memory.pin(user + good, page, write, &free) == 0; good += page) charged += 1 - free;
  if (good == 0) return -EFAULT;
  memory.unpin(user, good);
  if (memory.charges.lock(charged, limited) != 0) return -ENOMEM;
  memory.charges.unlock(charged);
  return -EFAULT;
}

void Type1::unpin(Mapping& mapping) const {
  if (!std::exchange(mapping.pinned, false)) return;
  host_.memory().unpin(mapping.user, mapping.size);
  host_.memory().charges.unlock(mapping.charged);
}

int Type1::map(uint64_t user, uint64_t iova, uint64_t size, uint32_t access) {
  if (mappings_.size() >= mostMappings_) return -ENOSPC;
  if (!tables_.empty() && !ranges_.holds(iova, iova + (size - 1))) return -EINVAL;
  Mapping fresh = {iova, size, user, access};
  const uint64_t pages = size / smallestPage();
  const bool tracks = tracking_ && pages <= DirtyBitmap::kMostPages;
  if (tracks) fresh.dirty = std::make_unique<DirtyBitmap>(pages);
  if (!tables_.empty()) {
    if (const int error = pin(fresh)) return error;
  }
  const auto added = mappings_.emplace(iova, std::move(fresh)).first;
  for (const Table& table : tables_) {
    if (const int error = table.domain->map(iova, user, size, access, false)) {
      remove(added);
      return error;
    }
  }
  if (!tracking_ || tracks) return 0;
  remove(added);
  return -EINVAL;
}

iommu::Translation::Reach Type1::Lookup::reach(uint64_t iova, uint64_t limit, uint32_t access) {
  const Mapping* const mapping = type1_.find(iova, iova);
  if (mapping == nullptr) return {.reason = "not mapped"};
  if ((mapping->access & access) == 0) {
    return {.reason = access == iommu::kWrite ? "not writable" : "not readable"};
  }
  const uint64_t offset = iova - mapping->iova;
  const uint64_t size = std::min(limit, mapping->size - offset);
  if (access == iommu::kWrite && mapping->dirty != nullptr) {
    const uint64_t page = type1_.smallestPage();
    mapping->dirty->mark(offset / page, (offset + size - 1) / page);
  }
  return {.user = mapping->user + offset, .size = size};
}

// Ends the state in which the mapping's address is to be replaced. Its pages stay where they are, so the new
// address itself is not needed.
int Type1::moveTo(uint64_t iova, uint64_t size) {
  Mapping* const mapping = find(iova, iova + (size - 1));
  if (mapping == nullptr) return -ENOENT;
  if (!mapping->addressGone || mapping->iova != iova || mapping->size != size) return -EINVAL;
  mapping->addressGone = false;
  --addressesGone_;
  return 0;
}

void Type1::remove(Mappings::iterator at) {
  Mapping& mapping = at->second;
  for (const Table& table : tables_) table.domain->unmap(mapping.iova, mapping.size);
  unpin(mapping);
  if (mapping.addressGone) --addressesGone_;
  mappings_.erase(at);
}

// -EINVAL if the range starts or ends inside a mapping: version 2 then does nothing.
int Type1::checkCut(uint64_t iova, uint64_t last) {
  const Mapping* const first = find(iova, iova);
  if (first != nullptr && first->iova != iova) return -EINVAL;
  const Mapping* const end = find(last, last);
  return end != nullptr && end->last() != last ? -EINVAL : 0;
}

// The first mapping of a walk over [iova, iova + size). Before Linux 6.18 the kernel's sums overflow to 0: a
// walk finds nothing if its range ends with the highest address, or if the only mapping does.
Type1::Mappings::iterator Type1::firstOf(uint64_t iova, uint64_t size) {
  if (!host_.since(6, 18) && !mappings_.empty()) {
    const bool hidden = mappings_.size() == 1 && mappings_.begin()->second.last() == UINT64_MAX;
    if (iova + size == 0 || hidden) return mappings_.end();
  }
  const Mapping* const first = find(iova, iova + (size - 1));
  if (first == nullptr) return mappings_.end();
  // Version 1 finds mappings by their start: a mapping that starts before the range ends the walk.
  return !v2_ && first->iova < iova ? mappings_.end() : mappings_.find(first->iova);
}

int Type1::unmap(uint64_t iova, uint64_t size, bool all, const uapi::vfio_bitmap* bitmap,
                 uint64_t& unmapped) {
  if (v2_ && !all) {
    if (const int error = checkCut(iova, iova + (size - 1))) return error;
  }
  for (auto next = firstOf(iova, size); next != mappings_.end() && next->first <= iova + (size - 1);) {
    Mapping& mapping = next->second;
    if (bitmap != nullptr) {
      const uint64_t at = (mapping.iova - iova) / smallestPage();
      if (const int error = mapping.dirty->report(bitmap->data, at, !tables_.empty())) return error;
    }
    unmapped += mapping.size;
    remove(next++);
  }
  return 0;
}

int Type1::dropAddresses(uint64_t iova, uint64_t size, bool all, uint64_t& dropped) {
  if (v2_ && !all) {
    if (const int error = checkCut(iova, iova + (size - 1))) return error;
  }
  const auto first = firstOf(iova, size);
  for (auto next = first; next != mappings_.end() && next->first <= iova + (size - 1); ++next) {
    if (next->second.addressGone) {
      for (auto undo = first; undo != next; ++undo) {
        undo->second.addressGone = false;
        --addressesGone_;
      }
      dropped = 0;
      return -EINVAL;
    }
    next->second.addressGone = true;
    ++addressesGone_;
    dropped += next->second.size;
  }
  return 0;
}

// ---------------------------------------------------------------- dirty pages

int Type1::startTracking() {
  if (tracking_) return 0;
  const uint64_t page = smallestPage();
  for (auto& [iova, mapping] : mappings_) {
    if (mapping.size / page > DirtyBitmap::kMostPages) {
      stopTracking();
      return -EINVAL;
    }
    try {
      mapping.dirty = std::make_unique<DirtyBitmap>(mapping.size / page);
    } catch (const std::bad_alloc&) {
      stopTracking();
      return -ENOMEM;
    }
  }
  tracking_ = true;
  return 0;
}

void Type1::stopTracking() {
  for (auto& [iova, mapping] : mappings_) mapping.dirty.reset();
  tracking_ = false;
}

int Type1::collectDirty(uint64_t iova, uint64_t size, UserAddress bitmap) {
  const uint64_t last = iova + (size - 1);
  if (const int error = checkCut(iova, last)) return error;
  for (auto next = mappings_.lower_bound(iova); next != mappings_.end() && next->first <= last; ++next) {
    DirtyBitmap& dirty = *next->second.dirty;
    if (const int error = dirty.report(bitmap, (next->first - iova) / smallestPage(), !tables_.empty()))
      return error;
    dirty.clear();
  }
  return 0;
}

}  // namespace vfio::soft::type1
