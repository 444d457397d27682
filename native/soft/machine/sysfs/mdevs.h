// The files of mediated devices and of their parents.
#pragma once

#include <functional>

#include "../../pci/function.h"
#include "groups.h"
#include "text.h"

namespace vfio::soft::machine::sysfs {

class MdevFiles {
 public:
  MdevFiles(Tree& tree, GroupFiles& groups) : tree_(tree), groups_(groups) {}

  // Adds the files of a parent: a function of which its driver makes mediated devices.
  void addMdevParent(const pci::Function& parent);
  void removeMdevParent(const pci::Function& parent);
  // Adds the files of a mediated device, which is in its group already. `remove` is called when its file of
  // that name is written: 0 or -errno.
  void addMdev(pci::Function& mdev, const pci::Function& parent, std::function<int()> remove);
  void removeMdev(const pci::Function& mdev, const pci::Function& parent);

 private:
  Tree& tree_;
  GroupFiles& groups_;
};

}  // namespace vfio::soft::machine::sysfs
