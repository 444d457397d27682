// VFIO_DEVICE_FEATURE: its numbers and payloads, which begin at byte 8, and the migration data file.
#pragma once

#include "layout.h"
#include "vfio_info.h"

namespace vfio::uapi {

inline constexpr uint32_t VFIO_DEVICE_FEATURE = request(VFIO_BASE + 17);
inline constexpr uint32_t VFIO_MIG_GET_PRECOPY_INFO = request(VFIO_BASE + 21);  // on the migration data file

inline constexpr uint32_t VFIO_DEVICE_FEATURE_MASK = 0xffff;
inline constexpr uint32_t VFIO_DEVICE_FEATURE_GET = 1 << 16;
inline constexpr uint32_t VFIO_DEVICE_FEATURE_SET = 1 << 17;
inline constexpr uint32_t VFIO_DEVICE_FEATURE_PROBE = 1 << 18;

// ~5.7. Then the feature's payload.
struct vfio_device_feature {
  uint32_t argsz;
  uint32_t flags;
};
VFIO_UAPI_LAYOUT(vfio_device_feature, 8, argsz, 0, flags, 4)

inline constexpr uint32_t VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0;                 // SET, 16 bytes, ~5.7
inline constexpr uint32_t VFIO_DEVICE_FEATURE_MIGRATION = 1;                    // GET, ~5.18
inline constexpr uint32_t VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2;             // GET and SET, ~5.18
inline constexpr uint32_t VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY = 3;              // SET, nothing, ~6.1
inline constexpr uint32_t VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4;  // SET, ~6.1
inline constexpr uint32_t VFIO_DEVICE_FEATURE_LOW_POWER_EXIT = 5;               // SET, nothing, ~6.1
inline constexpr uint32_t VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6;            // SET, ~6.1
inline constexpr uint32_t VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7;             // SET, nothing, ~6.1
inline constexpr uint32_t VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8;           // GET, ~6.1
inline constexpr uint32_t VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9;                // GET, 6.2
inline constexpr uint32_t VFIO_DEVICE_FEATURE_BUS_MASTER = 10;                  // SET, 6.7, CDX
inline constexpr uint32_t VFIO_DEVICE_FEATURE_DMA_BUF = 11;             // GET, 6.19, returns a descriptor
inline constexpr uint32_t VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 = 12;  // SET, nothing, 7.1
inline constexpr uint32_t VFIO_DEVICE_FEATURE_ZPCI_ERROR = 13;          // GET, 7.3, s390

// ---- migration ----

inline constexpr uint32_t VFIO_MIGRATION_STOP_COPY = 1 << 0;
inline constexpr uint32_t VFIO_MIGRATION_P2P = 1 << 1;
inline constexpr uint32_t VFIO_MIGRATION_PRE_COPY = 1 << 2;  // 6.2

// ~5.18.
struct vfio_device_feature_migration {
  uint64_t flags;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_migration, 8, flags, 0)

inline constexpr uint32_t VFIO_DEVICE_STATE_ERROR = 0;
inline constexpr uint32_t VFIO_DEVICE_STATE_STOP = 1;
inline constexpr uint32_t VFIO_DEVICE_STATE_RUNNING = 2;
inline constexpr uint32_t VFIO_DEVICE_STATE_STOP_COPY = 3;
inline constexpr uint32_t VFIO_DEVICE_STATE_RESUMING = 4;
inline constexpr uint32_t VFIO_DEVICE_STATE_RUNNING_P2P = 5;
inline constexpr uint32_t VFIO_DEVICE_STATE_PRE_COPY = 6;      // 6.2
inline constexpr uint32_t VFIO_DEVICE_STATE_PRE_COPY_P2P = 7;  // 6.2
inline constexpr uint32_t VFIO_DEVICE_STATE_NR = 8;

// ~5.18. `data_fd` is the stream of the new state, or -1.
struct vfio_device_feature_mig_state {
  uint32_t device_state;
  int32_t data_fd;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_mig_state, 8, device_state, 0, data_fd, 4)

// 6.2. An estimate, in bytes.
struct vfio_device_feature_mig_data_size {
  uint64_t stop_copy_length;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_mig_data_size, 8, stop_copy_length, 0)

inline constexpr uint32_t VFIO_PRECOPY_INFO_REINIT = 1 << 0;  // 7.1, after SET of MIG_PRECOPY_INFOv2

// 6.2. Of the migration data file; estimates, in bytes.
struct vfio_precopy_info {
  uint32_t argsz;
  uint32_t flags;
  uint64_t initial_bytes;
  uint64_t dirty_bytes;
};
VFIO_UAPI_LAYOUT(vfio_precopy_info, 24, argsz, 0, flags, 4, initial_bytes, 8, dirty_bytes, 16)

// ---- DMA logging ----

// ~6.1. `ranges` points to `num_ranges` of the struct below; `page_size` returns what was granted.
struct vfio_device_feature_dma_logging_control {
  uint64_t page_size;
  uint32_t num_ranges;
  uint32_t __reserved;
  uint64_t ranges;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_dma_logging_control, 24, page_size, 0, num_ranges, 8, __reserved, 12,
                 ranges, 16)

// ~6.1.
struct vfio_device_feature_dma_logging_range {
  uint64_t iova;
  uint64_t length;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_dma_logging_range, 16, iova, 0, length, 8)

// ~6.1. `bitmap` points to 64-bit words, whose bits are only ever set.
struct vfio_device_feature_dma_logging_report {
  uint64_t iova;
  uint64_t length;
  uint64_t page_size;
  uint64_t bitmap;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_dma_logging_report, 32, iova, 0, length, 8, page_size, 16, bitmap, 24)

// ---- power, bus master, dma-buf, zPCI ----

// ~6.1. The eventfd is signalled when the device resumes.
struct vfio_device_low_power_entry_with_wakeup {
  int32_t wakeup_eventfd;
  uint32_t reserved;
};
VFIO_UAPI_LAYOUT(vfio_device_low_power_entry_with_wakeup, 8, wakeup_eventfd, 0, reserved, 4)

inline constexpr uint32_t VFIO_DEVICE_FEATURE_CLEAR_MASTER = 0;
inline constexpr uint32_t VFIO_DEVICE_FEATURE_SET_MASTER = 1;

// 6.7.
struct vfio_device_feature_bus_master {
  uint32_t op;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_bus_master, 4, op, 0)

// 6.19. An element of the array below, page aligned and inside the region.
struct vfio_region_dma_range {
  uint64_t offset;
  uint64_t length;
};
VFIO_UAPI_LAYOUT(vfio_region_dma_range, 16, offset, 0, length, 8)

// 6.19. Then `nr_ranges` of vfio_region_dma_range. The request returns the descriptor.
struct vfio_device_feature_dma_buf {
  uint32_t region_index;
  uint32_t open_flags;
  uint32_t flags;
  uint32_t nr_ranges;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_dma_buf, 16, region_index, 0, open_flags, 4, flags, 8, nr_ranges, 12)

// 7.3. `data` points to as many bytes as ccdf_err_length of the zPCI base capability says.
struct vfio_device_feature_zpci_err {
  uint64_t data;
};
VFIO_UAPI_LAYOUT(vfio_device_feature_zpci_err, 8, data, 0)

}  // namespace vfio::uapi
