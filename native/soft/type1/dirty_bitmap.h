// The dirty bits of one mapping, a bit per page of the smallest size.
//
// Devices behind an IOMMU can write to all that is mapped, and nobody asks the page tables here: all of it is
// dirty whenever somebody asks. Of mediated devices their driver knows what they wrote. What makes it worth a
// bitmap is how reports of neighbouring mappings go into the same words of the program's: the kernel shifts
// and merges in its own copy, and what that leaves behind the last bit shows in later reports.
//
// Life: a mapping's, from the start of tracking (or from its own) to the end of either.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/file.h"

namespace vfio::soft::type1 {

class DirtyBitmap {
 public:
  static constexpr uint64_t kMostPages = INT32_MAX;
  static constexpr uint64_t kMostBytes = uint64_t{1} << 28;
  [[nodiscard]] static uint64_t bytes(uint64_t bits) { return (bits / 64 + (bits % 64 != 0 ? 1 : 0)) * 8; }

  explicit DirtyBitmap(uint64_t pages) : pages_(pages), words_(bytes(pages) / 8 + 1) {}

  void mark(uint64_t firstPage, uint64_t lastPage);
  // Writes the bits, with `all` all set, into the program's bitmap from bit `at` on: 0 or -EFAULT.
  [[nodiscard]] int report(UserAddress bitmap, uint64_t at, bool all);
  // Forgets them, once they are reported.
  void clear() { set(false); }

 private:
  void set(bool value);

  uint64_t pages_;
  std::vector<uint64_t> words_;
};

}  // namespace vfio::soft::type1
