// See group.h. The order of checks is the kernel's.
#include "group.h"

#include <fcntl.h>

#include <array>
#include <cctype>
#include <cerrno>
#include <optional>

#include "../../uapi/vfio_container.h"
#include "../core/services.h"
#include "../iommufd/iommufd.h"
#include "../mm/memory.h"
#include "../pci/function.h"
#include "device.h"

namespace vfio::soft::cdev {

using namespace uapi;

// ---------------------------------------------------------------- the group

void Group::remove(Device& device) {
  std::erase(devices_, &device);
  if (!devices_.empty()) return;
  // The group's file may still be open, but it no longer refers to any hardware.
  if (container_) leaveContainer();
  group_ = nullptr;
}

int Group::open(std::shared_ptr<File>& out) {
  if (isUnsafe() && !host.mayDoRawIo()) return -EPERM;
  if (boundDevices_ != 0 || opened_ != nullptr) return -EBUSY;
  out = std::make_shared<GroupFile>(shared_from_this());
  return 0;
}

int Group::block() {
  if (opened_ != nullptr) return -EBUSY;
  ++boundDevices_;
  return 0;
}

int Group::use(std::shared_ptr<GroupFile>& keeper) {
  if (!container_->hasBackEnd()) return -EINVAL;
  if (isUnsafe() && !host.mayDoRawIo()) return -EPERM;
  keeper = opened_->shared_from_this();
  ++containerUsers_;
  return 0;
}

void Group::leaveContainer() {
  container_->remove(*this);
  container_.reset();
  containerUsers_ = 0;
}

// ---------------------------------------------------------------- requests

int Group::getStatus(UserAddress argument) const {
  vfio_group_status status = {};
  if (mm::Memory::copyIn(&status, argument, sizeof status) != 0) return -EFAULT;
  if (status.argsz < sizeof status) return -EINVAL;
  if (group_ == nullptr) return -ENODEV;
  status.flags = 0;
  if (isSet()) {
    status.flags = VFIO_GROUP_FLAGS_CONTAINER_SET | VFIO_GROUP_FLAGS_VIABLE;
  } else if (group_->ownerCount == 0 && group_->kernelDrivers == 0) {
    status.flags = VFIO_GROUP_FLAGS_VIABLE;
  }
  return mm::Memory::copyOut(argument, &status, sizeof status);
}

int Group::setContainer(UserAddress argument) {
  int32_t fd = 0;
  if (mm::Memory::copyIn(&fd, argument, sizeof fd) != 0) return -EFAULT;
  const auto file = host.file(fd);
  if (!file && fcntl(fd, F_GETFD) < 0) return -EBADF;
  if (isSet()) return -EINVAL;
  if (group_ == nullptr) return -ENODEV;
  if (!file) return -EBADFD;
  if (auto container = std::dynamic_pointer_cast<Container>(file)) {
    if (const int error = container->add(*this)) return error;
    container_ = std::move(container);
    containerUsers_ = 1;
    return 0;
  }
  if (!iommufd::isIommufd(*file)) return -EBADFD;
  const int error = isUnsafe() ? iommufd::renounceCompatIoas(*file) : iommufd::makeCompatIoas(*file);
  if (error != 0) return error;
  iommufd_ = file;
  return 0;
}

int Group::unsetContainer() {
  if (!isSet()) return -EINVAL;
  if (container_) {
    if (containerUsers_ != 1) return -EBUSY;
    leaveContainer();
  }
  iommufd_.reset();
  return 0;
}

namespace {

// The UUID, in its usual text form, with which `text` starts.
std::optional<Token> startsWithUuid(std::string_view text) {
  constexpr std::string_view form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  if (text.size() < form.size()) return std::nullopt;
  Token token{};
  unsigned digits = 0;
  for (size_t i = 0; i < form.size(); ++i) {
    if (form[i] == '-') {
      if (text[i] != '-') return std::nullopt;
      continue;
    }
    const char digit = text[i];
    if (std::isxdigit(static_cast<unsigned char>(digit)) == 0) return std::nullopt;
    const int value = digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10;
    auto& byte = token[digits++ / 2];
    byte = static_cast<uint8_t>(byte << 4 | value);
  }
  return token;
}

// Does `text` name the device? Returns 1 if it does, 0 if it does not. Returns -errno if it does but the
// options after the name are wrong, or the device's token check fails.
int matches(Device& device, std::string_view text) {
  const std::string& bdf = device.function.bdf;
  // The driver of a mediated device accepts no options.
  if (device.function.isMediated()) return text == bdf ? 1 : 0;
  if (!text.starts_with(bdf)) return 0;
  text.remove_prefix(bdf.size());
  if (!text.empty() && text.front() != ' ') return 0;
  constexpr std::string_view option = "vf_token=";
  std::optional<Token> token;
  while (!text.empty()) {
    if (text.front() == ' ') {
      text.remove_prefix(1);
      continue;
    }
    if (token || !text.starts_with(option)) return -EINVAL;
    text.remove_prefix(option.size());
    token = startsWithUuid(text);
    if (!token) return -EINVAL;
    constexpr size_t length = 36;
    text.remove_prefix(length);
  }
  const int failed = device.checkToken(token ? &*token : nullptr);
  return failed == 0 ? 1 : failed;
}

// Copies a string from the program's memory. With its end it is at most one page long.
int copyName(UserAddress user, std::string& name) {
  std::array<char, 4096> bytes;
  const size_t got = mm::Memory::copyInSome(bytes.data(), user, bytes.size());
  const std::string_view all(bytes.data(), got);
  const size_t end = all.find('\0');
  if (end == std::string_view::npos) return got == bytes.size() ? -EINVAL : -EFAULT;
  name = all.substr(0, end);
  return 0;
}

}  // namespace

int Group::find(std::string_view name, Device*& out) const {
  for (auto device = devices_.rbegin(); device != devices_.rend(); ++device) {
    const int match = matches(**device, name);
    if (match < 0) return match;
    if (match == 0) continue;
    out = *device;
    return 0;
  }
  return -ENODEV;
}

int Group::getDevice(UserAddress argument) {
  std::string name;
  if (const int error = copyName(argument, name)) return error;
  Device* device = nullptr;
  if (const int error = find(name, device)) return error;
  std::shared_ptr<File> file;
  if (!isSet()) return -EINVAL;
  if (const int error = device->openByGroup(iommufd_, file)) return error;
  return host.install(std::move(file), FdKind::plain, O_RDWR | O_CLOEXEC);
}

// ---------------------------------------------------------------- the group's file

GroupFile::~GroupFile() {
  if (group_->container_) group_->leaveContainer();
  group_->iommufd_.reset();
  group_->opened_ = nullptr;
}

int GroupFile::ioctl(unsigned long request, UserAddress argument) {
  switch (request) {
    case VFIO_GROUP_GET_STATUS:
      return group_->getStatus(argument);
    case VFIO_GROUP_SET_CONTAINER:
      return group_->setContainer(argument);
    case VFIO_GROUP_UNSET_CONTAINER:
      return group_->unsetContainer();
    case VFIO_GROUP_GET_DEVICE_FD:
      return group_->getDevice(argument);
    default:
      return -ENOTTY;
  }
}

}  // namespace vfio::soft::cdev
