#include "groups.h"

#include <algorithm>
#include <cerrno>

#include "../driver.h"

namespace vfio::soft::machine::sysfs {

namespace {

const char* kindName(iommu::ReservedKind kind) {
  switch (kind) {
    case iommu::ReservedKind::direct:
      return "direct";
    case iommu::ReservedKind::directRelaxable:
      return "direct-relaxable";
    case iommu::ReservedKind::reserved:
      return "reserved";
    default:
      return "msi";
  }
}

std::string reservedText(const iommu::Group& group) {
  std::vector<iommu::ReservedRegion> regions;
  const auto add = [&regions](const iommu::ReservedRegion& region) {
    const auto same = [&region](const iommu::ReservedRegion& other) {
      return other.range.start == region.range.start && other.range.last == region.range.last &&
             other.kind == region.kind;
    };
    if (std::none_of(regions.begin(), regions.end(), same)) regions.push_back(region);
  };
  for (const auto* member : group.members) {
    for (const auto& region : member->unit.reserved) add(region);
    for (const auto& region : member->reserved) add(region);
  }
  std::sort(regions.begin(), regions.end(),
            [](const auto& a, const auto& b) { return a.range.start < b.range.start; });
  std::string text;
  for (const auto& region : regions) {
    text += format("0x%016llx 0x%016llx %s\n", static_cast<unsigned long long>(region.range.start),
                   static_cast<unsigned long long>(region.range.last), kindName(region.kind));
  }
  return text;
}

}  // namespace

void GroupFiles::addGroup(iommu::Group& group) {
  const std::string path = groupsPath + "/" + std::to_string(group.id);
  tree_.directory(path + "/devices");
  tree_.attribute(path + "/reserved_regions", {[&group](std::string& text) {
                                                 text = reservedText(group);
                                                 return 0;
                                               },
                                               nullptr});
  if (group.by != iommu::Confinement::iommu) {
    // A group that VFIO has made has no domain of the kernel's. Groups of mediated devices have the same
    // name.
    addText(tree_, path + "/name", "vfio-noiommu\n");
    tree_.attribute(path + "/type", {[](std::string& text) {
                                       text = "unknown\n";
                                       return 0;
                                     },
                                     store([](std::string_view) { return -EINVAL; })});
    return;
  }
  const auto type = std::make_shared<std::string>("identity");
  tree_.attribute(path + "/type", {[type](std::string& text) {
                                     text = *type + "\n";
                                     return 0;
                                   },
                                   store([type, &group](std::string_view text) {
                                     const std::string wanted(trimmed(text));
                                     const bool known = wanted == "identity" || wanted == "DMA" ||
                                                        wanted == "DMA-FQ" || wanted == "auto";
                                     if (!known) return -EINVAL;
                                     // The change from DMA to DMA-FQ needs no new domain; every other does.
                                     const bool easy = wanted == "DMA-FQ" && *type == "DMA";
                                     if (!easy && (group.owner != nullptr || group.kernelDrivers != 0)) {
                                       return -EPERM;
                                     }
                                     *type = wanted == "auto" ? "identity" : wanted;
                                     return 0;
                                   })});
}

void GroupFiles::removeGroup(const iommu::Group& group) {
  tree_.remove(groupsPath + "/" + std::to_string(group.id));
}

void GroupFiles::enterGroup(const pci::Function& function) {
  const std::string group = groupsPath + "/" + std::to_string(function.endpoint->group.id);
  tree_.link(function.path + "/iommu_group", group);
  tree_.link(group + "/devices/" + function.bdf, function.path);
}

void GroupFiles::leaveGroup(const pci::Function& function) {
  tree_.remove(function.path + "/iommu_group");
  tree_.remove(groupsPath + "/" + std::to_string(function.endpoint->group.id) + "/devices/" + function.bdf);
}

}  // namespace vfio::soft::machine::sysfs
