// A device as the guest of a virtual IOMMU sees it: under the guest's name for it.
//
// Life: made by VDEVICE_ALLOC, stays until DESTROY. From 6.17 on a device has at most one vdevice, which is
// destroyed when the device is unbound; its id is then not used again. Before 6.17 a vdevice outlives its
// device, as a mere name.
#pragma once

#include <cstdint>

#include "object.h"

namespace vfio::soft::iommu {
class Endpoint;
}

namespace vfio::soft::iommufd {

class Device;
class Viommu;

class Vdevice final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::vdevice;
  Vdevice(Viommu& itsViommu, Device* itsDevice, const iommu::Endpoint& itsEndpoint, uint64_t itsName);
  ~Vdevice() override;

  Viommu& viommu;
  Device* const device;  // null before 6.17
  const iommu::Endpoint& endpoint;
  const uint64_t name;
};

}  // namespace vfio::soft::iommufd
