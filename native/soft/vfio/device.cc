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
  attached = {};
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
  if (granted_ && ofGroup_)
    device_.leave();
  else if (granted_)
    unbind();
  --device_.files;
}

int DeviceFile::ioctl(unsigned long request, UserAddress argument) {
  if (request == VFIO_DEVICE_BIND_IOMMUFD) return bindRequest(*this, argument);
  if (!granted_) return -EINVAL;
  device_.session->wake();
  // Only a file of the character device chooses its page table.
  if (!ofGroup_ && request == VFIO_DEVICE_ATTACH_IOMMUFD_PT) return attachRequest(*this, argument);
  if (!ofGroup_ && request == VFIO_DEVICE_DETACH_IOMMUFD_PT) return detachRequest(*this, argument);
  return cdev::request(*device_.session, request, argument);
}

int DeviceFile::bind(const BindRequest& request, uint32_t& id) {
  if (ofGroup_) return -EINVAL;
  if (const int failed = device_.group->block()) return failed;
  const int failed = grant(request);
  if (failed != 0) {
    device_.group->unblock();
    return failed;
  }
  id = device_.bound->id();
  return 0;
}

int DeviceFile::grant(const BindRequest& request) {
  if (granted_) return -EINVAL;
  if (const int failed = request.checkToken(device_)) return failed;
  std::shared_ptr<File> iommufd;
  if (const int failed = request.findIommufd(iommufd)) return failed;
  if (!iommufd::isIommufd(*iommufd)) return -EBADFD;
  if (device_.session) return -EINVAL;  // the device is granted to another file
  if (const int failed = device_.enter(iommufd)) return failed;
  device_.boundAsDevice = true;
  granted_ = true;
  return 0;
}

void DeviceFile::unbind() {
  granted_ = false;
  device_.leave();
  device_.boundAsDevice = false;
  device_.group->unblock();
}

int DeviceFile::attach(uint32_t& pageTable, std::optional<uint32_t> pasid) {
  iommufd::BoundDevice& bound = *device_.bound;
  auto& [plain, pasids] = device_.attached;
  if (!pasid) {
    const int failed = plain ? bound.replace(pageTable) : bound.attach(pageTable);
    if (failed == 0) plain = true;
    return failed;
  }
  if (pasids.contains(*pasid)) return bound.replace(pageTable, *pasid);
  // The kernel keeps the PASIDs in use as signed numbers.
  if (*pasid > INT32_MAX) return -ENOSPC;
  const int failed = bound.attach(pageTable, *pasid);
  if (failed == 0) pasids.insert(*pasid);
  return failed;
}

void DeviceFile::detach(std::optional<uint32_t> pasid) {
  auto& [plain, pasids] = device_.attached;
  if (pasid ? pasids.erase(*pasid) == 0 : !plain) return;
  if (!pasid) plain = false;
  device_.bound->detach(pasid.value_or(0));
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
