#include "vfio.h"

#include "../../core/services.h"

namespace vfio::soft::machine::sysfs {

namespace {

constexpr unsigned groupMajor = 252;
constexpr unsigned deviceMajor = 251;

}  // namespace

void VfioFiles::hideVfio(pci::Function& function, unsigned index) {
  const std::string name = "vfio" + std::to_string(index);
  if (hasNode(function)) tree_.remove("/dev/vfio/devices/" + name);
  tree_.remove("/sys/class/vfio-dev/" + name);
  tree_.remove(function.path + "/vfio-dev");
}

void VfioFiles::addVfioGroup(const std::string& name, Opener open) {
  const std::string path = "/sys/devices/virtual/vfio/" + name;
  const unsigned minor = minors_.take();
  groupMinors_[name] = minor;
  addText(tree_, path + "/dev", format("%u:%u\n", groupMajor, minor));
  addText(tree_, path + "/uevent",
          format("MAJOR=%u\nMINOR=%u\nDEVNAME=vfio/%s\n", groupMajor, minor, name.c_str()));
  tree_.link(path + "/subsystem", "/sys/class/vfio");
  tree_.link("/sys/class/vfio/" + name, path);
  tree_.device("/dev/vfio/" + name, std::move(open), groupMajor, minor);
}

void VfioFiles::removeVfioGroup(const std::string& name) {
  const auto known = groupMinors_.find(name);
  minors_.giveBack(known->second);
  groupMinors_.erase(known);
  tree_.remove("/dev/vfio/" + name);
  tree_.remove("/sys/class/vfio/" + name);
  tree_.remove("/sys/devices/virtual/vfio/" + name);
}

// Whether the device has a character device of its own. A device without an IOMMU has none.
bool VfioFiles::hasNode(const pci::Function& function) const {
  return deviceNodes_ && function.host.since(6, 6) && function.endpoint->group.by != iommu::Confinement::none;
}

void VfioFiles::addVfio(pci::Function& function, unsigned index, Opener open) {
  const std::string name = "vfio" + std::to_string(index);
  const std::string path = function.path + "/vfio-dev/" + name;
  tree_.link(path + "/device", function.path);
  tree_.link(path + "/subsystem", "/sys/class/vfio-dev");
  tree_.link("/sys/class/vfio-dev/" + name, path);
  if (!hasNode(function)) {
    addText(tree_, path + "/uevent", "");
    return;
  }
  addText(tree_, path + "/dev", format("%u:%u\n", deviceMajor, index));
  addText(tree_, path + "/uevent",
          format("MAJOR=%u\nMINOR=%u\nDEVNAME=vfio/devices/%s\n", deviceMajor, index, name.c_str()));
  tree_.device("/dev/vfio/devices/" + name, std::move(open), deviceMajor, index);
}

void VfioFiles::removeVfio(pci::Function& function, unsigned index) { hideVfio(function, index); }

}  // namespace vfio::soft::machine::sysfs
