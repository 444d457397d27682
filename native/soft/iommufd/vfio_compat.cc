// The requests of a VFIO container as /dev/iommu answers them, on the IOAS chosen by IOMMU_VFIO_IOAS. Where
// they differ from the real container (errors, holes in a mapping), they differ as the kernel's do.
#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "../../uapi/vfio_container.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "command.h"
#include "hwpt.h"
#include "iommufd.h"

namespace vfio::soft::iommufd {
namespace {

using mm::Memory;

int mapDma(Context& context, UserAddress user) {
  uapi::vfio_iommu_type1_dma_map map = {};
  if (Memory::copyIn(&map, user, sizeof(map)) != 0) return -EFAULT;
  constexpr uint32_t kFlags = uapi::VFIO_DMA_MAP_FLAG_READ | uapi::VFIO_DMA_MAP_FLAG_WRITE;
  if (map.argsz < sizeof(map) || (map.flags & ~kFlags) != 0) return -EINVAL;
  if (context.vfioIoas == nullptr) return -ENODEV;
  uint32_t access = iommu::kNoAccess;  // no rights at all are accepted here
  if ((map.flags & uapi::VFIO_DMA_MAP_FLAG_READ) != 0) access |= iommu::kRead;
  if ((map.flags & uapi::VFIO_DMA_MAP_FLAG_WRITE) != 0) access |= iommu::kWrite;
  return mapUser(context, context.vfioIoas->table, map.vaddr, map.size, access, true, map.iova);
}

int unmapDma(Context& context, UserAddress user) {
  uapi::vfio_iommu_type1_dma_unmap unmap = {};
  if (Memory::copyIn(&unmap, user, sizeof(unmap)) != 0) return -EFAULT;
  if (unmap.argsz < sizeof(unmap) || (unmap.flags & ~uapi::VFIO_DMA_UNMAP_FLAG_ALL) != 0) return -EINVAL;
  if (context.vfioIoas == nullptr) return -ENODEV;

  IoPagetable& table = context.vfioIoas->table;
  uint64_t unmapped = 0;
  int error = 0;
  if ((unmap.flags & uapi::VFIO_DMA_UNMAP_FLAG_ALL) != 0) {
    if (unmap.iova != 0 || unmap.size != 0) return -EINVAL;
    error = table.unmapAll(unmapped);
  } else {
    // TYPE1 promises that mappings can be cut; without large pages they can.
    if (!table.hugePages()) {
      error = table.cut(unmap.iova + unmap.size - 1);
      if (error == 0 && unmap.iova != 0) error = table.cut(unmap.iova - 1);
      if (error != 0) return error;
    }
    error = table.unmap(unmap.iova, unmap.size, unmapped);
  }
  unmap.size = unmapped;
  return Memory::copyOut(user, &unmap, sizeof(unmap)) != 0 ? -EFAULT : error;
}

int checkExtension(const Context& context, uint64_t extension) {
  switch (extension) {
    case uapi::VFIO_TYPE1_IOMMU:
    case uapi::VFIO_TYPE1v2_IOMMU:
    case uapi::VFIO_UNMAP_ALL:
      return context.noIommu ? 0 : 1;
    case uapi::VFIO_NOIOMMU_IOMMU:  // it only says how the kernel was built, as distributions do
      return 1;
    case uapi::VFIO_DMA_CC_IOMMU:
      if (context.vfioIoas == nullptr) return -ENODEV;
      return std::ranges::all_of(context.vfioIoas->hwpts,
                                 [](const PagingHwpt* hwpt) { return hwpt->enforcesCoherency; })
                 ? 1
                 : 0;
    default:
      return 0;
  }
}

int setIommu(Context& context, uint64_t type) {
  if (context.noIommu) {
    if (type != uapi::VFIO_NOIOMMU_IOMMU) return -EINVAL;
    return context.host.mayDoRawIo() ? 0 : -EPERM;
  }
  if (type != uapi::VFIO_TYPE1_IOMMU && type != uapi::VFIO_TYPE1v2_IOMMU) return -EINVAL;
  if (context.vfioIoas == nullptr) return -ENODEV;
  return type == uapi::VFIO_TYPE1_IOMMU ? context.vfioIoas->table.disableHugePages() : 0;
}

uint64_t pageSizes(const IoPagetable& table) {
  uint64_t sizes = UINT64_MAX;
  for (const iommu::Domain* domain : table.domains()) sizes &= domain->pageSizes();
  const uint64_t below = mm::pageSize() - 1;
  if ((sizes & below) != 0) sizes = (sizes & ~below) | mm::pageSize();
  return std::max(sizes, table.alignment());
}

// The two capabilities behind the struct: each writes as much as fits into `room` bytes and returns the size
// that it needs, or -EFAULT.
int64_t putDmaAvailable(UserAddress at, uint64_t room) {
  uapi::vfio_iommu_type1_info_dma_avail capability = {};
  capability.header.id = uapi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL;
  capability.header.version = 1;
  capability.avail = UINT32_MAX;
  if (room >= sizeof(capability) && Memory::copyOut(at, &capability, sizeof(capability)) != 0) return -EFAULT;
  return sizeof(capability);
}

int64_t putIovaRanges(const IoPagetable& table, UserAddress at, uint64_t room) {
  uapi::vfio_iommu_type1_info_cap_iova_range capability = {};
  capability.header.id = uapi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
  capability.header.version = 1;
  uint64_t size = sizeof(capability);
  const bool failed = table.forUsable([&](uint64_t start, uint64_t last) {
    const uapi::vfio_iova_range range = {start, last};
    const UserAddress slot = at + size;
    size += sizeof(range);
    ++capability.nr_iovas;
    return room >= size && Memory::copyOut(slot, &range, sizeof(range)) != 0;
  });
  if (failed) return -EFAULT;
  if (room >= size && Memory::copyOut(at, &capability, sizeof(capability)) != 0) return -EFAULT;
  return static_cast<int64_t>(size);
}

int getInfo(const Context& context, UserAddress user) {
  uapi::vfio_iommu_type1_info info = {};
  constexpr uint32_t kMinimum = uapi::vfio_iommu_type1_info_min;
  if (Memory::copyIn(&info, user, kMinimum) != 0) return -EFAULT;
  if (info.argsz < kMinimum) return -EINVAL;
  const size_t replied = std::min<size_t>(info.argsz, sizeof(info));
  if (context.vfioIoas == nullptr) return -ENODEV;
  const IoPagetable& table = context.vfioIoas->table;
  info.flags = uapi::VFIO_IOMMU_INFO_PGSIZES | uapi::VFIO_IOMMU_INFO_CAPS;
  info.iova_pgsizes = pageSizes(table);

  const auto room = [&info](uint64_t offset) { return info.argsz > offset ? info.argsz - offset : 0; };
  constexpr uint64_t kFirst = sizeof(info);
  const int64_t first = putDmaAvailable(user + kFirst, room(kFirst));
  if (first < 0) return static_cast<int>(first);
  const auto second = static_cast<uint32_t>(kFirst + (static_cast<uint64_t>(first) + 7) / 8 * 8);
  const int64_t rest = putIovaRanges(table, user + second, room(second));
  if (rest < 0) return static_cast<int>(rest);
  const UserAddress next = user + kFirst + offsetof(uapi::vfio_info_cap_header, next);
  if (info.argsz >= second && Memory::copyOut(next, &second, sizeof(second)) != 0) return -EFAULT;

  const auto needed = static_cast<uint32_t>(second + static_cast<uint64_t>(rest));
  info.cap_offset = info.argsz >= needed ? sizeof(info) : 0;
  info.argsz = needed;
  return Memory::copyOut(user, &info, replied);
}

}  // namespace

int vfioRequest(Context& context, uint32_t request, UserAddress argument) {
  switch (request) {
    case uapi::VFIO_GET_API_VERSION:
      return uapi::VFIO_API_VERSION;
    case uapi::VFIO_CHECK_EXTENSION:
      return checkExtension(context, argument);
    case uapi::VFIO_SET_IOMMU:
      return setIommu(context, argument);
    case uapi::VFIO_IOMMU_GET_INFO:
      return getInfo(context, argument);
    case uapi::VFIO_IOMMU_MAP_DMA:
      return mapDma(context, argument);
    case uapi::VFIO_IOMMU_UNMAP_DMA:
      return unmapDma(context, argument);
    default:
      return -ENOTTY;
  }
}

int makeCompatIoas(File& file) {
  auto& context = static_cast<Context&>(file);
  if (context.noIommu) return -EINVAL;
  if (context.vfioIoas != nullptr) return 0;
  Ioas* const ioas = context.objects.create<Ioas>(context.host.memory());
  if (ioas == nullptr) return -EBUSY;
  ObjectTable::publish(*ioas);
  context.vfioIoas = ioas;
  return 0;
}

int renounceCompatIoas(File& file) {
  auto& context = static_cast<Context&>(file);
  if (context.vfioIoas != nullptr) return -EINVAL;
  context.noIommu = true;
  return 0;
}

int compatIoas(const File& file, uint32_t& id) {
  const auto& context = static_cast<const Context&>(file);
  if (context.vfioIoas == nullptr) return -ENODEV;
  id = context.vfioIoas->id;
  return 0;
}

}  // namespace vfio::soft::iommufd
