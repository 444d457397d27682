// PCI functions: their attributes, config space and links, and the files of SR-IOV.
#pragma once

#include <functional>

#include "../../pci/function.h"
#include "groups.h"
#include "text.h"

namespace vfio::soft::machine::sysfs {

using pci::Function;

class FunctionFiles {
 public:
  FunctionFiles(Tree& tree, GroupFiles& groups) : tree_(tree), groups_(groups) {}

  void addFunction(Function& function);
  void removeFunction(Function& function);
  // Of a physical function: what writing the number of its virtual ones does is 0 or -errno.
  using SetVirtual = std::function<int(Function&, unsigned)>;
  void addSriov(Function& function, SetVirtual set);
  void addVirtual(Function& function, unsigned index);
  void removeVirtual(const Function& function, unsigned index);

 private:
  Tree& tree_;
  GroupFiles& groups_;
};

}  // namespace vfio::soft::machine::sysfs
