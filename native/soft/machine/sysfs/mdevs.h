// Mediated devices, and the functions that they are made of.
#pragma once

#include <functional>

#include "../../pci/function.h"
#include "groups.h"
#include "text.h"

namespace vfio::soft::machine::sysfs {

class MdevFiles {
 public:
  MdevFiles(Tree& tree, GroupFiles& groups) : tree_(tree), groups_(groups) {}

  // A function whose driver makes mediated devices of it.
  void addMdevParent(const pci::Function& parent);
  void removeMdevParent(const pci::Function& parent);
  // A mediated device, which is in its group already. `remove` is what its file of that name does: 0 or
  // -errno.
  void addMdev(pci::Function& mdev, const pci::Function& parent, std::function<int()> remove);
  void removeMdev(const pci::Function& mdev, const pci::Function& parent);

 private:
  Tree& tree_;
  GroupFiles& groups_;
};

}  // namespace vfio::soft::machine::sysfs
