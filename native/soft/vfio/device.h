// The VFIO device: what /dev/vfio/devices/vfioN leads to.
//
// Lives: a `Device` is made when vfio-pci takes a function and dies when it lets go, which it does only while
// no file is open. Each open makes a `DeviceFile`; mappings of registers keep it alive as they do in the
// kernel. One of the files can be bound to an iommufd, and then has a `Session` (session.h) until it is
// closed.
#pragma once

#include <cstdint>
#include <memory>

#include "../file.h"
#include "../iommufd/iommufd.h"

namespace vfio::soft {
class Host;
namespace pci {
class Function;
}
}  // namespace vfio::soft

namespace vfio::soft::cdev {

class Session;

class Device {
 public:
  Device(Host& host, pci::Function& function, unsigned index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] std::shared_ptr<File> open();
  [[nodiscard]] bool inUse() const { return files != 0; }
  void requestRelease();  // the host wants the device back: tells the program by the REQ interrupt

  Host& host;
  pci::Function& function;
  const unsigned index;
  unsigned files = 0;
  bool needsReset = true;                       // closed, and not reset since
  std::unique_ptr<iommufd::BoundDevice> bound;  // while a file is bound
  std::unique_ptr<Session> session;
};

class DeviceFile final : public File, public std::enable_shared_from_this<DeviceFile> {
 public:
  explicit DeviceFile(Device& device);
  ~DeviceFile() override;
  DeviceFile(const DeviceFile&) = delete;
  DeviceFile& operator=(const DeviceFile&) = delete;

  [[nodiscard]] int ioctl(unsigned long request, UserAddress argument) override;
  [[nodiscard]] Calls calls() const override { return {.reads = true, .writes = true}; }
  [[nodiscard]] int64_t read(UserAddress user, size_t size) override;
  [[nodiscard]] int64_t write(UserAddress user, size_t size) override;
  [[nodiscard]] int64_t pread(UserAddress user, size_t size, uint64_t offset) override;
  [[nodiscard]] int64_t pwrite(UserAddress user, size_t size, uint64_t offset) override;
  [[nodiscard]] int64_t mmap(void* hint, size_t length, int protection, int flags, uint64_t offset) override;

 private:
  [[nodiscard]] int bind(UserAddress argument);
  [[nodiscard]] int attach(UserAddress argument);
  [[nodiscard]] int detach(UserAddress argument);
  void close();

  Device& device_;
  bool granted_ = false;  // bound: everything else is open to this file
  uint64_t position_ = 0;
};

}  // namespace vfio::soft::cdev
