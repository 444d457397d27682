// What a VFIO device says of itself: GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, their capabilities and indexes.
#pragma once

#include "layout.h"

namespace vfio::uapi {

inline constexpr uint32_t VFIO_TYPE = ';';
inline constexpr uint32_t VFIO_BASE = 100;

inline constexpr uint32_t VFIO_DEVICE_GET_INFO = request(VFIO_BASE + 7);
inline constexpr uint32_t VFIO_DEVICE_GET_REGION_INFO = request(VFIO_BASE + 8);
inline constexpr uint32_t VFIO_DEVICE_GET_IRQ_INFO = request(VFIO_BASE + 9);

// ~4.6. Heads every capability. `next` counts from the start of the reply; 0 ends the chain.
struct vfio_info_cap_header {
  uint16_t id;
  uint16_t version;
  uint32_t next;
};
VFIO_UAPI_LAYOUT(vfio_info_cap_header, 8, id, 0, version, 2, next, 4)

// ---- device ----

inline constexpr uint32_t VFIO_DEVICE_FLAGS_RESET = 1 << 0;
inline constexpr uint32_t VFIO_DEVICE_FLAGS_PCI = 1 << 1;
inline constexpr uint32_t VFIO_DEVICE_FLAGS_PLATFORM = 1 << 2;
inline constexpr uint32_t VFIO_DEVICE_FLAGS_AMBA = 1 << 3;
inline constexpr uint32_t VFIO_DEVICE_FLAGS_CCW = 1 << 4;
inline constexpr uint32_t VFIO_DEVICE_FLAGS_AP = 1 << 5;
inline constexpr uint32_t VFIO_DEVICE_FLAGS_FSL_MC = 1 << 6;
inline constexpr uint32_t VFIO_DEVICE_FLAGS_CAPS = 1 << 7;
inline constexpr uint32_t VFIO_DEVICE_FLAGS_CDX = 1 << 8;

// ~3.6, grew ~5.11 (cap_offset). The counts are the highest index + 1.
struct vfio_device_info {
  uint32_t argsz;
  uint32_t flags;
  uint32_t num_regions;
  uint32_t num_irqs;
  uint32_t cap_offset;
  uint32_t pad;
};
inline constexpr uint32_t vfio_device_info_min = 16;
VFIO_UAPI_LAYOUT(vfio_device_info, 24, argsz, 0, flags, 4, num_regions, 8, num_irqs, 12, cap_offset, 16, pad,
                 20)

inline constexpr uint32_t VFIO_DEVICE_INFO_CAP_ZPCI_BASE = 1;
inline constexpr uint32_t VFIO_DEVICE_INFO_CAP_ZPCI_GROUP = 2;
inline constexpr uint32_t VFIO_DEVICE_INFO_CAP_ZPCI_UTIL = 3;
inline constexpr uint32_t VFIO_DEVICE_INFO_CAP_ZPCI_PFIP = 4;
inline constexpr uint32_t VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP = 5;

inline constexpr uint32_t VFIO_PCI_ATOMIC_COMP32 = 1 << 0;
inline constexpr uint32_t VFIO_PCI_ATOMIC_COMP64 = 1 << 1;
inline constexpr uint32_t VFIO_PCI_ATOMIC_COMP128 = 1 << 2;

// ~6.6. The widths of atomic operations that the root port completes.
struct vfio_device_info_cap_pci_atomic_comp {
  vfio_info_cap_header header;
  uint32_t flags;
  uint32_t reserved;
};
VFIO_UAPI_LAYOUT(vfio_device_info_cap_pci_atomic_comp, 16, header, 0, flags, 8, reserved, 12)

// ~5.11 (s390). Version 2 has `fh`; version 3 (7.3) has ccdf_err_length, which was padding.
struct vfio_device_info_cap_zpci_base {
  vfio_info_cap_header header;
  uint64_t start_dma;
  uint64_t end_dma;
  uint16_t pchid;
  uint16_t vfn;
  uint16_t fmb_length;
  uint8_t pft;
  uint8_t gid;
  uint32_t fh;
  uint32_t ccdf_err_length;
};
VFIO_UAPI_LAYOUT(vfio_device_info_cap_zpci_base, 40, header, 0, start_dma, 8, end_dma, 16, pchid, 24, vfn, 26,
                 fmb_length, 28, pft, 30, gid, 31, fh, 32, ccdf_err_length, 36)

inline constexpr uint32_t VFIO_DEVICE_INFO_ZPCI_FLAG_REFRESH = 1;

// ~5.11 (s390). Version 2 has `imaxstbl`.
struct vfio_device_info_cap_zpci_group {
  vfio_info_cap_header header;
  uint64_t dasm;
  uint64_t msi_addr;
  uint64_t flags;
  uint16_t mui;
  uint16_t noi;
  uint16_t maxstbl;
  uint8_t version;
  uint8_t reserved;
  uint16_t imaxstbl;
};
VFIO_UAPI_LAYOUT(vfio_device_info_cap_zpci_group, 48, header, 0, dasm, 8, msi_addr, 16, flags, 24, mui, 32,
                 noi, 34, maxstbl, 36, version, 38, reserved, 39, imaxstbl, 40)

// ~5.11 (s390). Then `size` bytes of the utility string.
struct vfio_device_info_cap_zpci_util {
  vfio_info_cap_header header;
  uint32_t size;
};
VFIO_UAPI_LAYOUT(vfio_device_info_cap_zpci_util, 12, header, 0, size, 8)

// ~5.11 (s390). Then `size` bytes of the internal path.
struct vfio_device_info_cap_zpci_pfip {
  vfio_info_cap_header header;
  uint32_t size;
};
VFIO_UAPI_LAYOUT(vfio_device_info_cap_zpci_pfip, 12, header, 0, size, 8)

// ---- regions ----

inline constexpr uint32_t VFIO_PCI_BAR0_REGION_INDEX = 0;
inline constexpr uint32_t VFIO_PCI_BAR1_REGION_INDEX = 1;
inline constexpr uint32_t VFIO_PCI_BAR2_REGION_INDEX = 2;
inline constexpr uint32_t VFIO_PCI_BAR3_REGION_INDEX = 3;
inline constexpr uint32_t VFIO_PCI_BAR4_REGION_INDEX = 4;
inline constexpr uint32_t VFIO_PCI_BAR5_REGION_INDEX = 5;
inline constexpr uint32_t VFIO_PCI_ROM_REGION_INDEX = 6;
inline constexpr uint32_t VFIO_PCI_CONFIG_REGION_INDEX = 7;
inline constexpr uint32_t VFIO_PCI_VGA_REGION_INDEX = 8;
inline constexpr uint32_t VFIO_PCI_NUM_REGIONS = 9;  // device specific ones begin here
inline constexpr uint32_t VFIO_CCW_CONFIG_REGION_INDEX = 0;
inline constexpr uint32_t VFIO_CCW_NUM_REGIONS = 1;

inline constexpr uint32_t VFIO_REGION_INFO_FLAG_READ = 1 << 0;
inline constexpr uint32_t VFIO_REGION_INFO_FLAG_WRITE = 1 << 1;
inline constexpr uint32_t VFIO_REGION_INFO_FLAG_MMAP = 1 << 2;
inline constexpr uint32_t VFIO_REGION_INFO_FLAG_CAPS = 1 << 3;

// ~3.6; cap_offset, once reserved, ~4.6. `offset` is where the region lies in the device file; take it as it
// is.
struct vfio_region_info {
  uint32_t argsz;
  uint32_t flags;
  uint32_t index;
  uint32_t cap_offset;
  uint64_t size;
  uint64_t offset;
};
VFIO_UAPI_LAYOUT(vfio_region_info, 32, argsz, 0, flags, 4, index, 8, cap_offset, 12, size, 16, offset, 24)

inline constexpr uint32_t VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
inline constexpr uint32_t VFIO_REGION_INFO_CAP_TYPE = 2;
inline constexpr uint32_t VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;   // ~4.16, a header alone
inline constexpr uint32_t VFIO_REGION_INFO_CAP_NVLINK2_SSATGT = 4;  // retired
inline constexpr uint32_t VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD = 5;  // retired

// ~4.6. An element of the array below, relative to the region.
struct vfio_region_sparse_mmap_area {
  uint64_t offset;
  uint64_t size;
};
VFIO_UAPI_LAYOUT(vfio_region_sparse_mmap_area, 16, offset, 0, size, 8)

// ~4.6. Then `nr_areas` of vfio_region_sparse_mmap_area: the only parts that can be mapped.
struct vfio_region_info_cap_sparse_mmap {
  vfio_info_cap_header header;
  uint32_t nr_areas;
  uint32_t reserved;
};
VFIO_UAPI_LAYOUT(vfio_region_info_cap_sparse_mmap, 16, header, 0, nr_areas, 8, reserved, 12)

// ~4.6. What a device specific region is.
struct vfio_region_info_cap_type {
  vfio_info_cap_header header;
  uint32_t type;
  uint32_t subtype;
};
VFIO_UAPI_LAYOUT(vfio_region_info_cap_type, 16, header, 0, type, 8, subtype, 12)

// Retired with its driver.
struct vfio_region_info_cap_nvlink2_ssatgt {
  vfio_info_cap_header header;
  uint64_t tgt;
};
VFIO_UAPI_LAYOUT(vfio_region_info_cap_nvlink2_ssatgt, 16, header, 0, tgt, 8)

// Retired with its driver.
struct vfio_region_info_cap_nvlink2_lnkspd {
  vfio_info_cap_header header;
  uint32_t link_speed;
  uint32_t __pad;
};
VFIO_UAPI_LAYOUT(vfio_region_info_cap_nvlink2_lnkspd, 16, header, 0, link_speed, 8, __pad, 12)

// Types. With VENDOR_TYPE the low 16 bits are a PCI vendor, whose subtypes follow under its name.
inline constexpr uint32_t VFIO_REGION_TYPE_PCI_VENDOR_TYPE = 1u << 31;
inline constexpr uint32_t VFIO_REGION_TYPE_PCI_VENDOR_MASK = 0xffff;
inline constexpr uint32_t VFIO_REGION_TYPE_GFX = 1;
inline constexpr uint32_t VFIO_REGION_TYPE_CCW = 2;
inline constexpr uint32_t VFIO_REGION_TYPE_MIGRATION_DEPRECATED = 3;

inline constexpr uint32_t VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION = 1;
inline constexpr uint32_t VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG = 2;
inline constexpr uint32_t VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG = 3;
inline constexpr uint32_t VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM = 1;  // retired
inline constexpr uint32_t VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD = 1;    // retired
inline constexpr uint32_t VFIO_REGION_SUBTYPE_GFX_EDID = 1;
inline constexpr uint32_t VFIO_REGION_SUBTYPE_CCW_ASYNC_CMD = 1;
inline constexpr uint32_t VFIO_REGION_SUBTYPE_CCW_SCHIB = 2;
inline constexpr uint32_t VFIO_REGION_SUBTYPE_CCW_CRW = 3;
inline constexpr uint32_t VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED = 1;

inline constexpr uint32_t VFIO_DEVICE_GFX_LINK_STATE_UP = 1;
inline constexpr uint32_t VFIO_DEVICE_GFX_LINK_STATE_DOWN = 2;

// ~4.20. The start of an EDID region. `edid_size` and `link_state` can be written.
struct vfio_region_gfx_edid {
  uint32_t edid_offset;
  uint32_t edid_max_size;
  uint32_t edid_size;
  uint32_t max_xres;
  uint32_t max_yres;
  uint32_t link_state;
};
VFIO_UAPI_LAYOUT(vfio_region_gfx_edid, 24, edid_offset, 0, edid_max_size, 4, edid_size, 8, max_xres, 12,
                 max_yres, 16, link_state, 20)

// ---- interrupts ----

inline constexpr uint32_t VFIO_PCI_INTX_IRQ_INDEX = 0;
inline constexpr uint32_t VFIO_PCI_MSI_IRQ_INDEX = 1;
inline constexpr uint32_t VFIO_PCI_MSIX_IRQ_INDEX = 2;
inline constexpr uint32_t VFIO_PCI_ERR_IRQ_INDEX = 3;
inline constexpr uint32_t VFIO_PCI_REQ_IRQ_INDEX = 4;
inline constexpr uint32_t VFIO_PCI_NUM_IRQS = 5;
inline constexpr uint32_t VFIO_CCW_IO_IRQ_INDEX = 0;
inline constexpr uint32_t VFIO_CCW_CRW_IRQ_INDEX = 1;
inline constexpr uint32_t VFIO_CCW_REQ_IRQ_INDEX = 2;
inline constexpr uint32_t VFIO_CCW_NUM_IRQS = 3;
inline constexpr uint32_t VFIO_AP_REQ_IRQ_INDEX = 0;
inline constexpr uint32_t VFIO_AP_NUM_IRQS = 1;

inline constexpr uint32_t VFIO_IRQ_INFO_EVENTFD = 1 << 0;
inline constexpr uint32_t VFIO_IRQ_INFO_MASKABLE = 1 << 1;
inline constexpr uint32_t VFIO_IRQ_INFO_AUTOMASKED = 1 << 2;
inline constexpr uint32_t VFIO_IRQ_INFO_NORESIZE = 1 << 3;

// ~3.6. `count` vectors.
struct vfio_irq_info {
  uint32_t argsz;
  uint32_t flags;
  uint32_t index;
  uint32_t count;
};
VFIO_UAPI_LAYOUT(vfio_irq_info, 16, argsz, 0, flags, 4, index, 8, count, 12)

}  // namespace vfio::uapi
