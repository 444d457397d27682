#include "io_pagetable.h"

#include <algorithm>
#include <cerrno>
#include <new>

namespace vfio::soft::iommufd {
namespace {

constexpr unsigned kUnmapTries = 100;

}  // namespace

IoPagetable::~IoPagetable() {
  uint64_t unmapped = 0;
  (void)unmapAll(unmapped);
}

int IoPagetable::gather(uint64_t iova, uint64_t length, std::vector<Piece>& pieces) const {
  if (length == 0) return -EINVAL;
  const uint64_t last = iova + (length - 1);
  if (last < iova) return -EOVERFLOW;
  int error = -ENOENT;
  for (uint64_t next = iova;;) {
    const Areas::Entry* const area = areas_.find(next, next);
    if (area == nullptr) break;
    const uint64_t end = std::min(last, area->last);
    try {
      pieces.push_back({area->value.pages, area->value.user + (next - area->start), end - next + 1});
    } catch (const std::bad_alloc&) {
      error = -ENOMEM;
      break;
    }
    area->value.pages->ref();
    if (end == last) return 0;
    next = end + 1;
  }
  for (const Piece& piece : pieces) piece.pages->unref();
  pieces.clear();
  return error;
}

// All checks of a new place that come before memory is looked at, in the kernel's order.
int IoPagetable::checkPlace(std::span<const Piece> pieces, uint64_t length, uint32_t access, bool fixed,
                            uint64_t& iova) const {
  if (length == 0 || (length & (alignment_ - 1)) != 0) return -EINVAL;
  const uint64_t user = pieces.front().user;
  if (const int error = fixed ? checkIova(iova, length) : chooseIova(user, length, iova); error != 0) {
    return error;
  }
  for (const Piece& piece : pieces) {
    if ((access & iommu::kWrite) != 0 && !piece.pages->writable()) return -EPERM;
    if ((piece.user % mm::pageSize() & (alignment_ - 1)) != 0) return -EINVAL;
  }
  return 0;
}

int IoPagetable::checkIova(uint64_t iova, uint64_t length) const {
  if ((iova & (alignment_ - 1)) != 0) return -EINVAL;
  const uint64_t last = iova + (length - 1);
  if (last < iova) return -EOVERFLOW;
  if (reservedUnion_.find(iova, last) != nullptr) return -EINVAL;
  return areas_.find(iova, last) != nullptr ? -EEXIST : 0;
}

// Allocates in advance, so that nothing can fail once the page tables are filled.
int IoPagetable::makeRoom(uint64_t areas) try {
  areas_.reserve(areas);
  return 0;
} catch (const std::bad_alloc&) {
  return -ENOMEM;
}

int IoPagetable::mapPieces(std::span<Piece> pieces, uint64_t length, uint32_t access, bool fixed,
                           uint64_t& iova) {
  if (fixed) prefetch(iova);
  memory_.prefetchForPin(pieces.front().user);
  uint64_t place = iova;
  int error = checkPlace(pieces, length, access, fixed, place);
  if (error == 0) error = makeRoom(pieces.size());
  uint64_t next = place;
  size_t filled = 0;
  for (; error == 0 && filled < pieces.size(); ++filled) {
    const Piece& piece = pieces[filled];
    error = fillDomains(next, next + (piece.length - 1), {piece.pages, piece.user, access});
    if (error != 0) break;
    next += piece.length;
  }
  if (error != 0) {
    next = place;
    for (size_t at = 0; at < pieces.size(); ++at) {
      const Piece& piece = pieces[at];
      if (at < filled) unfillDomains(next, next + (piece.length - 1), {piece.pages, piece.user, access});
      next += piece.length;
      piece.pages->unref();
    }
    return error;
  }
  iova = place;
  for (const Piece& piece : pieces) {
    areas_.insert(place, place + (piece.length - 1), {piece.pages, piece.user, access});
    place += piece.length;
  }
  return 0;
}

int IoPagetable::unmap(uint64_t iova, uint64_t length, uint64_t& unmapped) {
  if (length == 0) return -EINVAL;
  const uint64_t last = iova + (length - 1);
  if (last < iova) return -EOVERFLOW;
  return unmapRange(iova, last, unmapped);
}

// With many mappings, most of the time is spent waiting for memory. So the entries of all page tables are
// fetched at once.
void IoPagetable::prefetch(uint64_t iova) const {
  for (const iommu::Domain* domain : domains_) domain->prefetch(iova);
}

int IoPagetable::unmapRange(uint64_t start, uint64_t last, uint64_t& unmapped) {
  unsigned tries = 0;
  prefetch(start);
  while (Areas::Entry* const found = areas_.find(start, last)) {
    const Areas::Entry area = *found;
    if (area.start < start || area.last > last) return -ENOENT;
    if (area.start != start) tries = 0;
    if (area.value.accesses != 0) {
      if (locked(area.start, area.last)) return -EBUSY;
      start = area.start;
      found->value.closed = 1;
      notifyUnmapped(area.start, area.last - area.start + 1);
      // A user inside the kernel doesn't unpin its pages.
      if (++tries > kUnmapTries) return -EDEADLK;
      continue;
    }
    __builtin_prefetch(area.value.pages, 1);
    memory_.prefetchForUnpin(area.value.user);
    areas_.erase(area.start);
    unfillDomains(area.start, area.last, area.value);
    area.value.pages->unref();
    unmapped += area.last - area.start + 1;
    if (area.last == last) break;
    start = area.last + 1;
  }
  return 0;
}

std::optional<uint64_t> IoPagetable::nthArea(uint32_t number) const {
  std::optional<uint64_t> start;
  areas_.forEach([&](const Areas::Entry& area) {
    if (number == 0) start = area.start;
    return number-- != 0;
  });
  return start;
}

int IoPagetable::cut(uint64_t last) {
  const Areas::Entry* const found = areas_.find(last, last);
  if (found == nullptr) return 0;
  const Areas::Entry area = *found;
  // No cut behind the area's first byte either: so it is in the kernel.
  if (last == area.start || last == area.last) return 0;
  if (area.value.closed != 0) return -EBUSY;
  const uint64_t second = last + 1;
  const uint64_t secondUser = area.value.user + (second - area.start);
  if (((second | secondUser) & (alignment_ - 1)) != 0) return -EINVAL;
  // The pins of users inside the kernel can't be divided, and a large page in a page table can't be cut.
  if (area.value.accesses != 0) return -EINVAL;
  if (!domains_.empty() && hugePages_) return -EINVAL;

  Pages& pages = *area.value.pages;
  if (const int error = makeRoom(2); error != 0) return error;
  if (!domains_.empty()) {
    // The pins stay, now in two parts; nothing is newly pinned.
    if (const int error = pages.pin(memory_, area.value.user, second - area.start); error != 0) return error;
    if (const int error = pages.pin(memory_, secondUser, area.last - last); error != 0) {
      pages.unpin(memory_, area.value.user, second - area.start);
      return error;
    }
    pages.unpin(memory_, area.value.user, area.last - area.start + 1);
  }
  pages.ref();
  areas_.erase(area.start);
  areas_.insert(area.start, last, area.value);
  areas_.insert(second, area.last, {&pages, secondUser, area.value.access});
  return 0;
}

int IoPagetable::setAllowed(Allowed& fresh) {
  const bool free = fresh.forEach([this](const Allowed::Entry& entry) {
    return reservedUnion_.find(entry.start, entry.last) == nullptr;
  });
  if (!free) return -EADDRINUSE;
  allowed_.swap(fresh);
  return 0;
}

int IoPagetable::reserve(iommu::Range range, const void* owner) {
  if (areas_.find(range.start, range.last) != nullptr) return -EADDRINUSE;
  if (allowed_.find(range.start, range.last) != nullptr) return -EADDRINUSE;
  reserved_.push_back({range, owner});
  rebuildReserved();
  return 0;
}

void IoPagetable::unreserve(const void* owner) {
  if (std::erase_if(reserved_, [owner](const Reserved& one) { return one.owner == owner; }) != 0) {
    rebuildReserved();
  }
}

// Ranges of several owners overlap; look-ups use the union of them.
void IoPagetable::rebuildReserved() {
  std::vector<iommu::Range> ranges;
  ranges.reserve(reserved_.size());
  for (const Reserved& one : reserved_) ranges.push_back(one.range);
  std::sort(ranges.begin(), ranges.end(),
            [](const iommu::Range& a, const iommu::Range& b) { return a.start < b.start; });
  reservedUnion_.clear();
  for (size_t at = 0; at < ranges.size();) {
    iommu::Range whole = ranges[at];
    while (++at < ranges.size() && (whole.last == UINT64_MAX || ranges[at].start <= whole.last + 1)) {
      whole.last = std::max(whole.last, ranges[at].last);
    }
    reservedUnion_.insert(whole.start, whole.last, {});
  }
}

}  // namespace vfio::soft::iommufd
