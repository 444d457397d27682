#include "pin_counts.h"

#include <algorithm>

namespace vfio::soft::mm {

PinCounts::Leaf* PinCounts::find(uint64_t page, uint64_t& end) const {
  const Inner* table = &root_;
  for (unsigned level = kLevels - 1;; --level) {
    void* const below = table->below[indexOf(page, level)].load(std::memory_order_acquire);
    if (below == nullptr || level == 1) {
      end = page | ((uint64_t{1} << (level * kBits)) - 1);
      return static_cast<Leaf*>(below);
    }
    table = static_cast<const Inner*>(below);
  }
}

std::atomic<void*>& PinCounts::place(uint64_t page) {
  Inner* table = &root_;
  for (unsigned level = kLevels - 1; level > 1; --level) {
    std::atomic<void*>& below = table->below[indexOf(page, level)];
    if (below == nullptr) below = inners_.make();
    table = static_cast<Inner*>(below.load());
  }
  return table->below[indexOf(page, 1)];
}

bool PinCounts::anyDying(uint64_t first, uint64_t last) const {
  for (uint64_t page = first; page <= last;) {
    uint64_t end = 0;
    const Leaf* const leaf = find(page, end);
    end = std::min(end, last);
    if (leaf != nullptr) {
      uint32_t all = 0;
      for (uint64_t at = page; at <= end; ++at) all |= leaf->counts[indexIn(at)];
      if ((all & kDying) != 0) return true;
    }
    page = end + 1;
  }
  return false;
}

void PinCounts::add(uint64_t first, uint64_t last) {
  for (uint64_t page = first; page <= last;) {
    void* leafHere = nullptr;
    try {
      std::atomic<void*>& below = place(page);
      if (below == nullptr) below = leaves_.make();
      leafHere = below;
    } catch (const std::bad_alloc&) {
      if (page != first) remove(first, page - 1, [](uint64_t, uint64_t) {});
      throw;
    }
    auto& leaf = *static_cast<Leaf*>(leafHere);
    const uint64_t end = std::min(page | (kEntries - 1), last);
    for (; page <= end; ++page) {
      if (leaf.counts[indexIn(page)]++ == 0) ++leaf.used;
    }
  }
}

unsigned PinCounts::count(uint64_t page) const {
  if (page > kLastPage) return 0;
  uint64_t end = 0;
  const Leaf* const leaf = find(page, end);
  return leaf == nullptr ? 0 : leaf->counts[indexIn(page)] & ~kDying;
}

void PinCounts::prefetch(uint64_t page) const {
  if (page > kLastPage) return;
  uint64_t end = 0;
  const Leaf* const leaf = find(page, end);
  if (leaf == nullptr) return;
  __builtin_prefetch(&leaf->counts[indexIn(page)], 1);
  __builtin_prefetch(&leaf->used, 1);
}

}  // namespace vfio::soft::mm
