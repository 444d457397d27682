// How many pins each page of the process has, and which pages the program has unmapped meanwhile.
//
// A radix tree over page numbers, like the processor's own page tables. A page whose neighbours are pinned
// too costs 4 bytes. Finding a page takes one access to memory outside the cache, however many pages are
// pinned.
//
// Life: part of a Memory. The counts of a stretch of 512 pages live as long as one of them isn't 0. The
// tables above, one for each GiB that ever had a pin, live as long as the whole tree.
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

  // The highest page number: addresses have 64 bits, of which processors use 57 at most.
  static constexpr uint64_t kLastPage = (uint64_t{1} << 45) - 1;

  // Ranges are page numbers, [first, last], up to kLastPage.

  // Was one of these pages unmapped while it was pinned (is it dying)?
  [[nodiscard]] bool anyDying(uint64_t first, uint64_t last) const;
  // Adds one pin to each page. If it throws std::bad_alloc, no pin was added.
  void add(uint64_t first, uint64_t last);
  // Removes one pin from each page. Every page must have one. Calls `gone(first, last)` for each run of
  // dying pages that have no pin left.
  template <class Gone>
  void remove(uint64_t first, uint64_t last, const Gone& gone);
  // Marks the pinned pages as dying. Calls `rest(first, last)` for each run of pages that aren't pinned.
  template <class Rest>
  void setDying(uint64_t first, uint64_t last, const Rest& rest);
  [[nodiscard]] unsigned count(uint64_t page) const;
  // Makes the processor fetch the pin count of the page. Needs no lock, so it can run while other threads
  // work: it reads only the tables above the counts, which are never destroyed before the tree.
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

  // Returns the leaf of a page, or null. Null sets `end` to the last page that has no leaf for the same
  // reason; otherwise `end` is the last page in the leaf.
  [[nodiscard]] Leaf* find(uint64_t page, uint64_t& end) const;
  // Returns the place of a page's leaf in the table above it.
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
  uint64_t start = first;  // start of the run that isn't pinned
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
