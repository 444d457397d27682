// A container: what /dev/vfio/vfio leads to. Groups are put into it, a back end maps memory for all of them.
//
// Life: made by an open; lives until its descriptors are closed and no group is in it any more (both the
// descriptors and the groups hold it). Its back end comes with SET_IOMMU and goes with the last group.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../core/file.h"
#include "../type1/type1.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::cdev {

class Group;

class Container final : public File {
 public:
  explicit Container(Services& host) : host_(host) {}

  [[nodiscard]] FileKind kind() const override { return FileKind::container; }
  [[nodiscard]] int ioctl(unsigned long request, UserAddress argument) override;

  // Takes the group's DMA for it: 0, -EPERM (somebody else has it; groups with and without IOMMU don't mix),
  // or why the back end can't have it.
  [[nodiscard]] int add(Group& group);
  void remove(Group& group);
  [[nodiscard]] bool hasBackEnd() const { return type1_ != nullptr || noIommuSet_; }

 private:
  [[nodiscard]] int checkExtension(uint64_t extension) const;
  [[nodiscard]] int setIommu(uint64_t type);
  [[nodiscard]] bool isNoIommu(uint64_t type) const;

  Services& host_;
  std::vector<Group*> groups_;
  bool noIommu_ = false;  // so are its groups
  // The back end, one or none: type1, or the one that maps nothing.
  std::unique_ptr<type1::Type1> type1_;
  bool noIommuSet_ = false;
};

}  // namespace vfio::soft::cdev
