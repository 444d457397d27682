// Binding and attaching. The order of checks is the kernel's: an unbound file answers EINVAL to everything
// but BIND.
#include "device.h"

#include <fcntl.h>

#include <cstddef>

#include "../../uapi/vfio.h"
#include "../host.h"
#include "../mm/memory.h"
#include "../pci/function.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

Device::Device(Host& host, pci::Function& function, unsigned index)
    : host(host), function(function), index(index) {}

Device::~Device() = default;

std::shared_ptr<File> Device::open() { return std::make_shared<DeviceFile>(*this); }

void Device::requestRelease() {
  if (session) session->interrupts().requestRelease();
}

DeviceFile::DeviceFile(Device& device) : device_(device) { ++device_.files; }

DeviceFile::~DeviceFile() {
  if (granted_) close();
  --device_.files;
}

void DeviceFile::close() {
  // The device first, so that nothing of it moves when its page tables go.
  device_.session.reset();
  device_.bound.reset();
  granted_ = false;
}

int DeviceFile::ioctl(unsigned long request, UserAddress argument) {
  if (request == VFIO_DEVICE_BIND_IOMMUFD) return bind(argument);
  if (!granted_) return -EINVAL;
  device_.session->wake();
  switch (request) {
    case VFIO_DEVICE_ATTACH_IOMMUFD_PT:
      return attach(argument);
    case VFIO_DEVICE_DETACH_IOMMUFD_PT:
      return detach(argument);
    default:
      return device_.session->ioctl(request, argument);
  }
}

int DeviceFile::bind(UserAddress argument) {
  vfio_device_bind_iommufd bind{};
  if (mm::Memory::copyIn(&bind, argument, vfio_device_bind_iommufd_min) != 0) return -EFAULT;
  if (bind.argsz < vfio_device_bind_iommufd_min || bind.flags != 0 || bind.iommufd < 0) return -EINVAL;
  if (granted_) return -EINVAL;
  const auto file = device_.host.file(bind.iommufd);
  if (!file) return fcntl(bind.iommufd, F_GETFD) < 0 ? -EBADF : -EBADFD;
  if (device_.session) return -EINVAL;  // another file of the device is bound
  if (const int failed = iommufd::bind(file, *device_.function.endpoint, device_.bound)) return failed;
  device_.session = std::make_unique<Session>(device_);
  bind.out_devid = device_.bound->id();
  if (mm::Memory::copyOut(argument + offsetof(vfio_device_bind_iommufd, out_devid), &bind.out_devid,
                          sizeof bind.out_devid) != 0) {
    close();
    return -EFAULT;
  }
  granted_ = true;
  return 0;
}

int DeviceFile::attach(UserAddress argument) {
  vfio_device_attach_iommufd_pt attach{};
  if (mm::Memory::copyIn(&attach, argument, vfio_device_attach_iommufd_pt_min) != 0) return -EFAULT;
  if (attach.argsz < vfio_device_attach_iommufd_pt_min || attach.flags != 0) return -EINVAL;
  if (const int failed = device_.bound->attach(attach.pt_id)) return failed;
  if (mm::Memory::copyOut(argument + offsetof(vfio_device_attach_iommufd_pt, pt_id), &attach.pt_id,
                          sizeof attach.pt_id) != 0) {
    device_.bound->detach();
    return -EFAULT;
  }
  return 0;
}

int DeviceFile::detach(UserAddress argument) {
  vfio_device_detach_iommufd_pt detach{};
  if (mm::Memory::copyIn(&detach, argument, vfio_device_detach_iommufd_pt_min) != 0) return -EFAULT;
  if (detach.argsz < vfio_device_detach_iommufd_pt_min || detach.flags != 0) return -EINVAL;
  device_.bound->detach();
  return 0;
}

int64_t DeviceFile::pread(UserAddress user, size_t size, uint64_t offset) {
  if (!granted_) return -EINVAL;
  return device_.session->transfer(user, size, offset, false);
}

int64_t DeviceFile::pwrite(UserAddress user, size_t size, uint64_t offset) {
  if (!granted_) return -EINVAL;
  return device_.session->transfer(user, size, offset, true);
}

int64_t DeviceFile::read(UserAddress user, size_t size) {
  const int64_t moved = pread(user, size, position_);
  if (moved > 0) position_ += static_cast<uint64_t>(moved);
  return moved;
}

int64_t DeviceFile::write(UserAddress user, size_t size) {
  const int64_t moved = pwrite(user, size, position_);
  if (moved > 0) position_ += static_cast<uint64_t>(moved);
  return moved;
}

int64_t DeviceFile::mmap(void* hint, size_t length, int protection, int flags, uint64_t offset) {
  if (!granted_) return -EINVAL;
  return device_.session->mmap(shared_from_this(), hint, length, protection, flags, offset);
}

}  // namespace vfio::soft::cdev
