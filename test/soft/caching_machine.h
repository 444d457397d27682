// A machine whose edu is behind a unit with a cache (caching_model.h): VT-d with all features, or SMMUv3.
#pragma once

#include "../../native/soft/type1/type1.h"
#include "caching_model.h"
#include "viommu_harness.h"

namespace vfio::soft::check {

inline iommu::Unit cachingVtd(const CachingModel& model) {
  return iommu::makeUnit({.model = &model,
                          .pasidBits = 20,
                          .pageRequests = iommu::PageRequestKind::pri,
                          .nesting = {{model.format()}},
                          .dirtyTracking = true});
}

constexpr uint32_t kParentFlag = uapi::IOMMU_HWPT_ALLOC_NEST_PARENT;
constexpr uint32_t kTracksFlag = uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
constexpr uint32_t kPasidFlag = uapi::IOMMU_HWPT_ALLOC_PASID;

inline int track(Fd& fd, uint32_t hwpt, bool on) {
  uapi::iommu_hwpt_set_dirty_tracking set = {sizeof(set), on ? 1U : 0U, hwpt, 0};
  return fd.call(uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, set);
}

inline int takeBitmap(Fd& fd, uint32_t hwpt, uint64_t iova, uint64_t length, bool clear) {
  uint64_t bits[16] = {};
  uapi::iommu_hwpt_get_dirty_bitmap get = {sizeof(get),
                                           hwpt,
                                           clear ? 0 : uapi::IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
                                           0,
                                           iova,
                                           length,
                                           kPage,
                                           reinterpret_cast<uint64_t>(bits)};
  return fd.call(uapi::IOMMU_HWPT_GET_DIRTY_BITMAP, get);
}

// Allocates a page table for a guest's VT-d table of four levels. `root` is its address in the parent.
inline int vtdTable(Fd& fd, uint32_t device, uint32_t parent, uint64_t root, uint32_t& id) {
  uapi::iommu_hwpt_vtd_s1 config = {0, root, 48, 0};
  uapi::iommu_hwpt_alloc alloc = {};
  alloc.size = sizeof(alloc);
  alloc.flags = kPasidFlag;
  alloc.dev_id = device;
  alloc.pt_id = parent;
  alloc.data_type = uapi::IOMMU_HWPT_DATA_VTD_S1;
  alloc.data_len = sizeof(config);
  alloc.data_uptr = reinterpret_cast<uint64_t>(&config);
  const int result = fd.call(uapi::IOMMU_HWPT_ALLOC, alloc);
  id = alloc.out_hwpt_id;
  return result;
}

template <class Entry>
int invalidateBy(Fd& fd, uint32_t object, uint32_t type, const Entry& entry) {
  uapi::iommu_hwpt_invalidate call = {
      sizeof(call), object, reinterpret_cast<uint64_t>(&entry), type, sizeof(entry), 1, 0};
  return fd.call(uapi::IOMMU_HWPT_INVALIDATE, call);
}
inline int vtdInvalidate(Fd& fd, uint32_t nested, uint64_t address, uint64_t pages) {
  return invalidateBy(fd, nested, uapi::IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
                      uapi::iommu_hwpt_vtd_s1_invalidate{address, pages, 0, 0});
}
inline int smmuInvalidate(Fd& fd, uint32_t viommu, uint64_t word0, uint64_t word1) {
  return invalidateBy(fd, viommu, uapi::IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
                      uapi::iommu_viommu_arm_smmuv3_invalidate{{word0, word1}});
}

// A type1 container, without an open file.
class Container {
 public:
  explicit Container(Services& host) : type1(host, uapi::VFIO_TYPE1v2_IOMMU) {}
  int map(uint64_t iova, uint64_t user, uint64_t size, uint32_t access) {
    uapi::vfio_iommu_type1_dma_map call = {sizeof(call), access, user, iova, size};
    return type1.ioctl(uapi::VFIO_IOMMU_MAP_DMA, reinterpret_cast<uint64_t>(&call));
  }
  int unmap(uint64_t iova, uint64_t size) {
    uapi::vfio_iommu_type1_dma_unmap call = {sizeof(call), 0, iova, size};
    return type1.ioctl(uapi::VFIO_IOMMU_UNMAP_DMA, reinterpret_cast<uint64_t>(&call));
  }
  type1::Type1 type1;
};

}  // namespace vfio::soft::check
