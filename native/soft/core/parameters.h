// Parameters of kernel modules.
//
// Life: the host owns them, and they live as long as the host. Files in /sys/module change them.
#pragma once

#include <cstdint>

namespace vfio::soft {

struct Parameters {
  bool unsafeInterrupts = false;       // iommufd: devices whose interrupts are not isolated may be bound
  bool unsafeNoIommu = false;          // vfio: devices without an IOMMU may be used
  bool sriov = false;                  // vfio-pci: devices may have virtual functions
  bool type1UnsafeInterrupts = false;  // vfio_iommu_type1: the same as iommufd's, for a container
  uint32_t type1EntryLimit =
      UINT16_MAX;  // the limit on the mappings of a container; the container takes it at its SET_IOMMU
};

}  // namespace vfio::soft
