// The devices and groups of VFIO, with their nodes in /dev/vfio.
#pragma once

#include <map>
#include <string>

#include "../../pci/function.h"
#include "../numbers.h"
#include "text.h"

namespace vfio::soft::machine::sysfs {

class VfioFiles {
 public:
  // `deviceNodes`: this kernel gives devices nodes of their own.
  VfioFiles(Tree& tree, bool deviceNodes) : tree_(tree), deviceNodes_(deviceNodes) {}

  void addVfio(pci::Function& function, unsigned index, Opener open);
  void removeVfio(pci::Function& function, unsigned index);
  // The device can't be opened any more, and is still there.
  void hideVfio(pci::Function& function, unsigned index);
  // The VFIO group of that name: "7".
  void addVfioGroup(const std::string& name, Opener open);
  void removeVfioGroup(const std::string& name);

 private:
  [[nodiscard]] bool hasNode(const pci::Function& function) const;

  Tree& tree_;
  const bool deviceNodes_;
  Numbers minors_;
  std::map<std::string, unsigned> groupMinors_;  // of VFIO groups, by name
};

}  // namespace vfio::soft::machine::sysfs
