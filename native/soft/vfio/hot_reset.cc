// Resets of a whole bus, for devices that can't be reset alone. See session.h. (On this host no bus has a
// lower bus with devices that are bound to vfio-pci. The kernel would reset such a lower bus too.)
#include <algorithm>
#include <cerrno>

#include "../../uapi/vfio.h"
#include "../pci/function.h"
#include "device.h"
#include "group.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

void resetBus(pci::Function& member) {
  std::vector<pci::Function::State> states;
  for (const auto* function : member.bus.functions) states.push_back(function->saveState());
  for (auto* function : member.bus.functions) function->reset(devices::ResetKind::bus);
  for (size_t i = 0; i < states.size(); ++i) {
    auto& function = *member.bus.functions[i];
    function.restoreState(states[i]);
    if (function.vfio) Device::of(function)->needsReset = false;
  }
}

// A virtual function can't be reset together with other functions. If there is one on the bus, nobody owns
// the whole bus.
bool busHeldByVfio(const pci::Function& member) {
  return std::ranges::all_of(member.bus.functions, [](const pci::Function* function) {
    return function->vfio && !function->physical;
  });
}

namespace {

bool isInGroups(const Device& device, std::span<const std::shared_ptr<GroupFile>> files) {
  return std::ranges::any_of(files,
                             [&device](const auto& file) { return &file->group() == device.group.get(); });
}

}  // namespace

// The device's id in our iommufd; 0 for a neighbour that we own through its group; all ones otherwise.
uint32_t Session::ownerId(const pci::Function& function) const {
  const bool together = !function.physical && !function_.physical;
  if (!function.vfio || (!together && &function != &function_)) return VFIO_PCI_DEVID_NOT_OWNED;
  const void* mine = function_.endpoint->group.owner;
  if (mine == nullptr || function.endpoint->group.owner != mine) return VFIO_PCI_DEVID_NOT_OWNED;
  const Device& device = *Device::of(function);
  return device.bound ? device.bound->id() : VFIO_PCI_DEVID_OWNED;
}

int Session::hotResetInfo(HotResetInfo& out) const {
  if (function_.bus.bridge == nullptr) return -ENODEV;  // a root bus has no reset
  const bool ids = device_.boundAsDevice;
  out = {.flags = ids ? VFIO_PCI_HOT_RESET_FLAG_DEV_ID | VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED : 0,
         .count = static_cast<uint32_t>(function_.bus.functions.size()),
         .devices = {},
         .failed = 0};
  for (const auto* function : function_.bus.functions) {
    const int group = function->endpoint->group.id;
    if (!ids && group == iommu::Group::kNone) {
      out.failed = -EPERM;
      return 0;
    }
    vfio_pci_dependent_device entry{};
    entry.devid = ids ? ownerId(*function) : static_cast<uint32_t>(group);  // group_id there
    entry.bus = function->bus.number;
    entry.devfn = function->devfn;
    if (ids && entry.devid == VFIO_PCI_DEVID_NOT_OWNED) out.flags &= ~VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
    out.devices.push_back(entry);
  }
  return 0;
}

int Session::checkHotReset(size_t groups) const {
  // A file that came from a group must give its groups. Other files give none: their device ids prove
  // ownership.
  if ((groups != 0) == device_.boundAsDevice) return -EINVAL;
  if (function_.bus.bridge == nullptr) return -ENODEV;
  // A request may not give more groups than there are functions to reset.
  return groups > function_.bus.functions.size() ? -EINVAL : 0;
}

int Session::hotReset(std::span<const std::shared_ptr<GroupFile>> groups) {
  if (const int failed = checkHotReset(groups.size())) return failed;
  if (!busHeldByVfio(function_)) return -EINVAL;
  for (const auto* function : function_.bus.functions) {
    const bool ours = device_.boundAsDevice ? ownerId(*function) != VFIO_PCI_DEVID_NOT_OWNED
                                            : isInGroups(*Device::of(*function), groups);
    if (!ours) return -EINVAL;
  }
  resetBus(function_);
  return 0;
}

}  // namespace vfio::soft::cdev
