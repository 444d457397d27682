// Resets of a whole bus, for devices that can't be reset alone. (No bus here has another one below it that
// holds devices of vfio-pci; one that had would be walked too.)
#include <fcntl.h>

#include <algorithm>
#include <cstddef>

#include "../../uapi/vfio.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "../pci/function.h"
#include "device.h"
#include "group.h"
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
    if (function.vfio) Device::of(function)->needsReset = false;
  }
}

// Virtual functions are nobody's companions in a reset: where there are some, nobody has all of the bus.
bool busHeldByVfio(const pci::Function& member) {
  return std::ranges::all_of(member.bus.functions, [](const pci::Function* function) {
    return function->vfio && !function->physical;
  });
}

namespace {

bool isInGroups(const Device& device, const std::vector<std::shared_ptr<File>>& files) {
  return std::ranges::any_of(files, [&device](const std::shared_ptr<File>& file) {
    return &static_cast<const GroupFile&>(*file).group() == device.group.get();
  });
}

}  // namespace

// The device's id in our iommufd, 0 for a neighbour that is ours through its group, all ones otherwise.
uint32_t Session::ownerId(const pci::Function& function) const {
  const bool together = !function.physical && !function_.physical;
  if (!function.vfio || (!together && &function != &function_)) return VFIO_PCI_DEVID_NOT_OWNED;
  const void* mine = function_.endpoint->group.owner;
  if (mine == nullptr || function.endpoint->group.owner != mine) return VFIO_PCI_DEVID_NOT_OWNED;
  const Device& device = *Device::of(function);
  return device.bound ? device.bound->id() : VFIO_PCI_DEVID_OWNED;
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
    const bool ids = device_.boundAsDevice;
    if (ids) info.flags = VFIO_PCI_HOT_RESET_FLAG_DEV_ID | VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
    UserAddress to = argument + sizeof info;
    for (const auto* function : functions) {
      vfio_pci_dependent_device entry{};
      if (!ids && function->endpoint->group.id == iommu::Group::kNone) return -EPERM;
      entry.devid =
          ids ? ownerId(*function) : static_cast<uint32_t>(function->endpoint->group.id);  // group_id there
      entry.bus = function->bus.number;
      entry.devfn = function->devfn;
      if (ids && entry.devid == VFIO_PCI_DEVID_NOT_OWNED) info.flags &= ~VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
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
  // Files that came from a group show their groups, others have their device ids to show.
  if ((request.count != 0) == device_.boundAsDevice) return -EINVAL;
  if (function_.bus.bridge == nullptr) return -ENODEV;
  std::vector<std::shared_ptr<File>> groups;
  if (const int failed = copyGroups(argument + sizeof request, request.count, groups)) return failed;
  if (!busHeldByVfio(function_)) return -EINVAL;
  for (const auto* function : function_.bus.functions) {
    const bool ours = device_.boundAsDevice ? ownerId(*function) != VFIO_PCI_DEVID_NOT_OWNED
                                            : isInGroups(*Device::of(*function), groups);
    if (!ours) return -EINVAL;
  }
  resetBus(function_);
  return 0;
}

// The group files that the program shows: no more of them than there are functions to reset.
int Session::copyGroups(UserAddress from, uint32_t count, std::vector<std::shared_ptr<File>>& files) const {
  if (count > function_.bus.functions.size()) return -EINVAL;
  std::vector<int32_t> descriptors(count);
  if (mm::Memory::copyIn(descriptors.data(), from, count * sizeof(int32_t)) != 0) return -EFAULT;
  for (const int32_t fd : descriptors) {
    auto file = device_.host.file(fd);
    if (!file) return fcntl(fd, F_GETFD) < 0 ? -EBADF : -EINVAL;
    if (dynamic_cast<const GroupFile*>(file.get()) == nullptr) return -EINVAL;
    files.push_back(std::move(file));
  }
  return 0;
}

}  // namespace vfio::soft::cdev
