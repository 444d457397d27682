#include "mdevs.h"

#include <cerrno>

namespace vfio::soft::machine::sysfs {

namespace {

const std::string mdevBus = "/sys/bus/mdev";
const std::string mdevDriver = mdevBus + "/drivers/edu-mdev";

}  // namespace

void MdevFiles::addMdevParent(const pci::Function& parent) {
  const std::string type = parent.path + "/mdev_supported_types/edu-1";
  addText(tree_, type + "/name", "Share of an edu device\n");
  addText(tree_, type + "/device_api", "vfio-pci\n");
  addText(tree_, type + "/available_instances", "0\n");
  tree_.link("/sys/class/mdev_bus/" + parent.bdf, parent.path);
}

void MdevFiles::removeMdevParent(const pci::Function& parent) {
  tree_.remove("/sys/class/mdev_bus/" + parent.bdf);
  tree_.remove(parent.path + "/mdev_supported_types");
}

void MdevFiles::addMdev(pci::Function& mdev, const pci::Function& parent, std::function<int()> remove) {
  const std::string& path = mdev.path;
  const std::string type = parent.path + "/mdev_supported_types/edu-1";
  tree_.attribute(path + "/remove", {nullptr, store([remove = std::move(remove)](std::string_view text) {
                                       uint64_t value = 0;
                                       if (number(text, UINT64_MAX, value) != 0) return -EINVAL;
                                       return value == 0 ? 0 : remove();
                                     })});
  addText(tree_, path + "/uevent", "DRIVER=edu-mdev\n");
  tree_.link(path + "/mdev_type", type);
  tree_.link(type + "/devices/" + mdev.bdf, path);
  tree_.link(path + "/subsystem", mdevBus);
  tree_.link(mdevBus + "/devices/" + mdev.bdf, path);
  tree_.link(path + "/driver", mdevDriver);
  tree_.link(mdevDriver + "/" + mdev.bdf, path);
  groups_.enterGroup(mdev);
}

void MdevFiles::removeMdev(const pci::Function& mdev, const pci::Function& parent) {
  groups_.leaveGroup(mdev);
  tree_.remove(mdevDriver + "/" + mdev.bdf);
  tree_.remove(mdevBus + "/devices/" + mdev.bdf);
  tree_.remove(parent.path + "/mdev_supported_types/edu-1/devices/" + mdev.bdf);
  tree_.remove(mdev.path);
}

}  // namespace vfio::soft::machine::sysfs
