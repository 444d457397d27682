// A container: the file behind /dev/vfio/vfio. A program puts groups into it; its back end maps memory for
// all of them.
//
// Life: made by an open of /dev/vfio/vfio. Its descriptors and its groups own it together: it is destroyed
// when the descriptors are closed and it contains no group. SET_IOMMU makes its back end; the removal of the
// last group destroys it.
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

  // Adds the group and claims its DMA for the group. Returns 0; -EPERM if the DMA has another owner, if the
  // caller may not use a group without an IOMMU, or if such a group would be in one container with a group
  // that has one; or the error of the back end that can't take the group.
  [[nodiscard]] int add(Group& group);
  void remove(Group& group);
  [[nodiscard]] bool hasBackEnd() const { return type1_ != nullptr || noIommuSet_; }

 private:
  [[nodiscard]] int checkExtension(uint64_t extension) const;
  [[nodiscard]] int setIommu(uint64_t type);
  [[nodiscard]] bool isNoIommu(uint64_t type) const;

  Services& host_;
  std::vector<Group*> groups_;
  bool noIommu_ = false;  // its groups have no IOMMU
  // The back end, at most one: type1, or the back end for groups without an IOMMU, which maps nothing.
  std::unique_ptr<type1::Type1> type1_;
  bool noIommuSet_ = false;
};

}  // namespace vfio::soft::cdev
