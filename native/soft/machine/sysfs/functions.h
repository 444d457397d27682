// The files of PCI functions: attributes, config space, links, and the files of SR-IOV.
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
  // The files of a physical function. `set` is called when the number of its virtual functions is written: 0
  // or -errno.
  using SetVirtual = std::function<int(Function&, unsigned)>;
  void addSriov(Function& function, SetVirtual set);
  void addVirtual(Function& function, unsigned index);
  void removeVirtual(const Function& function, unsigned index);

 private:
  Tree& tree_;
  GroupFiles& groups_;
};

}  // namespace vfio::soft::machine::sysfs
