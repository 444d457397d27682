#include "mock_access.h"

#include <cerrno>

#include "../core/services.h"
#include "page_identity.h"

namespace vfio::soft::selftest {

std::shared_ptr<MockAccess> MockAccess::make(const std::shared_ptr<iommufd::Context>& context, bool pins) {
  auto made = std::make_shared<MockAccess>();
  MockAccess* const self = made.get();
  self->access_ = iommufd::Access::make(
      context, pins, [self](uint64_t iova, uint64_t length) { self->unmapped(iova, length); });
  if (self->access_ == nullptr) return nullptr;
  self->memory_ = &context->host.memory();
  self->pins_ = pins;
  return made;
}

void MockAccess::release() {
  if (access_ == nullptr) return;
  access_->detach();
  access_.reset();
}

int MockAccess::pin(uint64_t iova, uint64_t length, uint64_t user, bool write, uint32_t& item) {
  std::vector<uint64_t> pages;
  if (const int error = access_->pinPages(iova, length, write, pages); error != 0) return error;
  try {
    const int error = user != 0 ? compare(iova, user, pages) : 0;
    if (error != 0) access_->unpinPages(iova, length);
    if (error != 0) return error;
    items_.reserve(items_.size() + 1);
  } catch (...) {
    access_->unpinPages(iova, length);
    throw;
  }
  item = nextItem_++;
  items_.push_back({item, iova, length});
  return 0;
}

// Checks that the pinned pages are those at `user`: 0 or -errno.
int MockAccess::compare(uint64_t iova, uint64_t user, const std::vector<uint64_t>& pages) {
  PageIdentity identity(*memory_);
  uint64_t expected = (user - iova % mm::pageSize()) & ~(mm::pageSize() - 1);
  for (const uint64_t page : pages) {
    if (!PageIdentity::readable(expected)) return mm::Memory::pinError(expected, 1);
    if (!identity.same(expected, page)) return -EBADE;
    expected += mm::pageSize();
  }
  return 0;
}

int MockAccess::giveBack(uint32_t item) {
  for (auto it = items_.begin(); it != items_.end(); ++it) {
    if (it->id != item) continue;
    const Item gone = *it;
    items_.erase(it);
    access_->unpinPages(gone.iova, gone.length);
    return 0;
  }
  return -ENOENT;
}

// The range is about to be unmapped: releases every pin that overlaps it.
void MockAccess::unmapped(uint64_t iova, uint64_t length) {
  const uint64_t last = iova + (length - 1);
  for (size_t at = 0; at < items_.size();) {
    const Item item = items_[at];
    if (iova > item.iova + (item.length - 1) || last < item.iova) {
      ++at;
      continue;
    }
    items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(at));
    access_->unpinPages(item.iova, item.length);
  }
}

}  // namespace vfio::soft::selftest
