// See device.h. Binding and attaching. The order of checks is the kernel's: a file that is not bound returns
// EINVAL for every call but BIND.
#include "device.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <random>

#include "../../uapi/vfio.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "../pci/function.h"
#include "group.h"
#include "requests.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

Device::Device(Services& itsHost, pci::Function& itsFunction, unsigned itsIndex,
               std::shared_ptr<Group> itsGroup)
    : host(itsHost),
      function(itsFunction),
      index(itsIndex),
      group(std::move(itsGroup)),
      physical(itsFunction.physical ? of(*itsFunction.physical) : nullptr) {
  group->add(*this);
  if (!function.sriov) return;
  // A random token, which nobody can guess, until a program sets one.
  token.emplace();
  std::random_device random;
  for (auto& byte : *token) byte = static_cast<uint8_t>(random());
}

Device::~Device() { group->remove(*this); }

std::shared_ptr<File> Device::open() {
  return std::make_shared<DeviceFile>(*this, DeviceFile::Origin::device);
}

int Device::openByGroup(const std::shared_ptr<File>& iommufd, std::shared_ptr<File>& out) {
  uint32_t ioas = 0;
  if (iommufd && group->isUnsafe() && granted_ == 0) {
    // A program that has chosen an address space expects that the device's DMA is translated.
    if (!host.mayDoRawIo() || iommufd::compatIoas(*iommufd, ioas) == 0) return -EPERM;
  }
  if (const int failed = enter(iommufd)) return failed;
  if (iommufd && !group->isUnsafe() && granted_ == 1) {
    // No caller is told which page table the device is attached to.
    int failed = iommufd::compatIoas(*iommufd, ioas);
    if (failed == 0) failed = bound->attach(ioas);
    if (failed != 0) {
      leave();
      return failed;
    }
  }
  out = std::make_shared<DeviceFile>(*this, DeviceFile::Origin::group);
  return 0;
}

int Device::checkToken(const Token* given) {
  const Device* holder = function.physical ? physical : token ? this : nullptr;
  if (!holder) return given ? -EINVAL : 0;
  if (holder == this && tokenUsers == 0) {
    if (given) token = *given;
    return 0;
  }
  return given && *given == *holder->token ? 0 : -EACCES;
}

int Device::enter(const std::shared_ptr<File>& iommufd) {
  if (granted_ == 0) {
    // Another thread's call has reset the function, but the model's own reset is still to come. It would fall
    // into this session.
    if (function.inReset()) return -EBUSY;
    int failed = 0;
    if (!iommufd) {
      failed = group->use(groupFile_);
    } else if (!group->isUnsafe()) {
      failed = iommufd::bind(iommufd, *function.endpoint, bound);
    }
    if (failed != 0) return failed;
    session = std::make_unique<Session>(*this);
    if (physical) ++physical->tokenUsers;
  }
  ++granted_;
  return 0;
}

void Device::leave() {
  if (--granted_ != 0) return;
  // The session ends first, so that the device does no DMA when it is detached from its page tables.
  if (physical) --physical->tokenUsers;
  session.reset();
  bound.reset();
  if (!groupFile_) return;
  group->unuse();
  groupFile_.reset();
}

void Device::requestRelease() {
  if (session) session->interrupts().requestRelease();
}

DeviceFile::DeviceFile(Device& device, Origin origin)
    : device_(device), ofGroup_(origin == Origin::group), granted_(ofGroup_) {
  ++device_.files;
}

DeviceFile::~DeviceFile() {
  if (granted_) device_.leave();
  if (granted_ && !ofGroup_) {
    device_.boundAsDevice = false;
    device_.group->unblock();
  }
  --device_.files;
}

int DeviceFile::ioctl(unsigned long request, UserAddress argument) {
  if (request == VFIO_DEVICE_BIND_IOMMUFD) return bind(argument);
  if (!granted_) return -EINVAL;
  device_.session->wake();
  // Only a file of the character device chooses its page table.
  if (!ofGroup_ && request == VFIO_DEVICE_ATTACH_IOMMUFD_PT) return attach(argument);
  if (!ofGroup_ && request == VFIO_DEVICE_DETACH_IOMMUFD_PT) return detach(argument);
  return cdev::request(*device_.session, request, argument);
}

namespace {

// Copies the caller's struct, up to the size that this release knows. The bytes of a longer struct after that
// size must be zero. Kernels before 6.17 copied the smallest size and did not check the rest.
int copyBind(const Services& host, UserAddress argument, vfio_device_bind_iommufd& bind) {
  if (!host.since(6, 17)) {
    if (mm::Memory::copyIn(&bind, argument, vfio_device_bind_iommufd_min) != 0) return -EFAULT;
    return bind.argsz < vfio_device_bind_iommufd_min ? -EINVAL : 0;
  }
  uint32_t given = 0;
  if (mm::Memory::copyIn(&given, argument, sizeof given) != 0) return -EFAULT;
  if (given < vfio_device_bind_iommufd_min) return -EINVAL;
  // 6.17 and 6.18 took the old size for the whole struct, so a program could give no token.
  const size_t known = host.since(6, 19) ? sizeof bind : vfio_device_bind_iommufd_min;
  if (given > known) {
    const int zero = mm::Memory::allZero(argument + known, given - known);
    if (zero <= 0) return zero < 0 ? zero : -E2BIG;
  }
  return mm::Memory::copyIn(&bind, argument, std::min<size_t>(given, known));
}

// Kernels before 6.17 asked for no token here.
int checkToken(Device& device, const vfio_device_bind_iommufd& bind) {
  if (!device.host.since(6, 17)) return 0;
  if ((bind.flags & VFIO_DEVICE_BIND_FLAG_TOKEN) == 0) return device.checkToken(nullptr);
  Token token{};
  if (mm::Memory::copyIn(token.data(), bind.token_uuid_ptr, token.size()) != 0) return -EFAULT;
  return device.checkToken(&token);
}

}  // namespace

int DeviceFile::bind(UserAddress argument) {
  Services& host = device_.host;
  vfio_device_bind_iommufd bind{};
  if (const int failed = copyBind(host, argument, bind)) return failed;
  const uint32_t flags = host.since(6, 17) ? VFIO_DEVICE_BIND_FLAG_TOKEN : 0;
  if ((bind.flags & ~flags) != 0 || bind.iommufd < 0) return -EINVAL;
  if (ofGroup_) return -EINVAL;
  if (const int failed = device_.group->block()) return failed;
  const int failed = grant(argument, bind);
  if (failed != 0) device_.group->unblock();
  return failed;
}

int DeviceFile::grant(UserAddress argument, vfio_device_bind_iommufd& bind) {
  if (granted_) return -EINVAL;
  if (const int failed = checkToken(device_, bind)) return failed;
  const auto file = device_.host.file(bind.iommufd);
  if (!file) return fcntl(bind.iommufd, F_GETFD) < 0 ? -EBADF : -EBADFD;
  if (!iommufd::isIommufd(*file)) return -EBADFD;
  if (device_.session) return -EINVAL;  // the device is granted to another file
  if (const int failed = device_.enter(file)) return failed;
  bind.out_devid = device_.bound->id();
  if (mm::Memory::copyOut(argument + offsetof(vfio_device_bind_iommufd, out_devid), &bind.out_devid,
                          sizeof bind.out_devid) != 0) {
    device_.leave();
    return -EFAULT;
  }
  device_.boundAsDevice = true;
  granted_ = true;
  return 0;
}

int DeviceFile::attach(UserAddress argument) {
  constexpr size_t least = vfio_device_attach_iommufd_pt_min;
  vfio_device_attach_iommufd_pt attach{};
  if (mm::Memory::copyIn(&attach, argument, least) != 0) return -EFAULT;
  const uint32_t flags = device_.host.since(6, 15) ? VFIO_DEVICE_ATTACH_PASID : 0;
  if (attach.argsz < least || (attach.flags & ~flags) != 0) return -EINVAL;
  const bool forPasid = attach.flags != 0;
  if (forPasid) {
    if (attach.argsz < sizeof attach) return -EINVAL;
    if (device_.function.isMediated()) return -EOPNOTSUPP;
    if (mm::Memory::copyIn(&attach.pasid, argument + least, sizeof attach.pasid) != 0) return -EFAULT;
    // The kernel keeps the PASIDs in use as signed numbers.
    if (attach.pasid > INT32_MAX) return -ENOSPC;
  }
  if (const int failed = device_.bound->attach(attach.pt_id, attach.pasid)) return failed;
  if (mm::Memory::copyOut(argument + offsetof(vfio_device_attach_iommufd_pt, pt_id), &attach.pt_id,
                          sizeof attach.pt_id) != 0) {
    // Even when the call was for a PASID, the attachment without a PASID is the one that ends.
    device_.bound->detach();
    return -EFAULT;
  }
  return 0;
}

int DeviceFile::detach(UserAddress argument) {
  constexpr size_t least = vfio_device_detach_iommufd_pt_min;
  vfio_device_detach_iommufd_pt detach{};
  if (mm::Memory::copyIn(&detach, argument, least) != 0) return -EFAULT;
  const uint32_t flags = device_.host.since(6, 15) ? VFIO_DEVICE_DETACH_PASID : 0;
  if (detach.argsz < least || (detach.flags & ~flags) != 0) return -EINVAL;
  if (detach.flags != 0) {
    if (detach.argsz < sizeof detach) return -EINVAL;
    if (device_.function.isMediated()) return -EOPNOTSUPP;
    if (mm::Memory::copyIn(&detach.pasid, argument + least, sizeof detach.pasid) != 0) return -EFAULT;
  }
  device_.bound->detach(detach.pasid);
  return 0;
}

int64_t DeviceFile::pread(UserAddress user, size_t size, uint64_t offset) {
  if (!granted_) return -EINVAL;
  return readAt(*device_.session, user, size, offset);
}

int64_t DeviceFile::pwrite(UserAddress user, size_t size, uint64_t offset) {
  if (!granted_) return -EINVAL;
  return writeAt(*device_.session, user, size, offset);
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
  return mapAt(*device_.session, shared_from_this(), hint, length, protection, flags, offset);
}

}  // namespace vfio::soft::cdev
