// A translation domain: one page table from IOVAs to addresses of the process, as a unit would walk it.
//
// The table is a radix tree of 512-entry tables whose leaves, at any level that the unit has a page size for,
// hold a user address where hardware holds a physical one. It keeps nothing alive: who maps has pinned.
// An unmap takes effect with the next transaction; translations are not cached anywhere else, so there is
// nothing to invalidate.
//
// Life: made by the owner of an address space (iommufd's page tables), shared with the endpoints that are
// attached to it, gone with the last of them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "endpoint.h"

namespace vfio::soft::iommu {

enum Access : uint32_t { kNoAccess = 0, kRead = 1, kWrite = 2 };

class Domain {
 public:
  // A page table for endpoints behind `unit`.
  explicit Domain(const Unit& unit);
  ~Domain();
  Domain(const Domain&) = delete;
  Domain& operator=(const Domain&) = delete;

  [[nodiscard]] const Range& aperture() const { return aperture_; }
  [[nodiscard]] uint64_t pageSizes() const { return pageSizes_; }
  [[nodiscard]] uint64_t smallestPage() const { return pageSizes_ & (~pageSizes_ + 1); }

  // From here on all mappings snoop the processor's caches whatever the device says. False: the unit can't.
  [[nodiscard]] bool enforceCoherency();

  // 0, or -EINVAL when an endpoint behind `unit` can't be translated by this table.
  [[nodiscard]] int suits(const Unit& unit) const;

  // Maps [iova, iova+size) of which nothing is mapped, in the largest pages that fit, or with `small` no
  // larger than the processor's. Aligned to smallestPage() on both sides. 0 or -EINVAL (no access rights on a
  // unit that has no such entries).
  [[nodiscard]] int map(uint64_t iova, uint64_t user, uint64_t size, uint32_t access, bool small);
  // Unmaps what was mapped in whole pieces.
  void unmap(uint64_t iova, uint64_t size);

  // What the bytes from `iova` are: as many of the first `limit` (> 0) as lie at consecutive addresses with
  // the same rights. Nothing: `iova` is not mapped.
  struct Run {
    uint64_t user;
    uint64_t size;
    uint32_t access;
  };
  [[nodiscard]] std::optional<Run> translate(uint64_t iova, uint64_t limit) const;

 private:
  static constexpr unsigned kBits = 9;
  static constexpr unsigned kEntries = 1U << kBits;
  struct Table;

  [[nodiscard]] unsigned shiftOf(unsigned level) const { return granuleShift_ + level * kBits; }
  [[nodiscard]] unsigned indexOf(uint64_t iova, unsigned level) const {
    const unsigned shift = shiftOf(level);
    return shift >= 64 ? 0 : static_cast<unsigned>(iova >> shift) & (kEntries - 1);
  }
  [[nodiscard]] unsigned leafLevel(uint64_t iova, uint64_t user, uint64_t left, bool small) const;
  [[nodiscard]] Table* takeTable();
  void giveBack(Table* table);
  void destroy(Table* table, unsigned level);
  void unmapIn(Table& table, unsigned level, uint64_t first, uint64_t last);

  Range aperture_;
  uint64_t pageSizes_;
  unsigned granuleShift_;
  unsigned levels_;
  bool enforcesCoherency_;
  bool forcesCoherency_ = false;
  bool allowsNoAccess_;
  Table* root_;
  Table* spare_ = nullptr;  // an empty table kept, so that map and unmap of one page don't allocate each time
};

}  // namespace vfio::soft::iommu
