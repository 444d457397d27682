// Dirty tracking: which pages devices have written to, as a bitmap in the program's memory.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "../../uapi/iommufd.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "command.h"
#include "hwpt.h"
#include "ioas.h"

namespace vfio::soft::iommufd {
namespace {

// A bitmap of the program's: bit n stands for the pages from iova + n * page size. Bits are only ever set.
// Like the kernel, it passes over memory that can't be written: it reports no error.
class UserBitmap {
 public:
  explicit UserBitmap(const uapi::iommu_hwpt_get_dirty_bitmap& arguments)
      : user_(arguments.data),
        iova_(arguments.iova),
        last_(arguments.iova + (arguments.length - 1)),
        shift_(static_cast<unsigned>(std::countr_zero(arguments.page_size))) {}

  void set(uint64_t iova, uint64_t size) const {
    const uint64_t first = iova - iova_;
    const uint64_t last = std::min(size - 1, last_ - iova) + first;
    const uint64_t end = (last >> shift_) + 1;
    for (uint64_t bit = first >> shift_; bit != end;) {
      // The bits in one page of the bitmap.
      const uint64_t byte = user_ + bit / 8;
      const uint64_t pageBits = (mm::pageSize() - byte % mm::pageSize()) * 8 - bit % 8;
      const uint64_t count = std::min(end - bit, pageBits);
      setInPage(byte, static_cast<unsigned>(bit % 8), count);
      bit += count;
    }
  }

  [[nodiscard]] bool writable() const {
    uint8_t byte = 0;
    return mm::Memory::copyIn(&byte, user_, 1) == 0 && mm::Memory::copyOut(user_, &byte, 1) == 0;
  }

 private:
  static void setInPage(uint64_t user, unsigned offset, uint64_t count) {
    uint8_t bytes[4096];
    const size_t size = (offset + count + 7) / 8;
    if (size > sizeof(bytes)) {  // pages may be larger here
      const uint64_t half = (count / 2 + 7) / 8 * 8 - offset;
      setInPage(user, offset, half);
      setInPage(user + (offset + half) / 8, 0, count - half);
      return;
    }
    if (mm::Memory::copyIn(bytes, user, size) != 0) return;
    for (uint64_t bit = offset; bit < offset + count; ++bit) {
      bytes[bit / 8] = static_cast<uint8_t>(bytes[bit / 8] | 1U << bit % 8);
    }
    (void)mm::Memory::copyOut(user, bytes, size);
  }

  uint64_t user_;
  uint64_t iova_;
  uint64_t last_;
  unsigned shift_;
};

int checkRange(const uapi::iommu_hwpt_get_dirty_bitmap& arguments, uint64_t alignment) {
  if (arguments.length == 0) return -EINVAL;
  const uint64_t last = arguments.iova + (arguments.length - 1);
  if (last < arguments.iova) return -EOVERFLOW;
  if (((arguments.iova | (last + 1)) & (alignment - 1)) != 0) return -EINVAL;
  if (arguments.page_size == 0) return -EINVAL;
  return ((arguments.iova | (last + 1)) & (arguments.page_size - 1)) == 0 ? 0 : -EINVAL;
}

}  // namespace

int hwptSetDirtyTracking(Command& command) {
  const auto& arguments = command.as<uapi::iommu_hwpt_set_dirty_tracking>();
  if ((arguments.flags & ~uapi::IOMMU_HWPT_DIRTY_TRACKING_ENABLE) != 0) return -EOPNOTSUPP;
  const PagingHwpt* const hwpt = command.context.objects.find<PagingHwpt>(arguments.hwpt_id);
  if (hwpt == nullptr) return -ENOENT;
  if (!hwpt->domain->offersDirtyTracking()) return -EOPNOTSUPP;
  hwpt->domain->setDirtyTracking((arguments.flags & uapi::IOMMU_HWPT_DIRTY_TRACKING_ENABLE) != 0);
  return 0;
}

int hwptGetDirtyBitmap(Command& command) {
  const auto& arguments = command.as<uapi::iommu_hwpt_get_dirty_bitmap>();
  constexpr uint32_t kNoClear = uapi::IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;
  if ((arguments.flags & ~kNoClear) != 0 || arguments.__reserved != 0) return -EOPNOTSUPP;
  const PagingHwpt* const hwpt = command.context.objects.find<PagingHwpt>(arguments.hwpt_id);
  if (hwpt == nullptr) return -ENOENT;
  const IoPagetable& table = hwpt->ioas.table;
  if (const int error = checkRange(arguments, table.alignment()); error != 0) return error;
  iommu::Domain& domain = *hwpt->domain;
  if (!domain.offersDirtyTracking()) return -EOPNOTSUPP;

  const UserBitmap bitmap(arguments);
  // Until 6.12 the bitmap was pinned up front.
  if (!command.context.host.since(6, 12) && !bitmap.writable()) return -ENOMEM;
  if (!domain.dirtyTracking()) return 0;
  // Goes from the start to the first hole; the hole is not reported.
  const bool clear = (arguments.flags & kNoClear) == 0;
  table.forMapped(arguments.iova, arguments.iova + (arguments.length - 1),
                  [&](uint64_t start, uint64_t last) {
                    domain.collectDirty(start, last - start + 1, clear,
                                        [&bitmap](uint64_t iova, uint64_t size) { bitmap.set(iova, size); });
                  });
  return 0;
}

}  // namespace vfio::soft::iommufd
