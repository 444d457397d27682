// VFIO containers on POWER: the sPAPR back ends and error recovery (EEH). Their numbers overlap those of
// type1.
#pragma once

#include "layout.h"
#include "vfio_info.h"

namespace vfio::uapi {

inline constexpr uint32_t VFIO_IOMMU_SPAPR_TCE_GET_INFO = request(VFIO_BASE + 12);
inline constexpr uint32_t VFIO_IOMMU_SPAPR_REGISTER_MEMORY = request(VFIO_BASE + 17);
inline constexpr uint32_t VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY = request(VFIO_BASE + 18);
inline constexpr uint32_t VFIO_IOMMU_SPAPR_TCE_CREATE = request(VFIO_BASE + 19);
inline constexpr uint32_t VFIO_IOMMU_SPAPR_TCE_REMOVE = request(VFIO_BASE + 20);
inline constexpr uint32_t VFIO_EEH_PE_OP = request(VFIO_BASE + 21);

// ~4.2. Dynamic DMA windows: page sizes (a bitmap), how many at once, table levels.
struct vfio_iommu_spapr_tce_ddw_info {
  uint64_t pgsizes;
  uint32_t max_dynamic_windows_supported;
  uint32_t levels;
};
VFIO_UAPI_LAYOUT(vfio_iommu_spapr_tce_ddw_info, 16, pgsizes, 0, max_dynamic_windows_supported, 8, levels, 12)

inline constexpr uint32_t VFIO_IOMMU_SPAPR_INFO_DDW = 1 << 0;

// ~3.11, grew ~4.2 (ddw).
struct vfio_iommu_spapr_tce_info {
  uint32_t argsz;
  uint32_t flags;
  uint32_t dma32_window_start;
  uint32_t dma32_window_size;
  vfio_iommu_spapr_tce_ddw_info ddw;
};
inline constexpr uint32_t vfio_iommu_spapr_tce_info_min = 16;
VFIO_UAPI_LAYOUT(vfio_iommu_spapr_tce_info, 32, argsz, 0, flags, 4, dma32_window_start, 8, dma32_window_size,
                 12, ddw, 16)

// ~4.2. Of REGISTER_MEMORY and UNREGISTER_MEMORY.
struct vfio_iommu_spapr_register_memory {
  uint32_t argsz;
  uint32_t flags;
  uint64_t vaddr;
  uint64_t size;
};
VFIO_UAPI_LAYOUT(vfio_iommu_spapr_register_memory, 24, argsz, 0, flags, 4, vaddr, 8, size, 16)

// ~4.2. `start_addr` is the result.
struct vfio_iommu_spapr_tce_create {
  uint32_t argsz;
  uint32_t flags;
  uint32_t page_shift;
  uint32_t __resv1;
  uint64_t window_size;
  uint32_t levels;
  uint32_t __resv2;
  uint64_t start_addr;
};
VFIO_UAPI_LAYOUT(vfio_iommu_spapr_tce_create, 40, argsz, 0, flags, 4, page_shift, 8, __resv1, 12, window_size,
                 16, levels, 24, __resv2, 28, start_addr, 32)

// ~4.2.
struct vfio_iommu_spapr_tce_remove {
  uint32_t argsz;
  uint32_t flags;
  uint64_t start_addr;
};
VFIO_UAPI_LAYOUT(vfio_iommu_spapr_tce_remove, 16, argsz, 0, flags, 4, start_addr, 8)

// ---- EEH ----

inline constexpr uint32_t VFIO_EEH_PE_DISABLE = 0;
inline constexpr uint32_t VFIO_EEH_PE_ENABLE = 1;
inline constexpr uint32_t VFIO_EEH_PE_UNFREEZE_IO = 2;
inline constexpr uint32_t VFIO_EEH_PE_UNFREEZE_DMA = 3;
inline constexpr uint32_t VFIO_EEH_PE_GET_STATE = 4;
inline constexpr uint32_t VFIO_EEH_PE_RESET_DEACTIVATE = 5;
inline constexpr uint32_t VFIO_EEH_PE_RESET_HOT = 6;
inline constexpr uint32_t VFIO_EEH_PE_RESET_FUNDAMENTAL = 7;
inline constexpr uint32_t VFIO_EEH_PE_CONFIGURE = 8;
inline constexpr uint32_t VFIO_EEH_PE_INJECT_ERR = 9;

// What GET_STATE returns.
inline constexpr uint32_t VFIO_EEH_PE_STATE_NORMAL = 0;
inline constexpr uint32_t VFIO_EEH_PE_STATE_RESET = 1;
inline constexpr uint32_t VFIO_EEH_PE_STATE_STOPPED = 2;
inline constexpr uint32_t VFIO_EEH_PE_STATE_STOPPED_DMA = 4;
inline constexpr uint32_t VFIO_EEH_PE_STATE_UNAVAIL = 5;

// ~4.1. The error that INJECT_ERR makes.
struct vfio_eeh_pe_err {
  uint32_t type;
  uint32_t func;
  uint64_t addr;
  uint64_t mask;
};
VFIO_UAPI_LAYOUT(vfio_eeh_pe_err, 24, type, 0, func, 4, addr, 8, mask, 16)

// ~3.17. INJECT_ERR needs all of it.
struct vfio_eeh_pe_op {
  uint32_t argsz;
  uint32_t flags;
  uint32_t op;
  union {
    vfio_eeh_pe_err err;
  };
};
inline constexpr uint32_t vfio_eeh_pe_op_min = 12;
VFIO_UAPI_LAYOUT(vfio_eeh_pe_op, 40, argsz, 0, flags, 4, op, 8, err, 16)

}  // namespace vfio::uapi
