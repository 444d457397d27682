// The files of the machine's kernel: command line, mounts, routes, parameters of modules, IOMMUs, and the
// disks and network interfaces that host drivers make of their devices.
#pragma once

#include <map>
#include <string>

#include "../../core/parameters.h"
#include "../../iommu/unit.h"
#include "../../pci/function.h"
#include "../../topology/topology.h"
#include "text.h"

namespace vfio::soft::machine::sysfs {

class SystemFiles {
 public:
  explicit SystemFiles(Tree& tree) : tree_(tree) {}

  void addClasses();
  // The command line, the mounts, and the parameters of modules, which the command line may have set.
  void addSystem(const topology::SystemSpec& system, Parameters& parameters);
  void addUnit(const iommu::Unit& unit);
  // Shows or removes the disk and the interface that a host driver makes, with the disk's mount and the
  // interface's route.
  void showUse(pci::Function& function, bool shown);

 private:
  void addFlag(const std::string& commandLine, const std::string& module, const std::string& name,
               bool& flag);

  Tree& tree_;
  std::map<std::string, std::string> mounts_;  // lines of /proc/self/mountinfo, by disk
  std::map<std::string, std::string> routes_;  // lines of /proc/net/route, by interface
};

}  // namespace vfio::soft::machine::sysfs
