// The VFIO device: what /dev/vfio/devices/vfioN leads to, and what a group's file gives out by name.
//
// Lives: a `Device` is made when vfio-pci takes a function and dies when it lets go, which it does only while
// no file is open. Each open makes a `DeviceFile`; mappings of registers keep it alive as they do in the
// kernel. The first file that is granted the device begins a `Session` (session.h), the last one ends it: of
// the character device that is the one file that is bound to an iommufd, of a group's any number of them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "../core/file.h"
#include "../iommufd/iommufd.h"
#include "../pci/function.h"

namespace vfio::uapi {
struct vfio_device_bind_iommufd;
}
namespace vfio::soft {
class Services;
}

namespace vfio::soft::cdev {

class Group;
class GroupFile;
class Session;

using Token = std::array<uint8_t, 16>;

class Device final : public pci::Holder {
 public:
  Device(Services& host, pci::Function& function, unsigned index, std::shared_ptr<Group> group);
  ~Device() override;

  // The one that holds this function; null: none does.
  [[nodiscard]] static Device* of(const pci::Function& function) {
    return static_cast<Device*>(function.vfio.get());
  }

  // The character device's file, not granted anything yet.
  [[nodiscard]] std::shared_ptr<File> open();
  // A file that is. Translated by the iommufd's compat IOAS, or without one by the group's container.
  [[nodiscard]] int openByGroup(const std::shared_ptr<File>& iommufd, std::shared_ptr<File>& out);
  [[nodiscard]] bool inUse() const override { return files != 0; }
  void requestRelease() override;  // by the REQ interrupt

  // The token that whoever opens a virtual function of this one must show, and whoever opens this one while
  // others have virtual ones of it open: 0, -EACCES, or -EINVAL for one that nobody asks for. Of a physical
  // function that nobody's are open of, it becomes the token.
  [[nodiscard]] int checkToken(const Token* token);

  // One more file that is granted the device: 0, or why the first one can't be.
  [[nodiscard]] int enter(const std::shared_ptr<File>& iommufd);
  void leave();

  Services& host;
  pci::Function& function;
  const unsigned index;
  const std::shared_ptr<Group> group;
  unsigned files = 0;
  bool needsReset = true;      // closed, and not reset since
  bool boundAsDevice = false;  // by its character device, not opened by its group
  std::unique_ptr<iommufd::BoundDevice>
      bound;  // during a session with an iommufd; without IOMMU there is none
  std::unique_ptr<Session> session;
  std::optional<Token> token;  // of a physical function
  unsigned tokenUsers = 0;     // virtual functions of it that are open
  // Of a virtual function that vfio-pci made: the physical one, which outlives it.
  Device* const physical;

 private:
  unsigned granted_ = 0;                  // files
  std::shared_ptr<GroupFile> groupFile_;  // during a session by way of a container
};

class DeviceFile final : public File, public std::enable_shared_from_this<DeviceFile> {
 public:
  enum class Origin : uint8_t { device, group };  // the character device, or the group's file
  DeviceFile(Device& device, Origin origin);
  ~DeviceFile() override;
  DeviceFile(const DeviceFile&) = delete;
  DeviceFile& operator=(const DeviceFile&) = delete;

  [[nodiscard]] FileKind kind() const override { return FileKind::device; }
  [[nodiscard]] int ioctl(unsigned long request, UserAddress argument) override;
  [[nodiscard]] Calls calls() const override { return {.reads = true, .writes = true}; }
  [[nodiscard]] int64_t read(UserAddress user, size_t size) override;
  [[nodiscard]] int64_t write(UserAddress user, size_t size) override;
  [[nodiscard]] int64_t pread(UserAddress user, size_t size, uint64_t offset) override;
  [[nodiscard]] int64_t pwrite(UserAddress user, size_t size, uint64_t offset) override;
  [[nodiscard]] int64_t mmap(void* hint, size_t length, int protection, int flags, uint64_t offset) override;

 private:
  [[nodiscard]] int bind(UserAddress argument);
  [[nodiscard]] int grant(UserAddress argument, uapi::vfio_device_bind_iommufd& bind);
  [[nodiscard]] int attach(UserAddress argument);
  [[nodiscard]] int detach(UserAddress argument);

  Device& device_;
  const bool ofGroup_;
  bool granted_;  // everything is open to this file
  uint64_t position_ = 0;
};

}  // namespace vfio::soft::cdev
