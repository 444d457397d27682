// Parameters of kernel modules.
//
// Life: the host's, as long as it lives. Files in /sys/module change them.
#pragma once

#include <cstdint>

namespace vfio::soft {

struct Parameters {
  bool unsafeInterrupts = false;       // iommufd: devices whose interrupts are not isolated may be bound
  bool unsafeNoIommu = false;          // vfio: devices without an IOMMU may be used
  bool sriov = false;                  // vfio-pci: devices may have virtual functions
  bool type1UnsafeInterrupts = false;  // vfio_iommu_type1: as iommufd's, in a container
  uint32_t type1EntryLimit =
      UINT16_MAX;  // ... and how many mappings a container may have, from its SET_IOMMU on
};

}  // namespace vfio::soft
