// Shared virtual addressing of the software host: two features of a VFIO device, and the file of a bond.
//
// No kernel has these calls: VFIO has never offered a way to bind a process. A kernel answers ENOTTY to the
// features. The numbers are far above the kernel's own, which count up from 0.
//
// Life of a bond: VFIO_DEVICE_FEATURE_SVA_BIND makes it and a descriptor of it. The last close of the
// descriptor ends it.
#pragma once

#include <cstdint>

#include "layout.h"
#include "vfio_feature.h"

namespace vfio::uapi {

// Is SVA enabled for this device (GET), and enable or disable it (SET)? A probe: can it be?
inline constexpr uint32_t VFIO_DEVICE_FEATURE_SVA = 0xf000;

inline constexpr uint32_t VFIO_SVA_ENABLED = 1 << 0;

struct vfio_device_feature_sva {
  uint32_t flags;
  uint32_t pasid_bits;  // out, of GET: what the device and its IOMMU can carry
};

// SET: binds the address space of a process to the device.
inline constexpr uint32_t VFIO_DEVICE_FEATURE_SVA_BIND = 0xf001;

inline constexpr uint32_t VFIO_SVA_BIND_PID = 1 << 0;        // of the process `pid`, not of the caller
inline constexpr uint32_t VFIO_SVA_BIND_EXCLUSIVE = 1 << 1;  // EEXIST if the two are bound already

struct vfio_device_feature_sva_bind {
  uint32_t flags;
  int32_t pid;
  int32_t bond_fd;  // out
  uint32_t pasid;   // out
};

// A request on the descriptor of a bond.
inline constexpr uint32_t VFIO_SVA_BOND_INFO = request(VFIO_BASE + 120);

inline constexpr uint32_t VFIO_SVA_BOND_EXITED = 1 << 0;    // the process has ended
inline constexpr uint32_t VFIO_SVA_BOND_DETACHED = 1 << 1;  // the device was closed, or removed

struct vfio_sva_bond_info {
  uint32_t argsz;
  uint32_t flags;  // out
  uint32_t pasid;  // out; VFIO_SVA_NO_PASID with any of the flags
  uint32_t reserved;
};

inline constexpr uint32_t VFIO_SVA_NO_PASID = 0xffffffff;

// What a read of the descriptor gives: the faults so far, then the exit.
enum vfio_sva_event_type : uint32_t {
  VFIO_SVA_EVENT_EXIT = 1,   // once
  VFIO_SVA_EVENT_FAULT = 2,  // a page request that was answered `invalid`
};

struct vfio_sva_event {
  uint32_t type;
  uint32_t pasid;
  uint64_t address;  // of a fault
  uint32_t perm;     // IOMMU_PGFAULT_PERM_*
  uint32_t group;    // the index of the page request's group
  uint32_t reason;   // VFIO_SVA_FAULT_*
  uint32_t lost;     // how many faults before this one were dropped for lack of room
};

enum vfio_sva_fault_reason : uint32_t {
  VFIO_SVA_FAULT_NO_AREA = 1,        // nothing is mapped there
  VFIO_SVA_FAULT_NOT_PERMITTED = 2,  // the area does not allow the access
  VFIO_SVA_FAULT_NO_MEMORY = 3,      // the area has no memory there, or none can be had
  VFIO_SVA_FAULT_EXITED = 4,         // the process has ended
};

}  // namespace vfio::uapi
