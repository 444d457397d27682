// What iommufd requests point to, per IOMMU driver, and the records of its fault and event files.
#pragma once

#include "layout.h"

namespace vfio::uapi {

// ---- IOMMU_HWPT_ALLOC, data_type and data ----

inline constexpr uint32_t IOMMU_HWPT_DATA_NONE = 0;
inline constexpr uint32_t IOMMU_HWPT_DATA_VTD_S1 = 1;      // 6.7
inline constexpr uint32_t IOMMU_HWPT_DATA_ARM_SMMUV3 = 2;  // 6.13
inline constexpr uint32_t IOMMU_HWPT_DATA_AMD_GUEST = 3;   // 7.0

inline constexpr uint32_t IOMMU_VTD_S1_SRE = 1 << 0;
inline constexpr uint32_t IOMMU_VTD_S1_EAFE = 1 << 1;
inline constexpr uint32_t IOMMU_VTD_S1_WPE = 1 << 2;

// 6.7. Root of a guest's first-stage table, a guest-physical address.
struct iommu_hwpt_vtd_s1 {
  uint64_t flags;
  uint64_t pgtbl_addr;
  uint32_t addr_width;
  uint32_t __reserved;
};
VFIO_UAPI_LAYOUT(iommu_hwpt_vtd_s1, 24, flags, 0, pgtbl_addr, 8, addr_width, 16, __reserved, 20)

// 6.13. Two words of the guest's stream table entry, little endian.
struct iommu_hwpt_arm_smmuv3 {
  uint64_t ste[2];
};
VFIO_UAPI_LAYOUT(iommu_hwpt_arm_smmuv3, 16, ste, 0)

// 7.0. Four words of the guest's device table entry.
struct iommu_hwpt_amd_guest {
  uint64_t dte[4];
};
VFIO_UAPI_LAYOUT(iommu_hwpt_amd_guest, 32, dte, 0)

// ---- IOMMU_GET_HW_INFO, type and data ----

inline constexpr uint32_t IOMMU_HW_INFO_TYPE_NONE = 0;
inline constexpr uint32_t IOMMU_HW_INFO_TYPE_DEFAULT = 0;  // 6.17, the same number as a question
inline constexpr uint32_t IOMMU_HW_INFO_TYPE_INTEL_VTD = 1;
inline constexpr uint32_t IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 2;      // 6.13
inline constexpr uint32_t IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV = 3;  // 6.17
inline constexpr uint32_t IOMMU_HW_INFO_TYPE_AMD = 4;             // 7.0

inline constexpr uint32_t IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 = 1 << 0;

// 6.6.
struct iommu_hw_info_vtd {
  uint32_t flags;
  uint32_t __reserved;
  uint64_t cap_reg;
  uint64_t ecap_reg;
};
VFIO_UAPI_LAYOUT(iommu_hw_info_vtd, 24, flags, 0, __reserved, 4, cap_reg, 8, ecap_reg, 16)

inline constexpr uint32_t IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI = 1 << 0;  // 7.3

// 6.13.
struct iommu_hw_info_arm_smmuv3 {
  uint32_t flags;
  uint32_t __reserved;
  uint32_t idr[6];
  uint32_t iidr;
  uint32_t aidr;
};
VFIO_UAPI_LAYOUT(iommu_hw_info_arm_smmuv3, 40, flags, 0, __reserved, 4, idr, 8, iidr, 32, aidr, 36)

// 6.17.
struct iommu_hw_info_tegra241_cmdqv {
  uint32_t flags;
  uint8_t version;
  uint8_t log2vcmdqs;
  uint8_t log2vsids;
  uint8_t __reserved;
};
VFIO_UAPI_LAYOUT(iommu_hw_info_tegra241_cmdqv, 8, flags, 0, version, 4, log2vcmdqs, 5, log2vsids, 6,
                 __reserved, 7)

// 7.0. The two extended feature registers.
struct iommu_hw_info_amd {
  uint64_t efr;
  uint64_t efr2;
};
VFIO_UAPI_LAYOUT(iommu_hw_info_amd, 16, efr, 0, efr2, 8)

// ---- IOMMU_HWPT_INVALIDATE, data_type and entries ----

inline constexpr uint32_t IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0;
inline constexpr uint32_t IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = 1;  // 6.13

inline constexpr uint32_t IOMMU_VTD_INV_FLAGS_LEAF = 1 << 0;

// 6.8. `npages` counts 4 KiB pages; all ones with address 0 drops the whole cache.
struct iommu_hwpt_vtd_s1_invalidate {
  uint64_t addr;
  uint64_t npages;
  uint32_t flags;
  uint32_t __reserved;
};
VFIO_UAPI_LAYOUT(iommu_hwpt_vtd_s1_invalidate, 24, addr, 0, npages, 8, flags, 16, __reserved, 20)

// 6.13. One command queue entry, little endian.
struct iommu_viommu_arm_smmuv3_invalidate {
  uint64_t cmd[2];
};
VFIO_UAPI_LAYOUT(iommu_viommu_arm_smmuv3_invalidate, 16, cmd, 0)

// ---- IOMMU_VIOMMU_ALLOC, data ----

// 6.17. What to mmap() on the iommufd to reach the virtual interface page.
struct iommu_viommu_tegra241_cmdqv {
  uint64_t out_vintf_mmap_offset;
  uint64_t out_vintf_mmap_length;
};
VFIO_UAPI_LAYOUT(iommu_viommu_tegra241_cmdqv, 16, out_vintf_mmap_offset, 0, out_vintf_mmap_length, 8)

// ---- the fault file ----

inline constexpr uint32_t IOMMU_PGFAULT_FLAGS_PASID_VALID = 1 << 0;
inline constexpr uint32_t IOMMU_PGFAULT_FLAGS_LAST_PAGE = 1 << 1;
inline constexpr uint32_t IOMMU_PGFAULT_PERM_READ = 1 << 0;
inline constexpr uint32_t IOMMU_PGFAULT_PERM_WRITE = 1 << 1;
inline constexpr uint32_t IOMMU_PGFAULT_PERM_EXEC = 1 << 2;
inline constexpr uint32_t IOMMU_PGFAULT_PERM_PRIV = 1 << 3;

// 6.11; the padding has a name since 6.14. All records of one group share `cookie`.
struct iommu_hwpt_pgfault {
  uint32_t flags;
  uint32_t dev_id;
  uint32_t pasid;
  uint32_t grpid;
  uint32_t perm;
  uint32_t __reserved;
  uint64_t addr;
  uint32_t length;
  uint32_t cookie;
};
VFIO_UAPI_LAYOUT(iommu_hwpt_pgfault, 40, flags, 0, dev_id, 4, pasid, 8, grpid, 12, perm, 16, __reserved, 20,
                 addr, 24, length, 32, cookie, 36)

inline constexpr uint32_t IOMMUFD_PAGE_RESP_SUCCESS = 0;
inline constexpr uint32_t IOMMUFD_PAGE_RESP_INVALID = 1;

// 6.11. One per group, not per record.
struct iommu_hwpt_page_response {
  uint32_t cookie;
  uint32_t code;
};
VFIO_UAPI_LAYOUT(iommu_hwpt_page_response, 8, cookie, 0, code, 4)

// ---- the virtual event file ----

inline constexpr uint32_t IOMMU_VEVENTQ_FLAG_LOST_EVENTS = 1 << 0;

// 6.15. `sequence` wraps after INT_MAX. With LOST_EVENTS nothing follows, else one of the two structs below.
struct iommufd_vevent_header {
  uint32_t flags;
  uint32_t sequence;
};
VFIO_UAPI_LAYOUT(iommufd_vevent_header, 8, flags, 0, sequence, 4)

// 6.15. One event queue entry, little endian.
struct iommu_vevent_arm_smmuv3 {
  uint64_t evt[4];
};
VFIO_UAPI_LAYOUT(iommu_vevent_arm_smmuv3, 32, evt, 0)

// 6.17. Logical queues in error, one bit each.
struct iommu_vevent_tegra241_cmdqv {
  uint64_t lvcmdq_err_map[2];
};
VFIO_UAPI_LAYOUT(iommu_vevent_tegra241_cmdqv, 16, lvcmdq_err_map, 0)

}  // namespace vfio::uapi
