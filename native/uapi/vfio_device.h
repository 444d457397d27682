// What a program asks of a VFIO device: interrupts, reset, the iommufd bond, and the rarer requests. What the
// device says of itself is in vfio_info.h, VFIO_DEVICE_FEATURE in vfio_feature.h.
#pragma once

#include "layout.h"
#include "vfio_info.h"

namespace vfio::uapi {

inline constexpr uint32_t VFIO_DEVICE_SET_IRQS = request(VFIO_BASE + 10);
inline constexpr uint32_t VFIO_DEVICE_RESET = request(VFIO_BASE + 11);
inline constexpr uint32_t VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = request(VFIO_BASE + 12);
inline constexpr uint32_t VFIO_DEVICE_PCI_HOT_RESET = request(VFIO_BASE + 13);
inline constexpr uint32_t VFIO_DEVICE_QUERY_GFX_PLANE = request(VFIO_BASE + 14);
inline constexpr uint32_t VFIO_DEVICE_GET_GFX_DMABUF = request(VFIO_BASE + 15);  // uint32_t* dmabuf_id
inline constexpr uint32_t VFIO_DEVICE_IOEVENTFD = request(VFIO_BASE + 16);
inline constexpr uint32_t VFIO_DEVICE_BIND_IOMMUFD = request(VFIO_BASE + 18);
inline constexpr uint32_t VFIO_DEVICE_ATTACH_IOMMUFD_PT = request(VFIO_BASE + 19);
inline constexpr uint32_t VFIO_DEVICE_DETACH_IOMMUFD_PT = request(VFIO_BASE + 20);

// ---- the bond with an iommufd, on /dev/vfio/devices files only ----

inline constexpr uint32_t VFIO_DEVICE_BIND_FLAG_TOKEN = 1 << 0;  // 6.17

// 6.6, grew in 6.17 (token_uuid_ptr, which points to 16 bytes).
struct vfio_device_bind_iommufd {
  uint32_t argsz;
  uint32_t flags;
  int32_t iommufd;
  uint32_t out_devid;
  uint64_t token_uuid_ptr;
};
inline constexpr uint32_t vfio_device_bind_iommufd_min = 16;
VFIO_UAPI_LAYOUT(vfio_device_bind_iommufd, 24, argsz, 0, flags, 4, iommufd, 8, out_devid, 12, token_uuid_ptr,
                 16)

inline constexpr uint32_t VFIO_DEVICE_ATTACH_PASID = 1 << 0;  // 6.15

// 6.6, grew in 6.15 (pasid). `pt_id` is an IOAS or a page table; it returns the page table in use.
struct vfio_device_attach_iommufd_pt {
  uint32_t argsz;
  uint32_t flags;
  uint32_t pt_id;
  uint32_t pasid;
};
inline constexpr uint32_t vfio_device_attach_iommufd_pt_min = 12;
VFIO_UAPI_LAYOUT(vfio_device_attach_iommufd_pt, 16, argsz, 0, flags, 4, pt_id, 8, pasid, 12)

inline constexpr uint32_t VFIO_DEVICE_DETACH_PASID = 1 << 0;  // 6.15

// 6.6, grew in 6.15 (pasid).
struct vfio_device_detach_iommufd_pt {
  uint32_t argsz;
  uint32_t flags;
  uint32_t pasid;
};
inline constexpr uint32_t vfio_device_detach_iommufd_pt_min = 8;
VFIO_UAPI_LAYOUT(vfio_device_detach_iommufd_pt, 12, argsz, 0, flags, 4, pasid, 8)

// ---- interrupts ----

// One of the data bits and one of the action bits.
inline constexpr uint32_t VFIO_IRQ_SET_DATA_NONE = 1 << 0;
inline constexpr uint32_t VFIO_IRQ_SET_DATA_BOOL = 1 << 1;
inline constexpr uint32_t VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2;
inline constexpr uint32_t VFIO_IRQ_SET_ACTION_MASK = 1 << 3;
inline constexpr uint32_t VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4;
inline constexpr uint32_t VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5;
inline constexpr uint32_t VFIO_IRQ_SET_DATA_TYPE_MASK =
    VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD;
inline constexpr uint32_t VFIO_IRQ_SET_ACTION_TYPE_MASK =
    VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER;

// ~3.6. Then `count` elements: nothing, uint8_t (BOOL) or int32_t (EVENTFD, -1 takes one away).
struct vfio_irq_set {
  uint32_t argsz;
  uint32_t flags;
  uint32_t index;
  uint32_t start;
  uint32_t count;
};
VFIO_UAPI_LAYOUT(vfio_irq_set, 20, argsz, 0, flags, 4, index, 8, start, 12, count, 16)

// ---- hot reset ----

inline constexpr uint32_t VFIO_PCI_DEVID_OWNED = 0;
inline constexpr uint32_t VFIO_PCI_DEVID_NOT_OWNED = 0xffffffff;

// ~3.12; `devid` 6.6. `devid` where the reply has the DEV_ID flag, else `group_id`.
struct vfio_pci_dependent_device {
  union {
    uint32_t group_id;
    uint32_t devid;
  };
  uint16_t segment;
  uint8_t bus;
  uint8_t devfn;
};
VFIO_UAPI_LAYOUT(vfio_pci_dependent_device, 8, group_id, 0, devid, 0, segment, 4, bus, 6, devfn, 7)

inline constexpr uint32_t VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0;        // 6.6
inline constexpr uint32_t VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1;  // 6.6

// ~3.12. Then `count` of vfio_pci_dependent_device; ENOSPC when they don't fit, with `count` filled in.
struct vfio_pci_hot_reset_info {
  uint32_t argsz;
  uint32_t flags;
  uint32_t count;
};
VFIO_UAPI_LAYOUT(vfio_pci_hot_reset_info, 12, argsz, 0, flags, 4, count, 8)

// ~3.12. Then `count` group descriptors, int32_t each; none on a /dev/vfio/devices file.
struct vfio_pci_hot_reset {
  uint32_t argsz;
  uint32_t flags;
  uint32_t count;
};
VFIO_UAPI_LAYOUT(vfio_pci_hot_reset, 12, argsz, 0, flags, 4, count, 8)

// ---- ioeventfd ----

inline constexpr uint32_t VFIO_DEVICE_IOEVENTFD_8 = 1 << 0;
inline constexpr uint32_t VFIO_DEVICE_IOEVENTFD_16 = 1 << 1;
inline constexpr uint32_t VFIO_DEVICE_IOEVENTFD_32 = 1 << 2;
inline constexpr uint32_t VFIO_DEVICE_IOEVENTFD_64 = 1 << 3;
inline constexpr uint32_t VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 0xf;

// ~4.17. `data` is written at `offset` of the device file whenever the eventfd is signalled; fd -1 ends that.
struct vfio_device_ioeventfd {
  uint32_t argsz;
  uint32_t flags;
  uint64_t offset;
  uint64_t data;
  int32_t fd;
  uint32_t reserved;
};
inline constexpr uint32_t vfio_device_ioeventfd_min = 28;
VFIO_UAPI_LAYOUT(vfio_device_ioeventfd, 32, argsz, 0, flags, 4, offset, 8, data, 16, fd, 24, reserved, 28)

// ---- graphics of mediated devices ----

inline constexpr uint32_t VFIO_GFX_PLANE_TYPE_PROBE = 1 << 0;
inline constexpr uint32_t VFIO_GFX_PLANE_TYPE_DMABUF = 1 << 1;
inline constexpr uint32_t VFIO_GFX_PLANE_TYPE_REGION = 1 << 2;

// ~4.16. All after `drm_plane_type` is the reply.
struct vfio_device_gfx_plane_info {
  uint32_t argsz;
  uint32_t flags;
  uint32_t drm_plane_type;
  uint32_t drm_format;
  uint64_t drm_format_mod;
  uint32_t width;
  uint32_t height;
  uint32_t stride;
  uint32_t size;
  uint32_t x_pos;
  uint32_t y_pos;
  uint32_t x_hot;
  uint32_t y_hot;
  union {
    uint32_t region_index;
    uint32_t dmabuf_id;
  };
  uint32_t reserved;
};
inline constexpr uint32_t vfio_device_gfx_plane_info_min = 60;
VFIO_UAPI_LAYOUT(vfio_device_gfx_plane_info, 64, argsz, 0, flags, 4, drm_plane_type, 8, drm_format, 12,
                 drm_format_mod, 16, width, 24, height, 28, stride, 32, size, 36, x_pos, 40, y_pos, 44, x_hot,
                 48, y_hot, 52, region_index, 56, dmabuf_id, 56, reserved, 60)

}  // namespace vfio::uapi
