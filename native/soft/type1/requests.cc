// See type1.h. The requests of a container with this back end: decodes and checks their structs, in the
// kernel's order.
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "../../uapi/vfio_container.h"
#include "../core/services.h"
#include "type1.h"

namespace vfio::soft::type1 {

using namespace uapi;
using mm::Memory;

namespace {

// Can this range be memory of a program at all? For a bitmap, this check comes before all others.
bool isUserRange(uint64_t address, uint64_t size) {
  constexpr uint64_t kEnd = (uint64_t{1} << 47) - 4096;
  return address + size >= address && address + size <= kEnd;
}

int checkBitmap(uint64_t range, const vfio_bitmap& bitmap) {
  if (!isUserRange(bitmap.data, bitmap.size)) return -EINVAL;
  // With a page size of 0, the processor shifts by 0 bits.
  const uint64_t pages = bitmap.pgsize == 0 ? range : range >> std::countr_zero(bitmap.pgsize);
  if (pages == 0 || bitmap.size == 0 || bitmap.size > DirtyBitmap::kMostBytes) return -EINVAL;
  return bitmap.size < DirtyBitmap::bytes(pages) ? -EINVAL : 0;
}

// The capabilities of GET_INFO, one after the other. Made and destroyed within one call.
class Chain {
 public:
  // `fill` receives the capability with its header set and all other bytes zero, padding included.
  template <class Capability, class Fill>
  void add(uint16_t id, const Fill& fill) {
    Capability capability;
    std::memset(&capability, 0, sizeof capability);
    const size_t at = start(id, capability.header);
    fill(capability);
    bytes_.resize(at + sizeof capability);
    std::memcpy(bytes_.data() + at, &capability, sizeof capability);
  }
  void append(const vfio_iova_range& range) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof range);
    std::memcpy(bytes_.data() + at, &range, sizeof range);
  }
  // The bytes that the program receives after the struct.
  [[nodiscard]] const std::vector<unsigned char>& finish() {
    align();
    return bytes_;
  }

 private:
  void align() { bytes_.resize((bytes_.size() + 7) / 8 * 8); }
  size_t start(uint16_t id, vfio_info_cap_header& header) {
    align();
    const auto next = static_cast<uint32_t>(sizeof(vfio_iommu_type1_info) + bytes_.size());
    if (!bytes_.empty()) {
      std::memcpy(bytes_.data() + last_ + offsetof(vfio_info_cap_header, next), &next, sizeof next);
    }
    last_ = bytes_.size();
    header = {.id = id, .version = 1, .next = 0};
    return last_;
  }

  std::vector<unsigned char> bytes_;
  size_t last_ = 0;
};

}  // namespace

int Type1::ioctl(uint32_t request, UserAddress argument) {
  switch (request) {
    case VFIO_CHECK_EXTENSION:
      return checkExtension(argument);
    case VFIO_IOMMU_GET_INFO:
      return getInfo(argument);
    case VFIO_IOMMU_MAP_DMA:
      return mapDma(argument);
    case VFIO_IOMMU_UNMAP_DMA:
      return unmapDma(argument);
    case VFIO_IOMMU_DIRTY_PAGES:
      return dirtyPages(argument);
    default:
      return -ENOTTY;
  }
}

int Type1::checkExtension(const Services& host, uint64_t extension) {
  switch (extension) {
    case VFIO_TYPE1_IOMMU:
    case VFIO_TYPE1v2_IOMMU:
    case VFIO_UNMAP_ALL:
      return 1;
    case VFIO_TYPE1_NESTING_IOMMU:
      return host.since(6, 13) ? 0 : 1;
    default:
      return 0;
  }
}

int Type1::checkExtension(uint64_t extension) const {
  switch (extension) {
    case VFIO_UPDATE_VADDR:
      return mediated_.empty() ? 1 : 0;
    case VFIO_DMA_CC_IOMMU:
      for (const Table& table : tables_) {
        if (!table.enforcesCoherency) return 0;
      }
      return 1;
    default:
      return checkExtension(host_, extension);
  }
}

int Type1::getInfo(UserAddress argument) const {
  vfio_iommu_type1_info info = {};
  constexpr uint32_t least = vfio_iommu_type1_info_min;
  if (Memory::copyIn(&info, argument, least) != 0) return -EFAULT;
  if (info.argsz < least) return -EINVAL;
  const size_t replied = std::min<size_t>(info.argsz, sizeof info);
  info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
  info.iova_pgsizes = pageSizes();

  Chain chain;
  using Migration = vfio_iommu_type1_info_cap_migration;
  using Available = vfio_iommu_type1_info_dma_avail;
  using Iovas = vfio_iommu_type1_info_cap_iova_range;
  chain.add<Migration>(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, [this](Migration& migration) {
    migration.pgsize_bitmap = smallestPage();
    migration.max_dirty_bitmap_size = DirtyBitmap::kMostBytes;
  });
  chain.add<Available>(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, [this](Available& available) {
    available.avail = mostMappings_ - static_cast<uint32_t>(mappings_.size());
  });
  if (!ranges_.empty()) {
    chain.add<Iovas>(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
                     [this](Iovas& iovas) { iovas.nr_iovas = static_cast<uint32_t>(ranges_.list().size()); });
  }
  for (const iommu::Range& range : ranges_.list()) chain.append({range.start, range.last});
  const auto& bytes = chain.finish();
  const auto needed = static_cast<uint32_t>(sizeof info + bytes.size());
  if (info.argsz < needed) {
    info.argsz = needed;
  } else {
    if (Memory::copyOut(argument + sizeof info, bytes.data(), bytes.size()) != 0) return -EFAULT;
    info.cap_offset = sizeof info;
  }
  return Memory::copyOut(argument, &info, replied);
}

int Type1::mapDma(UserAddress argument) {
  vfio_iommu_type1_dma_map request = {};
  if (Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  constexpr uint32_t rights = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
  if (request.argsz < sizeof request || (request.flags & ~(rights | VFIO_DMA_MAP_FLAG_VADDR)) != 0) {
    return -EINVAL;
  }
  const bool newAddress = (request.flags & VFIO_DMA_MAP_FLAG_VADDR) != 0;
  if (newAddress == ((request.flags & rights) != 0)) return -EINVAL;
  const auto& [argsz, flags, vaddr, iova, size] = request;
  if (size == 0 || ((size | iova | vaddr) & (smallestPage() - 1)) != 0) return -EINVAL;
  if (iova + (size - 1) < iova || vaddr + (size - 1) < vaddr) return -EINVAL;
  if (newAddress) return moveTo(iova, size);
  if (find(iova, iova + (size - 1)) != nullptr) return -EEXIST;
  uint32_t access = 0;
  if ((flags & VFIO_DMA_MAP_FLAG_READ) != 0) access |= iommu::kRead;
  if ((flags & VFIO_DMA_MAP_FLAG_WRITE) != 0) access |= iommu::kWrite;
  return map(vaddr, iova, size, access);
}

int Type1::unmapDma(UserAddress argument) {
  vfio_iommu_type1_dma_unmap request = {};
  if (Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  const bool all = (request.flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0;
  const bool address = (request.flags & VFIO_DMA_UNMAP_FLAG_VADDR) != 0;
  const bool dirty = (request.flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) != 0;
  constexpr uint32_t known =
      VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR;
  if (request.argsz < sizeof request || (request.flags & ~known) != 0) return -EINVAL;
  if (dirty && (all || address)) return -EINVAL;
  vfio_bitmap bitmap = {};
  if (dirty) {
    if (request.argsz < sizeof request + sizeof bitmap) return -EINVAL;
    if (Memory::copyIn(&bitmap, argument + sizeof request, sizeof bitmap) != 0) return -EFAULT;
    if (const int error = checkBitmap(request.size, bitmap)) return error;
  }
  // The driver of a mediated device may be using the address.
  if (address && !mediated_.empty()) return -EBUSY;
  const uint64_t page = smallestPage();
  uint64_t size = request.size;
  if ((request.iova & (page - 1)) != 0) return -EINVAL;
  if (all) {
    if (request.iova != 0 || size != 0) return -EINVAL;
    size = UINT64_MAX;
  } else if (size == 0 || (size & (page - 1)) != 0 || request.iova + (size - 1) < request.iova) {
    return -EINVAL;
  }
  if (dirty && (!tracking_ || bitmap.pgsize != page)) return -EINVAL;
  uint64_t done = 0;
  const int error = address ? dropAddresses(request.iova, size, all, done)
                            : unmap(request.iova, size, all, dirty ? &bitmap : nullptr, done);
  if (error != 0) return error;
  request.size = done;
  return Memory::copyOut(argument, &request, sizeof request);
}

int Type1::dirtyPages(UserAddress argument) {
  if (!v2_) return -EACCES;
  vfio_iommu_type1_dirty_bitmap request = {};
  if (Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  if (request.argsz < sizeof request) return -EINVAL;
  switch (request.flags) {
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_START:
      return startTracking();
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP:
      stopTracking();
      return 0;
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
      return dirtyBitmap(argument + sizeof request, request.argsz - static_cast<uint32_t>(sizeof request));
    default:
      return -EINVAL;
  }
}

int Type1::dirtyBitmap(UserAddress argument, uint32_t size) {
  vfio_iommu_type1_dirty_bitmap_get range = {};
  if (size < sizeof range) return -EINVAL;
  if (Memory::copyIn(&range, argument, sizeof range) != 0) return -EFAULT;
  if (range.iova + range.size < range.iova) return -EINVAL;
  if (const int error = checkBitmap(range.size, range.bitmap)) return error;
  const uint64_t page = smallestPage();
  if (range.bitmap.pgsize != page) return -EINVAL;
  if ((range.iova & (page - 1)) != 0 || range.size == 0 || (range.size & (page - 1)) != 0) return -EINVAL;
  return tracking_ ? collectDirty(range.iova, range.size, range.bitmap.data) : -EINVAL;
}

}  // namespace vfio::soft::type1
