// A translation domain: one page table from IOVAs to addresses of the process, as a unit would walk it.
//
// The table is a radix tree of 512-entry tables whose leaves, at any level that the unit has a page size
// for, hold a user address where hardware holds a physical one. The table keeps no memory alive: the caller
// of map() has pinned it. Dirty bits are in the leaves, where hardware has them too. So a large page is
// dirty as a whole, and a bit is lost when its mapping is removed.
//
// Units may cache the entries that they find in the table. So unmap(), clearing dirty bits, and turning
// dirty tracking on or off end with invalidate(): the units of all attached endpoints forget that range.
// They also forget everything that they have cached of guests' tables on this one, since nobody knows at
// which addresses of the guest the range is. map() needs no invalidate(): it fills entries that were empty.
//
// Life: made by the owner of an address space (iommufd's page tables), shared with the endpoints that are
// attached to it, destroyed when the last of these drops it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "../core/pool.h"
#include "model.h"
#include "translation.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommu {

class NestedTable;

class Domain final : public Translation {
 public:
  // A page table for endpoints behind `unit`, as this kernel's driver fills it.
  Domain(const Services& host, const Unit& unit);
  ~Domain() override = default;

  [[nodiscard]] const Range& aperture() const { return aperture_; }
  [[nodiscard]] uint64_t pageSizes() const { return pageSizes_; }
  [[nodiscard]] uint64_t smallestPage() const { return pageSizes_ & (~pageSizes_ + 1); }

  // From here on all mappings snoop the processor's caches whatever the device says. False: the unit can't
  // do that.
  [[nodiscard]] bool enforceCoherency();

  // Guests' tables will be nested on this one. Called before anything is mapped.
  void becomeParent() {
    parent_ = true;
    refusesReadOnly_ = leaves_.parentsAreWritable;
  }
  [[nodiscard]] bool isParent() const { return parent_; }

  // 0, or -EINVAL when an endpoint behind `unit` can't be translated by this table.
  [[nodiscard]] int suits(const Unit& unit) const override;

  // Maps [iova, iova+size), in which nothing is mapped yet, in the largest pages that fit; with `small`, in
  // pages no larger than the processor's. Both ends are aligned to smallestPage(). Returns 0, -EINVAL (no
  // access rights, or only the right to read, on a unit that has no such entries) or -ENOMEM. On an error
  // nothing is mapped.
  [[nodiscard]] int map(uint64_t iova, uint64_t user, uint64_t size, uint32_t access, bool small);
  // Has the processor fetch the entry of `iova`, for a map or unmap that comes soon.
  void prefetch(uint64_t iova) const;
  // Unmaps a range that consists of whole mapped pieces.
  void unmap(uint64_t iova, uint64_t size);

  // What the bytes from `iova` are: as many of the first `limit` (> 0) as lie at consecutive addresses with
  // the same rights. Nothing: `iova` is not mapped.
  struct Run {
    uint64_t user;
    uint64_t size;
    uint32_t access;
  };
  [[nodiscard]] std::optional<Run> translate(uint64_t iova, uint64_t limit) const;
  // The same for a transaction.
  [[nodiscard]] Reach reach(uint64_t iova, uint64_t limit, uint32_t access) override;

  // --- dirty tracking: which pages did devices write to? Where it is offered, only units that keep dirty
  // bits can walk the table.
  void offerDirtyTracking() { offersDirtyTracking_ = true; }
  [[nodiscard]] bool offersDirtyTracking() const { return offersDirtyTracking_; }
  // Turning it on clears all bits, also when it is on already; turning it off leaves the bits as they are.
  void setDirtyTracking(bool on);
  [[nodiscard]] bool dirtyTracking() const { return dirtyTracking_; }
  // What a write transaction to [iova, iova+size) does, tracking or not: sets the bit of each mapped page.
  void markDirty(uint64_t iova, uint64_t size);
  // Shows `visit(iova, size)` the dirty pages met in [iova, iova+size), and clears their bits if asked to.
  // It goes as the kernel's drivers do: in steps of whole pages from `iova`. So if `iova` is inside a large
  // page, the range that is shown, and the step to the next one, start at `iova` and are as long as that
  // page.
  template <class Visit>
  void collectDirty(uint64_t iova, uint64_t size, bool clear, const Visit& visit) {
    if (size == 0) return;
    std::optional<Range> cleared;
    visitDirty(iova, std::min(iova + (size - 1), aperture_.last), clear, [&](uint64_t at, uint64_t page) {
      visit(at, page);
      cleared = {cleared ? cleared->start : at, at + (page - 1)};
    });
    if (clear && cleared) invalidate(*cleared);
  }

  // --- entries of the table that units have cached
  void invalidate(Range range) const override;
  // Guests' tables on this one. They register themselves.
  void addNested(const NestedTable& table) { nested_.push_back(&table); }
  void removeNested(const NestedTable& table) { std::erase(nested_, &table); }

 private:
  static constexpr unsigned kBits = 9;
  static constexpr unsigned kEntries = 1U << kBits;
  // A leaf is a user address with these bits; anything else that isn't 0 is the pointer to the next table.
  // The smallest page of any unit leaves eight bits at least.
  static constexpr uint64_t kReadable = kRead;
  static constexpr uint64_t kWritable = kWrite;
  static constexpr uint64_t kLeaf = 4;
  static constexpr uint64_t kDirty = 8;
  static constexpr uint64_t kBitsOfLeaf = kReadable | kWritable | kLeaf | kDirty;
  struct alignas(16) Table {
    uint64_t entries[kEntries] = {};
    unsigned used = 0;
  };

  [[nodiscard]] unsigned shiftOf(unsigned level) const { return granuleShift_ + level * kBits; }
  [[nodiscard]] unsigned indexOf(uint64_t iova, unsigned level) const {
    const unsigned shift = shiftOf(level);
    return shift >= 64 ? 0 : static_cast<unsigned>(iova >> shift) & (kEntries - 1);
  }
  [[nodiscard]] unsigned leafLevel(uint64_t iova, uint64_t user, uint64_t left, bool small) const;
  [[nodiscard]] Table* takeTable();
  void giveBack(Table* table);
  void unmapIn(Table& table, unsigned level, uint64_t first, uint64_t last);
  // The entry that ends the walk at `iova`, a leaf or 0, and its level. Within the aperture.
  [[nodiscard]] uint64_t* walk(uint64_t iova, unsigned& level) const;
  template <class Visit>
  void visitDirty(uint64_t iova, uint64_t last, bool clear, const Visit& visit);

  Range aperture_;
  uint64_t pageSizes_;
  unsigned granuleShift_;
  unsigned levels_;
  bool enforcesCoherency_;
  bool forcesCoherency_ = false;
  LeafRules leaves_;
  bool parent_ = false;
  bool refusesReadOnly_ = false;
  bool offersDirtyTracking_ = false;
  bool dirtyTracking_ = false;
  std::vector<const NestedTable*> nested_;
  Pool<Table> tables_;
  Table* root_;
  Table* spare_ = nullptr;  // an empty table, kept so that map and unmap of one page don't allocate each time
};

template <class Visit>
void Domain::visitDirty(uint64_t iova, uint64_t last, bool clear, const Visit& visit) {
  while (iova <= last) {
    unsigned level = 0;
    uint64_t* const entry = walk(iova, level);
    const uint64_t page = uint64_t{1} << shiftOf(level);
    if ((*entry & kDirty) != 0) {
      if (clear) *entry &= ~kDirty;
      visit(iova, page);
    }
    const uint64_t next = *entry != 0 ? iova + page : (iova | (page - 1)) + 1;
    if (next <= iova) return;
    iova = next;
  }
}

}  // namespace vfio::soft::iommu
