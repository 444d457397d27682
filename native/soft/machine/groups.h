// The IOMMU groups of the machine and their numbers.
//
// Life: a group is made with its first member. Its number is free again when its last member is removed, or,
// if VFIO has made the group for a device without an IOMMU, when VFIO is unbound from that. The object is not
// destroyed, since an open file may still refer to it.
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

  // The group with that number, which is made if it is new. For Group::kNone: a new group that sysfs does not
  // show.
  iommu::Group& get(int id);
  // Makes a group whose members a driver isolates, with the lowest free number.
  iommu::Group& addOfDriver(bool exclusive);
  [[nodiscard]] const iommu::Group* find(int id) const;                // null: there is none
  [[nodiscard]] unsigned lowest() const { return numbers_.lowest(); }  // the lowest free number

  // A function without an IOMMU is in no group, and VFIO refuses it unless no-IOMMU mode is on (`unsafe`).
  // Then VFIO makes a group for this function alone, for as long as it is bound to VFIO. 0 or -EINVAL.
  [[nodiscard]] int lend(pci::Function& function, bool unsafe);
  void takeBack(const pci::Function& function);
  // If a group has no members, frees its number.
  void dropIfEmpty(iommu::Group& group);

 private:
  void name(iommu::Group& group);
  void unname(iommu::Group& group);

  sysfs::GroupFiles& files_;
  std::list<iommu::Group> groups_;  // removed ones too, without an id: an open file may still refer to them
  std::map<int, iommu::Group*> byId_;
  Numbers numbers_;
};

}  // namespace vfio::soft::machine
