#include "dirty_bitmap.h"

#include <algorithm>

#include "../mm/memory.h"

namespace vfio::soft::type1 {

void DirtyBitmap::set(bool value) {
  const auto whole = static_cast<std::ptrdiff_t>(pages_ / 64);
  std::fill_n(words_.begin(), whole, value ? UINT64_MAX : 0);
  if (pages_ % 64 == 0) return;
  uint64_t& rest = words_[static_cast<size_t>(whole)];
  const uint64_t mask = (uint64_t{1} << pages_ % 64) - 1;
  rest = value ? rest | mask : rest & ~mask;
}

void DirtyBitmap::mark(uint64_t firstPage, uint64_t lastPage) {
  for (uint64_t page = firstPage; page <= lastPage; ++page) words_[page / 64] |= uint64_t{1} << page % 64;
}

int DirtyBitmap::report(UserAddress bitmap, uint64_t at, bool all) {
  if (all) set(true);
  const UserAddress to = bitmap + at / 64 * 8;
  const unsigned shift = at % 64;
  const uint64_t size = bytes(pages_ + shift);
  if (shift != 0) {
    for (size_t word = size / 8; word-- > 0;) {
      const uint64_t carried = word == 0 ? 0 : words_[word - 1] >> (64 - shift);
      words_[word] = words_[word] << shift | carried;
    }
    uint64_t before = 0;
    if (mm::Memory::copyIn(&before, to, sizeof before) != 0) return -EFAULT;
    words_[0] |= before;
  }
  return mm::Memory::copyOut(to, words_.data(), size);
}

}  // namespace vfio::soft::type1
