#include "groups.h"

#include <cerrno>

namespace vfio::soft::machine {

iommu::Group& IommuGroups::get(int id) {
  if (id == iommu::Group::kNone) {
    return groups_.emplace_back(
        iommu::Group{.id = id, .members = {}, .by = iommu::Confinement::none, .exclusive = false});
  }
  const auto known = byId_.find(id);
  if (known != byId_.end()) return *known->second;
  auto& added = groups_.emplace_back(iommu::Group{.id = id, .members = {}});
  numbers_.take(static_cast<unsigned>(id));
  byId_.emplace(id, &added);
  files_.addGroup(added);
  return added;
}

iommu::Group& IommuGroups::addOfDriver(bool exclusive) {
  auto& added = groups_.emplace_back(iommu::Group{
      .id = iommu::Group::kNone, .members = {}, .by = iommu::Confinement::driver, .exclusive = exclusive});
  name(added);
  return added;
}

const iommu::Group* IommuGroups::find(int id) const {
  const auto found = byId_.find(id);
  return found == byId_.end() ? nullptr : found->second;
}

int IommuGroups::lend(pci::Function& function, bool unsafe) {
  if (!unsafe) return -EINVAL;
  name(function.endpoint->group);
  files_.enterGroup(function);
  return 0;
}

// Gives a group the lowest free number, and shows it in sysfs.
void IommuGroups::name(iommu::Group& group) {
  group.id = static_cast<int>(numbers_.take());
  byId_.emplace(group.id, &group);
  files_.addGroup(group);
}

void IommuGroups::unname(iommu::Group& group) {
  files_.removeGroup(group);
  byId_.erase(group.id);
  numbers_.giveBack(static_cast<unsigned>(group.id));
  group.id = iommu::Group::kNone;
}

void IommuGroups::takeBack(const pci::Function& function) {
  files_.leaveGroup(function);
  unname(function.endpoint->group);
}

void IommuGroups::dropIfEmpty(iommu::Group& group) {
  if (group.members.empty() && group.id != iommu::Group::kNone) unname(group);
}

}  // namespace vfio::soft::machine
