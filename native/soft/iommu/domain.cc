#include "domain.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "../mm/memory.h"
#include "nested.h"

namespace vfio::soft::iommu {
namespace {

template <class Table>
Table* tableAt(uint64_t entry) {
  return reinterpret_cast<Table*>(entry);
}

}  // namespace

Domain::Domain(const Services& host, const Unit& unit)
    : aperture_(unit.aperture),
      pageSizes_(unit.pageSizes),
      granuleShift_(static_cast<unsigned>(std::countr_zero(unit.pageSizes))),
      levels_(1),
      enforcesCoherency_(unit.enforcesCoherency),
      leaves_(unit.model.leaves(host)),
      root_(tables_.make()) {
  const auto width = static_cast<unsigned>(std::bit_width(aperture_.last));
  while (shiftOf(levels_) < width) ++levels_;
}

bool Domain::enforceCoherency() {
  forcesCoherency_ = enforcesCoherency_;
  return forcesCoherency_;
}

int Domain::suits(const Unit& unit) const {
  if (forcesCoherency_ && !unit.enforcesCoherency) return -EINVAL;
  if (offersDirtyTracking_ && !unit.tracksDirty) return -EINVAL;
  if (aperture_.start < unit.aperture.start || aperture_.last > unit.aperture.last) return -EINVAL;
  return (pageSizes_ & ~unit.model.walkable(unit)) == 0 ? 0 : -EINVAL;
}

Domain::Table* Domain::takeTable() {
  Table* const table = spare_ != nullptr ? spare_ : tables_.make();
  spare_ = nullptr;
  return table;
}

void Domain::giveBack(Table* table) {
  if (spare_ == nullptr) {
    spare_ = table;  // all its entries are 0
  } else {
    tables_.destroy(table);
  }
}

unsigned Domain::leafLevel(uint64_t iova, uint64_t user, uint64_t left, bool small) const {
  const unsigned aligned = static_cast<unsigned>(std::countr_zero(iova | user | (uint64_t{1} << 63)));
  for (unsigned level = levels_ - 1; level > 0; --level) {
    const unsigned shift = shiftOf(level);
    if (shift > aligned || (pageSizes_ >> shift & 1) == 0) continue;
    const uint64_t size = uint64_t{1} << shift;
    if (size <= left && !(small && size > mm::pageSize())) return level;
  }
  return 0;
}

int Domain::map(uint64_t iova, uint64_t user, uint64_t size, uint32_t access, bool small) {
  if (access == kNoAccess && !leaves_.noAccess) return -EINVAL;
  if ((access & kWrite) == 0 && refusesReadOnly_) return -EINVAL;
  if ((access & kWrite) != 0 && leaves_.writableIsReadable) access |= kRead;
  const uint64_t rights = kLeaf | access;
  const uint64_t start = iova;
  const uint64_t whole = size;
  while (size != 0) {
    const unsigned level = leafLevel(iova, user, size, small);
    Table* table = root_;
    for (unsigned at = levels_ - 1; at > level; --at) {
      uint64_t& entry = table->entries[indexOf(iova, at)];
      if (entry == 0) {
        try {
          entry = reinterpret_cast<uint64_t>(takeTable());
        } catch (const std::bad_alloc&) {
          unmap(start, whole);
          return -ENOMEM;
        }
        ++table->used;
      }
      table = tableAt<Table>(entry);
    }
    // Fill the neighbours in the same table, as long as no larger page fits.
    const unsigned shift = shiftOf(level);
    const uint64_t step = uint64_t{1} << shift;
    for (unsigned index = indexOf(iova, level); index < kEntries; ++index) {
      table->entries[index] = user | rights;
      ++table->used;
      iova += step;
      user += step;
      size -= step;
      if (size < step) break;
    }
  }
  return 0;
}

void Domain::prefetch(uint64_t iova) const {
  const Table* table = root_;
  for (unsigned level = levels_ - 1;; --level) {
    const uint64_t& entry = table->entries[indexOf(iova, level)];
    if (level <= 1) {
      __builtin_prefetch(&entry, 1);
      if (level == 0 || entry == 0 || (entry & kLeaf) != 0) return;
      const auto* const last = tableAt<Table>(entry);
      __builtin_prefetch(&last->entries[indexOf(iova, 0)], 1);
      __builtin_prefetch(&last->used, 1);
      return;
    }
    if (entry == 0 || (entry & kLeaf) != 0) return;
    table = tableAt<Table>(entry);
  }
}

void Domain::unmap(uint64_t iova, uint64_t size) {
  if (size == 0) return;
  unmapIn(*root_, levels_ - 1, iova, iova + (size - 1));
  invalidate({iova, iova + (size - 1)});
}

void Domain::invalidate(Range range) const {
  Translation::invalidate(range);
  for (const NestedTable* table : nested_) table->invalidate(kEverything);
}

void Domain::unmapIn(Table& table, unsigned level, uint64_t first, uint64_t last) {
  const uint64_t span = uint64_t{1} << shiftOf(level);
  for (unsigned index = indexOf(first, level);; ++index) {
    uint64_t& entry = table.entries[index];
    const uint64_t end = std::min(last, first | (span - 1));
    if ((entry & kLeaf) != 0) {
      entry = 0;
      --table.used;
    } else if (entry != 0) {
      auto* const below = tableAt<Table>(entry);
      unmapIn(*below, level - 1, first, end);
      if (below->used == 0) {
        entry = 0;
        --table.used;
        giveBack(below);
      }
    }
    if (end == last) return;
    first = end + 1;
  }
}

uint64_t* Domain::walk(uint64_t iova, unsigned& level) const {
  level = levels_ - 1;
  uint64_t* entry = &root_->entries[indexOf(iova, level)];
  while (*entry != 0 && (*entry & kLeaf) == 0) {
    entry = &tableAt<Table>(*entry)->entries[indexOf(iova, --level)];
  }
  return entry;
}

void Domain::setDirtyTracking(bool on) {
  if (!on && !dirtyTracking_) return;
  if (on) visitDirty(aperture_.start, aperture_.last, true, [](uint64_t, uint64_t) {});
  dirtyTracking_ = on;
  invalidate(aperture_);
}

void Domain::markDirty(uint64_t iova, uint64_t size) {
  if (size == 0) return;
  const uint64_t last = std::min(iova + (size - 1), aperture_.last);
  while (iova <= last) {
    unsigned level = 0;
    uint64_t* const entry = walk(iova, level);
    if (*entry != 0) *entry |= kDirty;
    const uint64_t next = (iova | ((uint64_t{1} << shiftOf(level)) - 1)) + 1;
    if (next <= iova) return;
    iova = next;
  }
}

std::optional<Domain::Run> Domain::translate(uint64_t iova, uint64_t limit) const {
  std::optional<Run> run;
  while (limit != 0 && iova >= aperture_.start && iova <= aperture_.last) {
    const Table* table = root_;
    unsigned level = levels_ - 1;
    uint64_t entry = table->entries[indexOf(iova, level)];
    while (entry != 0 && (entry & kLeaf) == 0) {
      table = tableAt<Table>(entry);
      entry = table->entries[indexOf(iova, --level)];
    }
    // Go along this table while the addresses are consecutive.
    const uint64_t mask = (uint64_t{1} << shiftOf(level)) - 1;
    for (unsigned index = indexOf(iova, level);;) {
      if ((entry & kLeaf) == 0) return run;
      const uint64_t user = (entry & ~kBitsOfLeaf) + (iova & mask);
      const auto access = static_cast<uint32_t>(entry & (kReadable | kWritable));
      if (!run) {
        run = Run{user, 0, access};
      } else if (user != run->user + run->size || access != run->access) {
        // A transfer continues here after this run has been moved.
        __builtin_prefetch(reinterpret_cast<const void*>(user), 1);
        return run;
      }
      const uint64_t step = std::min(limit, mask - (iova & mask) + 1);
      run->size += step;
      iova += step;
      limit -= step;
      if (limit == 0 || ++index == kEntries) break;
      entry = table->entries[index];
    }
    if (iova == 0) break;  // wrapped
  }
  return run;
}

Translation::Reach Domain::reach(uint64_t iova, uint64_t limit, uint32_t access) {
  const auto fault = [](const char* reason, bool missing) {
    return Reach{.reason = reason, .missing = missing};
  };
  if (iova < aperture_.start || iova > aperture_.last) return fault("beyond the aperture", false);
  const std::optional<Run> run = translate(iova, limit);
  if (!run) return fault("not mapped", true);
  if ((run->access & access) == 0) return fault(access == kWrite ? "not writable" : "not readable", true);
  return {.user = run->user, .size = run->size, .domain = this, .iova = iova};
}

}  // namespace vfio::soft::iommu
