// /dev/iommu: requests 0x80-0x95 and the structs they take.
//
// Every struct starts with `size`, what the caller built with. Smaller than the minimum is EINVAL; a larger
// one must be zero past the end the kernel knows (E2BIG); a missing tail reads as zero. Ids begin at 1 and
// all kinds of objects of one open file share them. What drivers and fault or event files exchange is in
// iommufd_data.h.
#pragma once

#include "iommufd_data.h"
#include "layout.h"

namespace vfio::uapi {

inline constexpr uint32_t IOMMUFD_TYPE = ';';

inline constexpr uint32_t IOMMU_DESTROY = request(0x80);
inline constexpr uint32_t IOMMU_IOAS_ALLOC = request(0x81);
inline constexpr uint32_t IOMMU_IOAS_ALLOW_IOVAS = request(0x82);
inline constexpr uint32_t IOMMU_IOAS_COPY = request(0x83);
inline constexpr uint32_t IOMMU_IOAS_IOVA_RANGES = request(0x84);
inline constexpr uint32_t IOMMU_IOAS_MAP = request(0x85);
inline constexpr uint32_t IOMMU_IOAS_UNMAP = request(0x86);
inline constexpr uint32_t IOMMU_OPTION = request(0x87);
inline constexpr uint32_t IOMMU_VFIO_IOAS = request(0x88);
inline constexpr uint32_t IOMMU_HWPT_ALLOC = request(0x89);
inline constexpr uint32_t IOMMU_GET_HW_INFO = request(0x8a);
inline constexpr uint32_t IOMMU_HWPT_SET_DIRTY_TRACKING = request(0x8b);
inline constexpr uint32_t IOMMU_HWPT_GET_DIRTY_BITMAP = request(0x8c);
inline constexpr uint32_t IOMMU_HWPT_INVALIDATE = request(0x8d);
inline constexpr uint32_t IOMMU_FAULT_QUEUE_ALLOC = request(0x8e);
inline constexpr uint32_t IOMMU_IOAS_MAP_FILE = request(0x8f);
inline constexpr uint32_t IOMMU_VIOMMU_ALLOC = request(0x90);
inline constexpr uint32_t IOMMU_VDEVICE_ALLOC = request(0x91);
inline constexpr uint32_t IOMMU_IOAS_CHANGE_PROCESS = request(0x92);
inline constexpr uint32_t IOMMU_VEVENTQ_ALLOC = request(0x93);
inline constexpr uint32_t IOMMU_HW_QUEUE_ALLOC = request(0x94);
inline constexpr uint32_t IOMMU_IOAS_NOIOMMU_GET_PA = request(0x95);

// ---- any object ----

// 6.2. `id` is an object of any kind that nothing uses.
struct iommu_destroy {
  uint32_t size;
  uint32_t id;
};
VFIO_UAPI_LAYOUT(iommu_destroy, 8, size, 0, id, 4)

// ---- address spaces ----

// 6.2. `flags` is 0.
struct iommu_ioas_alloc {
  uint32_t size;
  uint32_t flags;
  uint32_t out_ioas_id;
};
VFIO_UAPI_LAYOUT(iommu_ioas_alloc, 12, size, 0, flags, 4, out_ioas_id, 8)

// 6.2. An element of the two arrays below; `last` belongs to the range.
struct iommu_iova_range {
  uint64_t start;
  uint64_t last;
};
VFIO_UAPI_LAYOUT(iommu_iova_range, 16, start, 0, last, 8)

// 6.2. `allowed_iovas` points to `num_iovas` slots of iommu_iova_range; the reply counts the ranges that
// exist, with EMSGSIZE when the slots were too few.
struct iommu_ioas_iova_ranges {
  uint32_t size;
  uint32_t ioas_id;
  uint32_t num_iovas;
  uint32_t __reserved;
  uint64_t allowed_iovas;
  uint64_t out_iova_alignment;
};
VFIO_UAPI_LAYOUT(iommu_ioas_iova_ranges, 32, size, 0, ioas_id, 4, num_iovas, 8, __reserved, 12, allowed_iovas,
                 16, out_iova_alignment, 24)

// 6.2. `allowed_iovas` points to `num_iovas` entries of iommu_iova_range, which replace the list; 0 clears
// it.
struct iommu_ioas_allow_iovas {
  uint32_t size;
  uint32_t ioas_id;
  uint32_t num_iovas;
  uint32_t __reserved;
  uint64_t allowed_iovas;
};
VFIO_UAPI_LAYOUT(iommu_ioas_allow_iovas, 24, size, 0, ioas_id, 4, num_iovas, 8, __reserved, 12, allowed_iovas,
                 16)

// Flags of MAP, MAP_FILE and COPY; readable and writeable are the device's view.
inline constexpr uint32_t IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0;
inline constexpr uint32_t IOMMU_IOAS_MAP_WRITEABLE = 1 << 1;
inline constexpr uint32_t IOMMU_IOAS_MAP_READABLE = 1 << 2;

// 6.2. `iova` is an input with FIXED_IOVA, and always an output.
struct iommu_ioas_map {
  uint32_t size;
  uint32_t flags;
  uint32_t ioas_id;
  uint32_t __reserved;
  uint64_t user_va;
  uint64_t length;
  uint64_t iova;
};
VFIO_UAPI_LAYOUT(iommu_ioas_map, 40, size, 0, flags, 4, ioas_id, 8, __reserved, 12, user_va, 16, length, 24,
                 iova, 32)

// 6.13. `fd` is a memfd, or from 6.19 a dma-buf that VFIO exported; `start` counts bytes in it.
struct iommu_ioas_map_file {
  uint32_t size;
  uint32_t flags;
  uint32_t ioas_id;
  int32_t fd;
  uint64_t start;
  uint64_t length;
  uint64_t iova;
};
VFIO_UAPI_LAYOUT(iommu_ioas_map_file, 40, size, 0, flags, 4, ioas_id, 8, fd, 12, start, 16, length, 24, iova,
                 32)

// 6.2. The memory is shared with the source: pinned and charged once.
struct iommu_ioas_copy {
  uint32_t size;
  uint32_t flags;
  uint32_t dst_ioas_id;
  uint32_t src_ioas_id;
  uint64_t length;
  uint64_t dst_iova;
  uint64_t src_iova;
};
VFIO_UAPI_LAYOUT(iommu_ioas_copy, 40, size, 0, flags, 4, dst_ioas_id, 8, src_ioas_id, 12, length, 16,
                 dst_iova, 24, src_iova, 32)

// 6.2. `length` returns the bytes that went; iova 0 with length 2^64-1 stands for everything.
struct iommu_ioas_unmap {
  uint32_t size;
  uint32_t ioas_id;
  uint64_t iova;
  uint64_t length;
};
VFIO_UAPI_LAYOUT(iommu_ioas_unmap, 24, size, 0, ioas_id, 4, iova, 8, length, 16)

// 6.13. Moves the charge of file mappings to the calling process.
struct iommu_ioas_change_process {
  uint32_t size;
  uint32_t __reserved;
};
VFIO_UAPI_LAYOUT(iommu_ioas_change_process, 8, size, 0, __reserved, 4)

// 7.3. `length` is an upper bound going in and the contiguous bytes at `out_phys` coming out.
struct iommu_ioas_noiommu_get_pa {
  uint32_t size;
  uint32_t flags;
  uint32_t ioas_id;
  uint32_t __reserved;
  uint64_t iova;
  uint64_t length;
  uint64_t out_phys;
};
VFIO_UAPI_LAYOUT(iommu_ioas_noiommu_get_pa, 40, size, 0, flags, 4, ioas_id, 8, __reserved, 12, iova, 16,
                 length, 24, out_phys, 32)

// ---- options ----

inline constexpr uint32_t IOMMU_OPTION_RLIMIT_MODE = 0;
inline constexpr uint32_t IOMMU_OPTION_HUGE_PAGES = 1;
inline constexpr uint32_t IOMMU_OPTION_OP_SET = 0;
inline constexpr uint32_t IOMMU_OPTION_OP_GET = 1;

// 6.2. `object_id` is 0 for RLIMIT_MODE and an IOAS for HUGE_PAGES. Only `val64` is written back.
struct iommu_option {
  uint32_t size;
  uint32_t option_id;
  uint16_t op;
  uint16_t __reserved;
  uint32_t object_id;
  uint64_t val64;
};
VFIO_UAPI_LAYOUT(iommu_option, 24, size, 0, option_id, 4, op, 8, __reserved, 10, object_id, 12, val64, 16)

inline constexpr uint32_t IOMMU_VFIO_IOAS_GET = 0;
inline constexpr uint32_t IOMMU_VFIO_IOAS_SET = 1;
inline constexpr uint32_t IOMMU_VFIO_IOAS_CLEAR = 2;

// 6.2. The IOAS behind the container requests that /dev/iommu answers.
struct iommu_vfio_ioas {
  uint32_t size;
  uint32_t ioas_id;
  uint16_t op;
  uint16_t __reserved;
};
VFIO_UAPI_LAYOUT(iommu_vfio_ioas, 12, size, 0, ioas_id, 4, op, 8, __reserved, 10)

// ---- page tables ----

inline constexpr uint32_t IOMMU_HWPT_ALLOC_NEST_PARENT = 1 << 0;     // 6.7
inline constexpr uint32_t IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 1 << 1;  // 6.7
inline constexpr uint32_t IOMMU_HWPT_FAULT_ID_VALID = 1 << 2;        // 6.11
inline constexpr uint32_t IOMMU_HWPT_ALLOC_PASID = 1 << 3;           // 6.15

// 6.6, grew in 6.7 (data) and 6.11 (fault_id). `pt_id` is an IOAS, a nest parent or, from 6.13, a vIOMMU.
struct iommu_hwpt_alloc {
  uint32_t size;
  uint32_t flags;
  uint32_t dev_id;
  uint32_t pt_id;
  uint32_t out_hwpt_id;
  uint32_t __reserved;
  uint32_t data_type;
  uint32_t data_len;
  uint64_t data_uptr;
  uint32_t fault_id;
  uint32_t __reserved2;
};
inline constexpr uint32_t iommu_hwpt_alloc_min = 24;
VFIO_UAPI_LAYOUT(iommu_hwpt_alloc, 48, size, 0, flags, 4, dev_id, 8, pt_id, 12, out_hwpt_id, 16, __reserved,
                 20, data_type, 24, data_len, 28, data_uptr, 32, fault_id, 40, __reserved2, 44)

inline constexpr uint32_t IOMMU_HW_INFO_FLAG_INPUT_TYPE = 1 << 0;  // 6.17

inline constexpr uint32_t IOMMU_HW_CAP_DIRTY_TRACKING = 1 << 0;         // 6.7
inline constexpr uint32_t IOMMU_HW_CAP_PCI_PASID_EXEC = 1 << 1;         // 6.15
inline constexpr uint32_t IOMMU_HW_CAP_PCI_PASID_PRIV = 1 << 2;         // 6.15
inline constexpr uint32_t IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 1 << 3;  // 7.1

// 6.6, grew in 6.7 (out_capabilities); out_max_pasid_log2 6.15, in_data_type 6.17. `data_len` returns the
// bytes that the kernel has, even when the buffer was shorter.
struct iommu_hw_info {
  uint32_t size;
  uint32_t flags;
  uint32_t dev_id;
  uint32_t data_len;
  uint64_t data_uptr;
  union {
    uint32_t in_data_type;
    uint32_t out_data_type;
  };
  uint8_t out_max_pasid_log2;
  uint8_t __reserved[3];
  uint64_t out_capabilities;
};
inline constexpr uint32_t iommu_hw_info_min = 32;
VFIO_UAPI_LAYOUT(iommu_hw_info, 40, size, 0, flags, 4, dev_id, 8, data_len, 12, data_uptr, 16, in_data_type,
                 24, out_data_type, 24, out_max_pasid_log2, 28, __reserved, 29, out_capabilities, 32)

inline constexpr uint32_t IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1;

// 6.7. Enabling clears all bits first.
struct iommu_hwpt_set_dirty_tracking {
  uint32_t size;
  uint32_t flags;
  uint32_t hwpt_id;
  uint32_t __reserved;
};
VFIO_UAPI_LAYOUT(iommu_hwpt_set_dirty_tracking, 16, size, 0, flags, 4, hwpt_id, 8, __reserved, 12)

inline constexpr uint32_t IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1;

// 6.7. `data` points to 64-bit words; bit n stands for iova + n * page_size and is only ever set.
struct iommu_hwpt_get_dirty_bitmap {
  uint32_t size;
  uint32_t hwpt_id;
  uint32_t flags;
  uint32_t __reserved;
  uint64_t iova;
  uint64_t length;
  uint64_t page_size;
  uint64_t data;
};
VFIO_UAPI_LAYOUT(iommu_hwpt_get_dirty_bitmap, 48, size, 0, hwpt_id, 4, flags, 8, __reserved, 12, iova, 16,
                 length, 24, page_size, 32, data, 40)

// 6.8. `data_uptr` points to `entry_num` entries of `entry_len` bytes; entry_num returns how many were
// handled.
struct iommu_hwpt_invalidate {
  uint32_t size;
  uint32_t hwpt_id;
  uint64_t data_uptr;
  uint32_t data_type;
  uint32_t entry_len;
  uint32_t entry_num;
  uint32_t __reserved;
};
VFIO_UAPI_LAYOUT(iommu_hwpt_invalidate, 32, size, 0, hwpt_id, 4, data_uptr, 8, data_type, 16, entry_len, 20,
                 entry_num, 24, __reserved, 28)

// ---- faults, virtual IOMMUs, events, queues ----

// 6.11. The file reads iommu_hwpt_pgfault and takes iommu_hwpt_page_response.
struct iommu_fault_alloc {
  uint32_t size;
  uint32_t flags;
  uint32_t out_fault_id;
  uint32_t out_fault_fd;
};
VFIO_UAPI_LAYOUT(iommu_fault_alloc, 16, size, 0, flags, 4, out_fault_id, 8, out_fault_fd, 12)

inline constexpr uint32_t IOMMU_VIOMMU_TYPE_DEFAULT = 0;
inline constexpr uint32_t IOMMU_VIOMMU_TYPE_ARM_SMMUV3 = 1;
inline constexpr uint32_t IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = 2;  // 6.17

// 6.13, grew in 6.17 (driver data). `hwpt_id` is a nest parent.
struct iommu_viommu_alloc {
  uint32_t size;
  uint32_t flags;
  uint32_t type;
  uint32_t dev_id;
  uint32_t hwpt_id;
  uint32_t out_viommu_id;
  uint32_t data_len;
  uint32_t __reserved;
  uint64_t data_uptr;
};
inline constexpr uint32_t iommu_viommu_alloc_min = 24;
VFIO_UAPI_LAYOUT(iommu_viommu_alloc, 40, size, 0, flags, 4, type, 8, dev_id, 12, hwpt_id, 16, out_viommu_id,
                 20, data_len, 24, __reserved, 28, data_uptr, 32)

// 6.13. `virt_id` is how the guest names the device: a stream id, a requester id.
struct iommu_vdevice_alloc {
  uint32_t size;
  uint32_t viommu_id;
  uint32_t dev_id;
  uint32_t out_vdevice_id;
  uint64_t virt_id;
};
VFIO_UAPI_LAYOUT(iommu_vdevice_alloc, 24, size, 0, viommu_id, 4, dev_id, 8, out_vdevice_id, 12, virt_id, 16)

inline constexpr uint32_t IOMMU_VEVENTQ_TYPE_DEFAULT = 0;
inline constexpr uint32_t IOMMU_VEVENTQ_TYPE_ARM_SMMUV3 = 1;
inline constexpr uint32_t IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV = 2;  // 6.17

// 6.15. The file reads iommufd_vevent_header, each followed by the data of its type.
struct iommu_veventq_alloc {
  uint32_t size;
  uint32_t flags;
  uint32_t viommu_id;
  uint32_t type;
  uint32_t veventq_depth;
  uint32_t out_veventq_id;
  uint32_t out_veventq_fd;
  uint32_t __reserved;
};
VFIO_UAPI_LAYOUT(iommu_veventq_alloc, 32, size, 0, flags, 4, viommu_id, 8, type, 12, veventq_depth, 16,
                 out_veventq_id, 20, out_veventq_fd, 24, __reserved, 28)

inline constexpr uint32_t IOMMU_HW_QUEUE_TYPE_DEFAULT = 0;
inline constexpr uint32_t IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = 1;

// 6.17. The queue's memory is `length` bytes at a guest-physical address of the nest parent.
struct iommu_hw_queue_alloc {
  uint32_t size;
  uint32_t flags;
  uint32_t viommu_id;
  uint32_t type;
  uint32_t index;
  uint32_t out_hw_queue_id;
  uint64_t nesting_parent_iova;
  uint64_t length;
};
VFIO_UAPI_LAYOUT(iommu_hw_queue_alloc, 40, size, 0, flags, 4, viommu_id, 8, type, 12, index, 16,
                 out_hw_queue_id, 20, nesting_parent_iova, 24, length, 32)

}  // namespace vfio::uapi
