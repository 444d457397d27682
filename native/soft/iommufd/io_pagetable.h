// An address space: which IOVAs are mapped to which memory, which IOVAs may not be used, and the page tables
// that must agree with that. IOAS commands and VFIO container requests work on it; it depends on neither.
//
// Areas are slices of pages objects; they never overlap. As long as no page table (domain) is added, areas
// are promises only: no memory is pinned or even looked at. The first domain pins everything. Every domain
// is filled with every area before it is listed. Removing the last domain releases the pins.
//
// Life: part of its IOAS. Domains are added and removed by their page-table objects, reserved ranges by the
// domain or the device that brings them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "../core/span_tree.h"
#include "../iommu/domain.h"
#include "../mm/memory.h"
#include "pages.h"

namespace vfio::soft::iommufd {

class Access;

class IoPagetable {
 public:
  struct Nothing {};
  using Allowed = SpanTree<Nothing>;

  // A slice of pages that is to become an area. The holder owns a reference to the pages.
  struct Piece {
    Pages* pages;
    uint64_t user;  // where in the program's memory it begins
    uint64_t length;
  };

  explicit IoPagetable(mm::Memory& memory) : memory_(memory) {}
  ~IoPagetable();
  IoPagetable(const IoPagetable&) = delete;
  IoPagetable& operator=(const IoPagetable&) = delete;

  // --- areas
  // Collects the slices that make up [iova, iova+length), with a reference for each: 0, -EINVAL,
  // -EOVERFLOW, -ENOENT at a hole.
  [[nodiscard]] int gather(uint64_t iova, uint64_t length, std::vector<Piece>& pieces) const;
  // Shows the parts of areas in [iova, last], from `iova` to the end or the first hole.
  template <class Visit>
  void forMapped(uint64_t iova, uint64_t last, const Visit& visit) const {
    for (uint64_t next = iova;;) {
      const Areas::Entry* const area = areas_.find(next, next);
      if (area == nullptr) return;
      const uint64_t end = std::min(last, area->last);
      visit(next, end);
      if (end == last) return;
      next = end + 1;
    }
  }
  // Makes an area of each piece, one after the other, `length` bytes in all; takes over the references, also
  // when it fails. With `fixed`, `iova` is the place; else the place is chosen and written to `iova`.
  [[nodiscard]] int mapPieces(std::span<Piece> pieces, uint64_t length, uint32_t access, bool fixed,
                              uint64_t& iova);
  // Unmaps the areas in the range, lowest first, until an area isn't inside it as a whole (-ENOENT) or a
  // user inside the kernel doesn't unpin it (-EDEADLK). `unmapped` counts the bytes in these cases too.
  [[nodiscard]] int unmap(uint64_t iova, uint64_t length, uint64_t& unmapped);
  [[nodiscard]] int unmapAll(uint64_t& unmapped) { return unmapRange(0, UINT64_MAX, unmapped); }
  // The start of the area with this number, counted from 0, lowest first. Nothing: there are fewer areas.
  [[nodiscard]] std::optional<uint64_t> nthArea(uint32_t number) const;
  // Cuts the area that contains `last` in two, right behind `last`. Does nothing if there is no such area or
  // it ends there.
  [[nodiscard]] int cut(uint64_t last);

  // Is anything mapped at `iova`? And (allOfFiles) is all mapped memory that of files?
  [[nodiscard]] bool mapped(uint64_t iova) const { return areas_.find(iova, iova) != nullptr; }
  [[nodiscard]] bool allOfFiles() const {
    return areas_.forEach([](const Areas::Entry& area) { return area.value.pages->ofFile(); });
  }

  // --- the IOVAs that may be used
  // Swaps the list with `fresh`, which then holds the old one: 0, or
  // -EADDRINUSE.
  [[nodiscard]] int setAllowed(Allowed& fresh);
  // Takes a range out of use in the name of `owner`: 0, or -EADDRINUSE when an area or an allowed range is in
  // it.
  [[nodiscard]] int reserve(iommu::Range range, const void* owner);
  void unreserve(const void* owner);
  // Shows the ranges that are not reserved, lowest first, until `take(start, last)` returns true.
  template <class Take>
  bool forUsable(const Take& take) const {
    return reservedUnion_.firstGap(0, UINT64_MAX, 1, take);
  }
  [[nodiscard]] uint64_t alignment() const { return alignment_; }

  // --- page tables
  // Fills the domain with every area, then adds it: 0; or -EINVAL, -EADDRINUSE, -EFAULT, and
  // nothing has changed.
  [[nodiscard]] int addDomain(iommu::Domain& domain);
  void removeDomain(iommu::Domain& domain);
  [[nodiscard]] const std::vector<iommu::Domain*>& domains() const { return domains_; }
  [[nodiscard]] int disableHugePages();
  void enableHugePages();

  // --- users inside the kernel (Access): adding and removing one, and its uses of [iova, last].
  [[nodiscard]] int addAccess(Access& access);  // 0, or -EADDRINUSE
  void removeAccess(const Access& access);
  [[nodiscard]] int pinForAccess(uint64_t iova, uint64_t last, bool write, std::vector<uint64_t>& pages);
  void unpinForAccess(uint64_t iova, uint64_t last);
  // Where the first bytes from `iova` are: at most `limit`, as many as are in one area.
  [[nodiscard]] iommu::Translation::Reach reachForAccess(uint64_t iova, uint64_t limit, uint32_t access);
  [[nodiscard]] int copyForAccess(uint64_t iova, uint64_t last, unsigned char* data, bool write,
                                  bool pinning);

  [[nodiscard]] bool hugePages() const { return hugePages_; }

 private:
  struct Area {
    Pages* pages;
    // The address of its first byte; kept here too, so that nothing waits for the pages object.
    uint64_t user;
    uint32_t access;
    uint32_t accesses : 31 = 0;  // pins of users inside the kernel
    uint32_t closed : 1 = 0;     // is being unmapped: can't be pinned again
  };
  using Areas = SpanTree<Area>;
  struct Reserved {
    iommu::Range range;
    const void* owner;
  };

  [[nodiscard]] int chooseIova(uint64_t user, uint64_t length, uint64_t& iova) const;
  [[nodiscard]] int checkIova(uint64_t iova, uint64_t length) const;
  [[nodiscard]] int checkPlace(std::span<const Piece> pieces, uint64_t length, uint32_t access, bool fixed,
                               uint64_t& iova) const;
  [[nodiscard]] int checkAlignment(uint64_t alignment) const;
  [[nodiscard]] int recalculateAlignment();
  [[nodiscard]] int unmapRange(uint64_t start, uint64_t last, uint64_t& unmapped);
  [[nodiscard]] int makeRoom(uint64_t areas);
  void prefetch(uint64_t iova) const;
  void rebuildReserved();
  [[nodiscard]] bool locked(uint64_t iova, uint64_t last) const;
  void notifyUnmapped(uint64_t iova, uint64_t length) const;
  template <class Visit>
  [[nodiscard]] int forAreas(uint64_t iova, uint64_t last, const Visit& visit);

  [[nodiscard]] int fill(iommu::Domain& domain, uint64_t start, uint64_t last, const Area& area) const;
  [[nodiscard]] int fillDomains(uint64_t start, uint64_t last, const Area& area);
  void unfillDomains(uint64_t start, uint64_t last, const Area& area);
  [[nodiscard]] int fillDomain(iommu::Domain& domain);
  void unfillDomain(iommu::Domain& domain, const Areas::Entry* end);

  mm::Memory& memory_;
  Areas areas_;
  Allowed allowed_;
  std::vector<Reserved> reserved_;
  SpanTree<Nothing> reservedUnion_;
  std::vector<iommu::Domain*> domains_;
  std::vector<Access*> accesses_;
  uint64_t alignment_ = 1;
  bool hugePages_ = true;
};

}  // namespace vfio::soft::iommufd
