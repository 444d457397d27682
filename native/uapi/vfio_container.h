// VFIO groups and containers: /dev/vfio/N, /dev/vfio/vfio and the type1 back end. /dev/iommu answers the
// container requests too, for its compatibility IOAS.
#pragma once

#include "layout.h"
#include "vfio_info.h"

namespace vfio::uapi {

inline constexpr uint32_t VFIO_API_VERSION = 0;

// What SET_IOMMU and CHECK_EXTENSION take, by value.
inline constexpr uint32_t VFIO_TYPE1_IOMMU = 1;
inline constexpr uint32_t VFIO_SPAPR_TCE_IOMMU = 2;
inline constexpr uint32_t VFIO_TYPE1v2_IOMMU = 3;
inline constexpr uint32_t VFIO_DMA_CC_IOMMU = 4;
inline constexpr uint32_t VFIO_EEH = 5;
inline constexpr uint32_t VFIO_TYPE1_NESTING_IOMMU = 6;  // until 6.12
inline constexpr uint32_t VFIO_SPAPR_TCE_v2_IOMMU = 7;
inline constexpr uint32_t VFIO_NOIOMMU_IOMMU = 8;
inline constexpr uint32_t VFIO_UNMAP_ALL = 9;      // ~5.12
inline constexpr uint32_t VFIO_UPDATE_VADDR = 10;  // ~5.12

inline constexpr uint32_t VFIO_GET_API_VERSION = request(VFIO_BASE + 0);
inline constexpr uint32_t VFIO_CHECK_EXTENSION = request(VFIO_BASE + 1);
inline constexpr uint32_t VFIO_SET_IOMMU = request(VFIO_BASE + 2);

// ---- group ----

inline constexpr uint32_t VFIO_GROUP_GET_STATUS = request(VFIO_BASE + 3);
inline constexpr uint32_t VFIO_GROUP_SET_CONTAINER = request(VFIO_BASE + 4);  // int32_t*; an iommufd from 6.2
inline constexpr uint32_t VFIO_GROUP_UNSET_CONTAINER = request(VFIO_BASE + 5);
inline constexpr uint32_t VFIO_GROUP_GET_DEVICE_FD = request(VFIO_BASE + 6);  // the device's name, a C string

inline constexpr uint32_t VFIO_GROUP_FLAGS_VIABLE = 1 << 0;
inline constexpr uint32_t VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1;

// ~3.6.
struct vfio_group_status {
  uint32_t argsz;
  uint32_t flags;
};
VFIO_UAPI_LAYOUT(vfio_group_status, 8, argsz, 0, flags, 4)

// ---- type1 ----

inline constexpr uint32_t VFIO_IOMMU_GET_INFO = request(VFIO_BASE + 12);
inline constexpr uint32_t VFIO_IOMMU_MAP_DMA = request(VFIO_BASE + 13);
inline constexpr uint32_t VFIO_IOMMU_UNMAP_DMA = request(VFIO_BASE + 14);
inline constexpr uint32_t VFIO_IOMMU_ENABLE = request(VFIO_BASE + 15);   // sPAPR
inline constexpr uint32_t VFIO_IOMMU_DISABLE = request(VFIO_BASE + 16);  // sPAPR
inline constexpr uint32_t VFIO_IOMMU_DIRTY_PAGES = request(VFIO_BASE + 17);

inline constexpr uint32_t VFIO_IOMMU_INFO_PGSIZES = 1 << 0;
inline constexpr uint32_t VFIO_IOMMU_INFO_CAPS = 1 << 1;

// ~3.6, grew ~5.4 (cap_offset).
struct vfio_iommu_type1_info {
  uint32_t argsz;
  uint32_t flags;
  uint64_t iova_pgsizes;
  uint32_t cap_offset;
  uint32_t pad;
};
inline constexpr uint32_t vfio_iommu_type1_info_min = 16;
VFIO_UAPI_LAYOUT(vfio_iommu_type1_info, 24, argsz, 0, flags, 4, iova_pgsizes, 8, cap_offset, 16, pad, 20)

inline constexpr uint32_t VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;  // ~5.4
inline constexpr uint32_t VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2;   // ~5.8
inline constexpr uint32_t VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3;       // ~5.10

// ~5.4. `end` belongs to the range.
struct vfio_iova_range {
  uint64_t start;
  uint64_t end;
};
VFIO_UAPI_LAYOUT(vfio_iova_range, 16, start, 0, end, 8)

// ~5.4. Then `nr_iovas` of vfio_iova_range.
struct vfio_iommu_type1_info_cap_iova_range {
  vfio_info_cap_header header;
  uint32_t nr_iovas;
  uint32_t reserved;
};
VFIO_UAPI_LAYOUT(vfio_iommu_type1_info_cap_iova_range, 16, header, 0, nr_iovas, 8, reserved, 12)

// ~5.8. The page sizes of dirty logging, a bitmap, and the most bytes that one bitmap may have.
struct vfio_iommu_type1_info_cap_migration {
  vfio_info_cap_header header;
  uint32_t flags;
  uint64_t pgsize_bitmap;
  uint64_t max_dirty_bitmap_size;
};
VFIO_UAPI_LAYOUT(vfio_iommu_type1_info_cap_migration, 32, header, 0, flags, 8, pgsize_bitmap, 16,
                 max_dirty_bitmap_size, 24)

// ~5.10. How many more mappings the container takes.
struct vfio_iommu_type1_info_dma_avail {
  vfio_info_cap_header header;
  uint32_t avail;
};
VFIO_UAPI_LAYOUT(vfio_iommu_type1_info_dma_avail, 12, header, 0, avail, 8)

inline constexpr uint32_t VFIO_DMA_MAP_FLAG_READ = 1 << 0;
inline constexpr uint32_t VFIO_DMA_MAP_FLAG_WRITE = 1 << 1;
inline constexpr uint32_t VFIO_DMA_MAP_FLAG_VADDR = 1 << 2;  // ~5.12

// ~3.6.
struct vfio_iommu_type1_dma_map {
  uint32_t argsz;
  uint32_t flags;
  uint64_t vaddr;
  uint64_t iova;
  uint64_t size;
};
VFIO_UAPI_LAYOUT(vfio_iommu_type1_dma_map, 32, argsz, 0, flags, 4, vaddr, 8, iova, 16, size, 24)

// ~5.8. `data` points to 64-bit words of `size` bytes in all, one bit per `pgsize`.
struct vfio_bitmap {
  uint64_t pgsize;
  uint64_t size;
  uint64_t data;
};
VFIO_UAPI_LAYOUT(vfio_bitmap, 24, pgsize, 0, size, 8, data, 16)

inline constexpr uint32_t VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0;  // ~5.8
inline constexpr uint32_t VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1;               // ~5.12
inline constexpr uint32_t VFIO_DMA_UNMAP_FLAG_VADDR = 1 << 2;             // ~5.12

// ~3.6. `size` returns the bytes that went. With GET_DIRTY_BITMAP a vfio_bitmap follows.
struct vfio_iommu_type1_dma_unmap {
  uint32_t argsz;
  uint32_t flags;
  uint64_t iova;
  uint64_t size;
};
VFIO_UAPI_LAYOUT(vfio_iommu_type1_dma_unmap, 24, argsz, 0, flags, 4, iova, 8, size, 16)

inline constexpr uint32_t VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1 << 0;
inline constexpr uint32_t VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 1 << 1;
inline constexpr uint32_t VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 1 << 2;

// ~5.8. With GET_BITMAP a vfio_iommu_type1_dirty_bitmap_get follows.
struct vfio_iommu_type1_dirty_bitmap {
  uint32_t argsz;
  uint32_t flags;
};
VFIO_UAPI_LAYOUT(vfio_iommu_type1_dirty_bitmap, 8, argsz, 0, flags, 4)

// ~5.8.
struct vfio_iommu_type1_dirty_bitmap_get {
  uint64_t iova;
  uint64_t size;
  vfio_bitmap bitmap;
};
VFIO_UAPI_LAYOUT(vfio_iommu_type1_dirty_bitmap_get, 40, iova, 0, size, 8, bitmap, 16)

}  // namespace vfio::uapi
