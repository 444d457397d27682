// How many pins each page of the process has, and which pages the program has unmapped meanwhile.
//
// A radix tree over page numbers, as the processor's own page tables are: a page costs 4 bytes where its
// neighbours are pinned too, and finding it one access to memory that isn't at hand, however many are pinned.
//
// Life: part of a Memory. The counts of a stretch of 512 pages live as long as one of them isn't 0; the
// tables above, one for each GiB that ever had a pin, as long as all.
#pragma once

#include <atomic>
#include <cstdint>

#include "../core/pool.h"

namespace vfio::soft::mm {

class PinCounts {
 public:
  PinCounts() = default;
  PinCounts(const PinCounts&) = delete;
  PinCounts& operator=(const PinCounts&) = delete;

  // The highest page number there is: addresses have 64 bits, of which processors use 57 at most.
  static constexpr uint64_t kLastPage = (uint64_t{1} << 45) - 1;

  // Ranges are page numbers, [first, last], up to kLastPage.

  // Was one of them unmapped while it was pinned?
  [[nodiscard]] bool anyDying(uint64_t first, uint64_t last) const;
  // Counts one more pin for each. Throws std::bad_alloc, and nothing is counted.
  void add(uint64_t first, uint64_t last);
  // Counts one less for each, of pages that have one. Shows `gone(first, last)` the runs of dying pages that
  // have none now.
  template <class Gone>
  void remove(uint64_t first, uint64_t last, const Gone& gone);
  // Makes the pinned ones dying. Shows `rest(first, last)` the runs that aren't pinned.
  template <class Rest>
  void setDying(uint64_t first, uint64_t last, const Rest& rest);
  [[nodiscard]] unsigned count(uint64_t page) const;
  // Has the processor fetch what says how many pins the page has. Needs no lock, so that it is done while
  // others work: it reads only the tables above the counts, which stay.
  void prefetch(uint64_t page) const;

 private:
  static constexpr unsigned kBits = 9;
  static constexpr unsigned kEntries = 1U << kBits;
  static constexpr unsigned kLevels = 5;
  static constexpr uint32_t kDying = uint32_t{1} << 31;

  struct alignas(8) Leaf {  // room for a pointer when it is given back
    uint32_t counts[kEntries] = {};
    unsigned used = 0;
  };
  struct Inner {
    std::atomic<void*> below[kEntries] = {};
  };

  static unsigned indexOf(uint64_t page, unsigned level) {
    return static_cast<unsigned>(page >> (level * kBits)) & (kEntries - 1);
  }
  static unsigned indexIn(uint64_t page) { return static_cast<unsigned>(page) & (kEntries - 1); }

  // The leaf of a page, or null; `end` is then the last page that has no leaf for the same reason, else the
  // last in the leaf.
  [[nodiscard]] Leaf* find(uint64_t page, uint64_t& end) const;
  // The place of a page's leaf in the table above it.
  [[nodiscard]] std::atomic<void*>& place(uint64_t page);

  Pool<Leaf> leaves_;
  Pool<Inner> inners_;
  Inner root_;
};

template <class Gone>
void PinCounts::remove(uint64_t first, uint64_t last, const Gone& gone) {
  for (uint64_t page = first; page <= last;) {
    uint64_t end = 0;
    Leaf* const leaf = find(page, end);
    end = end < last ? end : last;
    if (leaf != nullptr) {
      for (uint64_t at = page; at <= end; ++at) {
        uint32_t& count = leaf->counts[indexIn(at)];
        if (--count == kDying) {
          uint64_t run = at;
          while (run < end && leaf->counts[indexIn(run + 1)] == (kDying | 1)) {
            leaf->counts[indexIn(++run)] = 0;
            --leaf->used;
          }
          count = 0;
          gone(at, run);
          at = run;
        }
        if (count == 0) --leaf->used;
      }
      if (leaf->used == 0) {
        place(page) = nullptr;
        leaves_.destroy(leaf);
      }
    }
    page = end + 1;
  }
}

template <class Rest>
void PinCounts::setDying(uint64_t first, uint64_t last, const Rest& rest) {
  uint64_t start = first;  // of the run that isn't pinned
  for (uint64_t page = first; page <= last;) {
    uint64_t end = 0;
    Leaf* const leaf = find(page, end);
    end = end < last ? end : last;
    for (uint64_t at = page; leaf != nullptr && at <= end; ++at) {
      uint32_t& count = leaf->counts[indexIn(at)];
      if (count == 0) continue;
      count |= kDying;
      if (start != at) rest(start, at - 1);
      start = at + 1;
    }
    page = end + 1;
  }
  if (start <= last) rest(start, last);
}

}  // namespace vfio::soft::mm
