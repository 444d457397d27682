// Puts the machine into the file tree: what the kernel shows of functions, drivers, groups, IOMMUs and VFIO
// devices, with its texts.
#pragma once

#include "../core/parameters.h"
#include "../files/tree.h"
#include "../pci/function.h"
#include "../topology/topology.h"
#include "driver.h"
#include "numbers.h"

namespace vfio::soft::machine {

class Sysfs {
 public:
  Sysfs(files::Tree& tree, DriverCore& core) : tree_(tree), core_(core) {}

  void addBus();
  // The command line, the mounts, and the parameters of modules, which the command line may have set.
  void addSystem(const topology::SystemSpec& system, Parameters& parameters);
  void addDriver(Driver& driver);
  void addUnit(const iommu::Unit& unit);
  void addGroup(iommu::Group& group);
  void addFunction(Function& function);
  void removeFunction(Function& function);
  // Of a physical function: what writing the number of its virtual ones does is 0 or -errno.
  using SetVirtual = std::function<int(Function&, unsigned)>;
  void addSriov(Function& function, SetVirtual set);
  void addVirtual(Function& function, unsigned index);
  void removeVirtual(const Function& function, unsigned index);
  // One whose driver makes mediated devices of it.
  void addMdevParent(const Function& parent);
  void removeMdevParent(const Function& parent);
  // A mediated device, which is in its group already. `remove` is what its file of that name does: 0 or
  // -errno.
  void addMdev(Function& mdev, const Function& parent, std::function<int()> remove);
  void removeMdev(const Function& mdev, const Function& parent);
  void removeGroup(const iommu::Group& group);
  // The links between a function and its group.
  void enterGroup(const Function& function);
  void leaveGroup(const Function& function);
  // The device can't be opened any more, and is still there.
  void hideVfio(Function& function, unsigned index);
  void driverChanged(Function& function, Driver& driver, bool bound);
  void addVfio(Function& function, unsigned index, files::Opener open);
  void removeVfio(Function& function, unsigned index);
  // The VFIO group of that name: "7".
  void addVfioGroup(const std::string& name, files::Opener open);
  void removeVfioGroup(const std::string& name);

 private:
  void addText(const std::string& path, std::string text);
  void addFlag(const std::string& commandLine, const std::string& module, const std::string& name,
               bool& flag);
  [[nodiscard]] bool hasNode(const Function& function) const;
  void showUse(Function& function, bool shown);

  files::Tree& tree_;
  bool deviceNodes_ = true;
  std::map<std::string, std::string> mounts_;  // lines of /proc/self/mountinfo, by disk
  std::map<std::string, std::string> routes_;  // lines of /proc/net/route, by interface
  DriverCore& core_;
  Numbers minors_;
  std::map<std::string, unsigned> groupMinors_;  // of VFIO groups, by name
};

}  // namespace vfio::soft::machine
