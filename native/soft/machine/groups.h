// The IOMMU groups of the machine and their numbers.
//
// Life: a group is made with its first member. It gives its number back with the last one, or, where VFIO
// lent it, when VFIO takes it back; the object stays, since an open file may still know it.
#pragma once

#include <list>
#include <map>

#include "../iommu/endpoint.h"
#include "../pci/function.h"
#include "numbers.h"
#include "sysfs/groups.h"

namespace vfio::soft::machine {

class IommuGroups {
 public:
  explicit IommuGroups(sysfs::GroupFiles& files) : files_(files) {}

  // The group of that number, which is made if it is new. Of Group::kNone: one that nobody sees.
  iommu::Group& get(int id);
  // One whose members a driver isolates, with the lowest number that is free.
  iommu::Group& addOfDriver(bool exclusive);
  [[nodiscard]] const iommu::Group* find(int id) const;                // null: there is none
  [[nodiscard]] unsigned lowest() const { return numbers_.lowest(); }  // number that is free

  // A function without IOMMU is in no group, which VFIO doesn't take unless it is told that it doesn't matter
  // (`unsafe`). Then it makes one, for this function alone and for as long as it is bound to it: 0 or
  // -EINVAL.
  [[nodiscard]] int lend(pci::Function& function, bool unsafe);
  void takeBack(const pci::Function& function);
  // Gives up the number of a group without members.
  void dropIfEmpty(iommu::Group& group);

 private:
  void name(iommu::Group& group);
  void unname(iommu::Group& group);

  sysfs::GroupFiles& files_;
  std::list<iommu::Group> groups_;  // those that are gone have no id: an open file may still know them
  std::map<int, iommu::Group*> byId_;
  Numbers numbers_;
};

}  // namespace vfio::soft::machine
