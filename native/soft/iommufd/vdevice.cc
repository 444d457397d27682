#include "vdevice.h"

#include <cerrno>

#include "../../uapi/iommufd.h"
#include "../core/services.h"
#include "../iommu/command_queues.h"
#include "command.h"
#include "device.h"
#include "viommu.h"
#include "virtual_interface.h"

namespace vfio::soft::iommufd {

Vdevice::Vdevice(Viommu& itsViommu, Device* itsDevice, const iommu::Endpoint& itsEndpoint, uint64_t itsName)
    : Object(kKind), viommu(itsViommu), device(itsDevice), endpoint(itsEndpoint), name(itsName) {
  ++viommu.users;
  if (device != nullptr) device->vdevice = this;
}

Vdevice::~Vdevice() {
  const auto found = viommu.vdevices.find(name);
  if (found != viommu.vdevices.end() && found->second == this) viommu.vdevices.erase(found);
  if (device != nullptr) device->vdevice = nullptr;
  --viommu.users;
}

int vdeviceAlloc(Command& command) {
  auto& arguments = command.as<uapi::iommu_vdevice_alloc>();
  Context& context = command.context;
  Viommu* const viommu = context.objects.find<Viommu>(arguments.viommu_id);
  if (viommu == nullptr) return -ENOENT;
  Device* const device = context.objects.find<Device>(arguments.dev_id);
  if (device == nullptr) return -ENOENT;
  if (&device->endpoint.unit != &viommu->unit) return -EINVAL;
  const bool one = context.host.since(6, 17);
  if (one && device->vdevice != nullptr) return -EEXIST;

  Vdevice* const vdevice =
      context.objects.create<Vdevice>(*viommu, one ? device : nullptr, device->endpoint, arguments.virt_id);
  if (vdevice == nullptr) return -EBUSY;
  int error = viommu->vdevices.emplace(arguments.virt_id, vdevice).second ? 0 : -EEXIST;
  if (error == 0 && viommu->interface != nullptr) {
    // Hardware replaces the guest's name by the real one, from a table.
    if (arguments.virt_id > UINT32_MAX) error = -EINVAL;
    if (error == 0 && viommu->vdevices.size() > size_t{1} << iommu::kStreamIdsLog2) error = -ENOSPC;
  }
  if (error == 0) {
    arguments.out_vdevice_id = vdevice->id;
    error = command.respond(sizeof(arguments));
  }
  if (error != 0) {
    context.objects.abort(*vdevice);
    return error;
  }
  ObjectTable::publish(*vdevice);
  return 0;
}

}  // namespace vfio::soft::iommufd
