// The files of IOMMU groups, and the links between groups and their members.
#pragma once

#include "../../iommu/endpoint.h"
#include "../../pci/function.h"
#include "text.h"

namespace vfio::soft::machine::sysfs {

class GroupFiles {
 public:
  explicit GroupFiles(Tree& tree) : tree_(tree) {}

  void addGroup(iommu::Group& group);
  void removeGroup(const iommu::Group& group);
  // Add and remove the links between a function and its group.
  void enterGroup(const pci::Function& function);
  void leaveGroup(const pci::Function& function);

 private:
  Tree& tree_;
};

}  // namespace vfio::soft::machine::sysfs
