// Resets of a whole bus, for devices that can't be reset alone. (No bus here has another one below it that
// holds devices of vfio-pci; one that had would be walked too.)
#include <cstddef>

#include "../../uapi/vfio.h"
#include "../mm/memory.h"
#include "../pci/function.h"
#include "device.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

void resetBus(pci::Function& member) {
  std::vector<pci::Function::State> states;
  for (const auto* function : member.bus.functions) states.push_back(function->saveState());
  for (auto* function : member.bus.functions) function->reset();
  for (size_t i = 0; i < states.size(); ++i) {
    auto& function = *member.bus.functions[i];
    function.restoreState(states[i]);
    if (function.vfio) function.vfio->needsReset = false;
  }
}

bool busHeldByVfio(const pci::Function& member) {
  for (const auto* function : member.bus.functions) {
    if (!function->vfio) return false;
  }
  return true;
}

// The device's id in our iommufd, 0 for a neighbour that is ours through its group, all ones otherwise.
uint32_t Session::ownerId(const pci::Function& function) const {
  if (!function.vfio) return VFIO_PCI_DEVID_NOT_OWNED;
  const void* mine = function_.endpoint->group.owner;
  if (mine == nullptr || function.endpoint->group.owner != mine) return VFIO_PCI_DEVID_NOT_OWNED;
  return function.vfio->bound ? function.vfio->bound->id() : VFIO_PCI_DEVID_OWNED;
}

int Session::getHotResetInfo(UserAddress argument) {
  vfio_pci_hot_reset_info info{};
  if (mm::Memory::copyIn(&info, argument, sizeof info) != 0) return -EFAULT;
  if (info.argsz < sizeof info) return -EINVAL;
  info.flags = 0;
  if (function_.bus.bridge == nullptr) return -ENODEV;  // a root bus has no reset
  const auto& functions = function_.bus.functions;
  int result = 0;
  info.count = static_cast<uint32_t>(functions.size());
  if (functions.size() > (info.argsz - sizeof info) / sizeof(vfio_pci_dependent_device)) {
    result = -ENOSPC;
  } else {
    info.flags = VFIO_PCI_HOT_RESET_FLAG_DEV_ID | VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
    UserAddress to = argument + sizeof info;
    for (const auto* function : functions) {
      vfio_pci_dependent_device entry{};
      entry.devid = ownerId(*function);
      entry.bus = function->bus.number;
      entry.devfn = function->devfn;
      if (entry.devid == VFIO_PCI_DEVID_NOT_OWNED) info.flags &= ~VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
      if (mm::Memory::copyOut(to, &entry, sizeof entry) != 0) return -EFAULT;
      to += sizeof entry;
    }
  }
  return mm::Memory::copyOut(argument, &info, sizeof info) != 0 ? -EFAULT : result;
}

int Session::hotReset(UserAddress argument) {
  vfio_pci_hot_reset request{};
  if (mm::Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  if (request.argsz < sizeof request || request.flags != 0) return -EINVAL;
  if (request.count != 0) return -EINVAL;  // a list of groups is for files that came from a group
  if (function_.bus.bridge == nullptr) return -ENODEV;
  if (!busHeldByVfio(function_)) return -EINVAL;
  for (const auto* function : function_.bus.functions) {
    if (ownerId(*function) == VFIO_PCI_DEVID_NOT_OWNED) return -EINVAL;
  }
  resetBus(function_);
  return 0;
}

}  // namespace vfio::soft::cdev
