// The VFIO device: the file behind /dev/vfio/devices/vfioN, and the file that a group's file opens by name.
//
// Lives: a `Device` is made when vfio-pci is bound to a function. It is destroyed when vfio-pci is unbound,
// which happens only while no file of the device is open. Each open makes a `DeviceFile`; mappings of
// registers keep it alive, as they do in the kernel. The first file that is granted the device begins a
// `Session` (session.h); the session ends when the last such file is closed. Of the files of the character
// device, one is granted the device: the file that is bound to an iommufd. Of the files that come from a
// group, all are.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>

#include "../core/file.h"
#include "../iommufd/iommufd.h"
#include "../pci/function.h"

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

  // The device that holds this function; null if there is none.
  [[nodiscard]] static Device* of(const pci::Function& function) {
    return static_cast<Device*>(function.vfio.get());
  }

  // A file of the character device. It is not granted the device yet.
  [[nodiscard]] std::shared_ptr<File> open();
  // A file that is granted the device. The iommufd's compat IOAS translates the device's DMA; if `iommufd` is
  // null, the group's container does.
  [[nodiscard]] int openByGroup(const std::shared_ptr<File>& iommufd, std::shared_ptr<File>& out);
  [[nodiscard]] bool inUse() const override { return files != 0; }
  void requestRelease() override;  // signals the REQ interrupt

  // Checks the token that a program gives (null: none). A program needs the physical function's token to open
  // one of its virtual functions, and to open the physical function while a virtual function is open.
  // Returns 0; -EACCES for a wrong or missing token; -EINVAL for a token where none is asked for. While no
  // virtual function is open, a token given for the physical function becomes its token.
  [[nodiscard]] int checkToken(const Token* token);

  // Counts one more file that is granted the device. For the first one, begins the session: 0 or -errno.
  [[nodiscard]] int enter(const std::shared_ptr<File>& iommufd);
  void leave();

  Services& host;
  pci::Function& function;
  const unsigned index;
  const std::shared_ptr<Group> group;
  unsigned files = 0;
  bool needsReset = true;      // not reset since it was closed
  bool boundAsDevice = false;  // bound by its character device, not opened by its group
  std::unique_ptr<iommufd::BoundDevice>
      bound;  // during a session with an iommufd; without IOMMU there is none
  struct {
    bool plain = false;           // without VFIO's flag for a PASID
    std::set<uint32_t> pasids{};  // with the flag
  } attached;                     // by the file that has bound it
  std::unique_ptr<Session> session;
  std::optional<Token> token;  // of a physical function
  unsigned tokenUsers = 0;     // how many virtual functions of it are open
  // For a virtual function of a physical function that vfio-pci holds: that function's device, which outlives
  // this one. Null otherwise.
  Device* const physical;

 private:
  unsigned granted_ = 0;                  // number of files that are granted the device
  std::shared_ptr<GroupFile> groupFile_;  // during a session by way of a container
};

// What a program gives to bind a device. The bind asks for each when the kernel would look at it, because an
// earlier check may refuse the call. Each returns 0 or -errno.
struct BindRequest {
  std::function<int(Device&)> checkToken;
  std::function<int(std::shared_ptr<File>&)> findIommufd;
};

class DeviceFile final : public File, public std::enable_shared_from_this<DeviceFile> {
 public:
  enum class Origin : uint8_t { device, group };  // the character device, or the group's file
  DeviceFile(Device& device, Origin origin);
  ~DeviceFile() override;
  DeviceFile(const DeviceFile&) = delete;
  DeviceFile& operator=(const DeviceFile&) = delete;

  // --- the calls of the character device, on values
  // Binds the device to an iommufd, and grants it to this file. `id` is the device's id in the iommufd.
  [[nodiscard]] int bind(const BindRequest& request, uint32_t& id);
  // Undoes a bind.
  void unbind();
  // For a bound file. `pageTable` is the id of an IOAS or HWPT; on success, the id of the HWPT that is used.
  // A PASID of 0 is not the same as none: VFIO keeps apart what was attached with its flag and without, while
  // for iommufd 0 means none.
  [[nodiscard]] int attach(uint32_t& pageTable, std::optional<uint32_t> pasid);
  void detach(std::optional<uint32_t> pasid);
  [[nodiscard]] Device& device() const { return device_; }

  [[nodiscard]] FileKind kind() const override { return FileKind::device; }
  [[nodiscard]] int ioctl(unsigned long request, UserAddress argument) override;
  [[nodiscard]] Calls calls() const override { return {.reads = true, .writes = true}; }
  [[nodiscard]] int64_t read(UserAddress user, size_t size) override;
  [[nodiscard]] int64_t write(UserAddress user, size_t size) override;
  [[nodiscard]] int64_t pread(UserAddress user, size_t size, uint64_t offset) override;
  [[nodiscard]] int64_t pwrite(UserAddress user, size_t size, uint64_t offset) override;
  [[nodiscard]] int64_t mmap(void* hint, size_t length, int protection, int flags, uint64_t offset) override;

 private:
  [[nodiscard]] int grant(const BindRequest& request);

  Device& device_;
  const bool ofGroup_;
  bool granted_;  // this file is granted the device: it accepts all calls
  uint64_t position_ = 0;
};

}  // namespace vfio::soft::cdev
