// The files of VFIO's devices and groups, with their nodes in /dev/vfio.
#pragma once

#include <map>
#include <string>

#include "../../pci/function.h"
#include "../numbers.h"
#include "text.h"

namespace vfio::soft::machine::sysfs {

class VfioFiles {
 public:
  // `deviceNodes`: whether this kernel gives devices nodes of their own.
  VfioFiles(Tree& tree, bool deviceNodes) : tree_(tree), deviceNodes_(deviceNodes) {}

  void addVfio(pci::Function& function, unsigned index, Opener open);
  void removeVfio(pci::Function& function, unsigned index);
  // Removes the files of a device that still exists, so that it can't be opened any more.
  void hideVfio(pci::Function& function, unsigned index);
  // Adds the VFIO group of that name, such as "7".
  void addVfioGroup(const std::string& name, Opener open);
  void removeVfioGroup(const std::string& name);

 private:
  [[nodiscard]] bool hasNode(const pci::Function& function) const;

  Tree& tree_;
  const bool deviceNodes_;
  Numbers minors_;
  std::map<std::string, unsigned> groupMinors_;  // the minor numbers of VFIO groups, by name
};

}  // namespace vfio::soft::machine::sysfs
