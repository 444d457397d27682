// The dirty bits of one mapping, a bit per page of the smallest size.
//
// Devices behind an IOMMU can write to all memory that is mapped, and this back end does not look for dirty
// bits in page tables. So every report shows all of that memory as dirty. For mediated devices, their driver
// knows what they wrote. A bitmap is needed because reports of neighbouring mappings share words of the
// program's bitmap: the kernel shifts and merges the bits in its own copy. The bits that this leaves after
// the last page's bit appear in later reports.
//
// Life: owned by a mapping. Made when tracking starts, or with a mapping that is made during tracking;
// destroyed when tracking stops, or with the mapping.
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
  // Writes the bits into the program's bitmap, from bit `at` on; with `all`, sets all of them first. Returns
  // 0 or -EFAULT.
  [[nodiscard]] int report(UserAddress bitmap, uint64_t at, bool all);
  // Clears the bits, after a report.
  void clear() { set(false); }

 private:
  void set(bool value);

  uint64_t pages_;
  std::vector<uint64_t> words_;
};

}  // namespace vfio::soft::type1
