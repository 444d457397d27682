// A group of VFIO: the functions of one IOMMU group that are bound to vfio-pci. Its file is /dev/vfio/N.
//
// Lives: a `Group` is made when the first such function is bound. The machine drops it when the last one is
// unbound; if its file is open, the file keeps the group alive, empty. At most one file of a group is open at
// a time, and none while one of its devices is bound as a character device. A `GroupFile` is made by an open.
// It is destroyed when its last descriptor is closed. Devices that are open by way of a container keep it
// alive until the last of them is closed.
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

  // --- vfio-pci adds and removes the group's devices
  void add(Device& device) { devices_.push_back(&device); }
  void remove(Device& device);
  [[nodiscard]] bool empty() const { return devices_.empty(); }

  // The name of its node in /dev/vfio: "7", "noiommu-7".
  [[nodiscard]] std::string name() const { return (isUnsafe() ? "noiommu-" : "") + std::to_string(id_); }
  // Null once its last device is removed.
  [[nodiscard]] iommu::Group* iommuGroup() const { return group_; }
  [[nodiscard]] int open(std::shared_ptr<File>& out);

  // --- for devices that are bound as character devices: -EBUSY while the group's file is open
  [[nodiscard]] int block();
  void unblock() { --boundDevices_; }

  // --- for devices that are opened by the group's file
  [[nodiscard]] const std::shared_ptr<File>& iommufd() const { return iommufd_; }
  // Keeps the file open and the container set, for a device that is opened. Returns 0; -EINVAL while the
  // container has no back end; -EPERM for a group without an IOMMU if the caller lacks CAP_SYS_RAWIO.
  [[nodiscard]] int use(std::shared_ptr<GroupFile>& keeper);
  void unuse() { --containerUsers_; }

  Services& host;
  const iommu::Confinement by;
  // Can its devices reach all memory, because no IOMMU confines them?
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
  std::vector<Device*> devices_;  // in the order in which they were added
  GroupFile* opened_ = nullptr;
  unsigned boundDevices_ = 0;
  // The file that translates for the group: a container, an iommufd, or none.
  std::shared_ptr<Container> container_;
  unsigned containerUsers_ = 0;  // the group itself, and each open device
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
