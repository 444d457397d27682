// A device as a virtual IOMMU's guest has it: under the guest's name for it.
//
// Life: made by VDEVICE_ALLOC, stays until DESTROY. From 6.17 on a device has one at most, and takes it along
// when it is unbound: its id is then not used again. Before, a vdevice outlives its device, as a mere name.
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
