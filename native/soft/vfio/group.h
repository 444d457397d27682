// A group as VFIO has it: the functions of one IOMMU group that vfio-pci holds, and what /dev/vfio/N leads
// to.
//
// A `Group` is made with the first such function and given up with the last; an open file keeps it, empty. At
// most one file of it is open at a time, and none while one of its devices is bound as a character device.
// The `GroupFile` is closed with its last descriptor, or, where its devices are open by way of a container,
// with the last of those: they hold it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../core/file.h"
#include "../iommu/endpoint.h"
#include "container.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::cdev {

class Device;
class GroupFile;

class Group : public std::enable_shared_from_this<Group> {
 public:
  Group(Services& itsHost, iommu::Group& group)
      : host(itsHost), by(group.by), id_(group.id), group_(&group) {}

  // --- its devices come and go with vfio-pci
  void add(Device& device) { devices_.push_back(&device); }
  void remove(Device& device);
  [[nodiscard]] bool empty() const { return devices_.empty(); }

  // As its node in /dev/vfio is called: "7", "noiommu-7".
  [[nodiscard]] std::string name() const { return (isUnsafe() ? "noiommu-" : "") + std::to_string(id_); }
  // Null once its last device has gone.
  [[nodiscard]] iommu::Group* iommuGroup() const { return group_; }
  [[nodiscard]] int open(std::shared_ptr<File>& out);

  // --- for devices that are bound as character devices: -EBUSY while the group's file is open
  [[nodiscard]] int block();
  void unblock() { --boundDevices_; }

  // --- for devices that are opened by the group's file
  [[nodiscard]] const std::shared_ptr<File>& iommufd() const { return iommufd_; }
  // Keeps the file and the container as they are: -EINVAL while the container has no back end, -EPERM (nobody
  // may who has no CAP_SYS_RAWIO, without IOMMU).
  [[nodiscard]] int use(std::shared_ptr<GroupFile>& keeper);
  void unuse() { --containerUsers_; }

  Services& host;
  const iommu::Confinement by;
  // Do its devices reach all memory?
  [[nodiscard]] bool isUnsafe() const { return by == iommu::Confinement::none; }

 private:
  friend class GroupFile;
  [[nodiscard]] bool isSet() const { return container_ != nullptr || iommufd_ != nullptr; }
  [[nodiscard]] int setContainer(UserAddress argument);
  [[nodiscard]] int unsetContainer();
  [[nodiscard]] int getStatus(UserAddress argument) const;
  [[nodiscard]] int getDevice(UserAddress argument);
  [[nodiscard]] int find(std::string_view name, Device*& out) const;
  void leaveContainer();

  const int id_;
  iommu::Group* group_;
  std::vector<Device*> devices_;  // in the order of their coming
  GroupFile* opened_ = nullptr;
  unsigned boundDevices_ = 0;
  // What translates for it: one of both, or none.
  std::shared_ptr<Container> container_;
  unsigned containerUsers_ = 0;  // itself, and each open device
  std::shared_ptr<File> iommufd_;
};

class GroupFile final : public File, public std::enable_shared_from_this<GroupFile> {
 public:
  explicit GroupFile(std::shared_ptr<Group> group) : group_(std::move(group)) { group_->opened_ = this; }
  ~GroupFile() override;
  GroupFile(const GroupFile&) = delete;
  GroupFile& operator=(const GroupFile&) = delete;

  [[nodiscard]] FileKind kind() const override { return FileKind::group; }
  [[nodiscard]] int ioctl(unsigned long request, UserAddress argument) override;
  [[nodiscard]] const Group& group() const { return *group_; }

 private:
  const std::shared_ptr<Group> group_;
};

}  // namespace vfio::soft::cdev
