#include "vfio_driver.h"

#include <cerrno>

#include "../core/engine.h"
#include "../core/services.h"
#include "../vfio/device.h"

namespace vfio::soft::machine {

// The VFIO group of the function, which is made if there is none yet.
std::shared_ptr<cdev::Group> VfioDriver::group(const Function& function) {
  iommu::Group& group = function.endpoint->group;
  auto& slot = vfioGroups_[group.id];
  if (!slot) {
    slot = std::make_shared<cdev::Group>(host_, group);
    files_.addVfioGroup(slot->name(),
                        [made = slot.get()](int, std::shared_ptr<File>& out) { return made->open(out); });
  }
  return slot;
}

int VfioDriver::probe(Function& function) {
  if (function.isBridge()) return -EINVAL;
  if (function.sriov && function.sriov->count != 0) return -EBUSY;  // programs may have them open
  if (!function.translated) {
    if (const int failed = groups_.lend(function, host_.parameters().unsafeNoIommu)) return failed;
  }
  make(function);
  return 0;
}

void VfioDriver::make(Function& function) {
  const unsigned index = indexes_.take();
  auto device = std::make_unique<cdev::Device>(host_, function, index, this->group(function));
  cdev::Device& made = *device;
  function.vfio = std::move(device);
  files_.addVfio(function, index, [&made](int, std::shared_ptr<File>& out) {
    out = made.open();
    return 0;
  });
}

int VfioDriver::remove(Function& function) {
  if (function.vfio->inUse()) {
    function.vfio->requestRelease();
    return -EBUSY;
  }
  const auto& device = *cdev::Device::of(function);
  files_.removeVfio(function, device.index);
  indexes_.giveBack(device.index);
  const auto group = device.group;
  const std::string name = group->name();
  function.vfio.reset();
  if (group->empty()) {
    files_.removeVfioGroup(name);
    vfioGroups_.erase(function.endpoint->group.id);
  }
  if (function.endpoint->group.by == iommu::Confinement::none) groups_.takeBack(function);
  return 0;
}

int VfioDriver::askToLeave(Function& function) {
  constexpr std::chrono::seconds patience(10);
  const auto now = function.host.engine().now();
  const auto [told, isNew] = leaving_.try_emplace(&function, now);
  if (isNew) {
    files_.hideVfio(function, cdev::Device::of(function)->index);
    if (function.driver) drivers_.driverChanged(function, *function.driver, false);
  }
  if (!isNew && now - told->second < patience) return -EBUSY;
  told->second = now;
  function.vfio->requestRelease();
  return -EBUSY;
}

}  // namespace vfio::soft::machine
