// See requests.h.
#include "requests.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "../../uapi/vfio.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "device.h"
#include "features/features.h"
#include "group.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

namespace {

constexpr unsigned offsetShift = 40;  // as vfio-pci does; programs must not rely on it
constexpr uint64_t offsetMask = (uint64_t{1} << offsetShift) - 1;

unsigned regionOf(uint64_t offset) { return static_cast<unsigned>(offset >> offsetShift); }

int copyOut(UserAddress to, const void* from, size_t size) { return mm::Memory::copyOut(to, from, size); }

int getInfo(const Session& session, UserAddress argument) {
  vfio_device_info info{};
  if (mm::Memory::copyIn(&info, argument, vfio_device_info_min) != 0) return -EFAULT;
  if (info.argsz < vfio_device_info_min) return -EINVAL;
  const auto has = session.info();
  info.flags = has.flags;
  info.num_regions = has.regions;
  info.num_irqs = has.irqs;
  return copyOut(argument, &info, std::min<size_t>(info.argsz, sizeof info));
}

// The capability of a region: at most one of the two. Empty: none.
std::vector<uint8_t> capabilityOf(const Session::RegionInfo& region) {
  std::vector<uint8_t> bytes;
  const auto put = [&bytes](const void* from, size_t size) {
    const auto* begin = static_cast<const uint8_t*>(from);
    bytes.insert(bytes.end(), begin, begin + size);
  };
  if (!region.areas.empty()) {
    const vfio_region_info_cap_sparse_mmap sparse{
        {VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0}, static_cast<uint32_t>(region.areas.size()), 0};
    put(&sparse, sizeof sparse);
    put(region.areas.data(), region.areas.size() * sizeof region.areas.front());
  } else if (region.msixMappable) {
    const vfio_info_cap_header header{VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, 0};
    put(&header, sizeof header);
  }
  return bytes;
}

int getRegionInfo(const Session& session, UserAddress argument) {
  vfio_region_info info{};
  if (mm::Memory::copyIn(&info, argument, sizeof info) != 0) return -EFAULT;
  if (info.argsz < sizeof info) return -EINVAL;
  Session::RegionInfo region{};
  if (const int failed = session.regionInfo(info.index, region)) return failed;
  info.offset = uint64_t{info.index} << offsetShift;
  info.size = region.size;
  info.flags = region.flags;
  const std::vector<uint8_t> capability = capabilityOf(region);
  if (!capability.empty()) {
    info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
    if (info.argsz < sizeof info + capability.size()) {
      info.argsz = static_cast<uint32_t>(sizeof info + capability.size());
      info.cap_offset = 0;
    } else {
      if (copyOut(argument + sizeof info, capability.data(), capability.size()) != 0) return -EFAULT;
      info.cap_offset = sizeof info;
    }
  }
  return copyOut(argument, &info, sizeof info);
}

int getIrqInfo(const Session& session, UserAddress argument) {
  vfio_irq_info info{};
  if (mm::Memory::copyIn(&info, argument, sizeof info) != 0) return -EFAULT;
  if (info.argsz < sizeof info) return -EINVAL;
  Session::IrqInfo irq{};
  if (const int failed = session.irqInfo(info.index, irq)) return failed;
  info.flags = irq.flags;
  info.count = irq.count;
  return copyOut(argument, &info, sizeof info);
}

int setIrqs(Session& session, UserAddress argument) {
  vfio_irq_set request{};
  if (mm::Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  if (request.argsz < sizeof request) return -EINVAL;
  size_t size = 0;
  if (const int failed = session.irqDataSize(request, size)) return failed;
  if (request.argsz - sizeof request < size) return -EINVAL;
  std::vector<uint8_t> data(size);
  if (size != 0 && mm::Memory::copyIn(data.data(), argument + sizeof request, size) != 0) return -EFAULT;
  return session.setIrqs(request, data);
}

int getHotResetInfo(const Session& session, UserAddress argument) {
  vfio_pci_hot_reset_info info{};
  if (mm::Memory::copyIn(&info, argument, sizeof info) != 0) return -EFAULT;
  if (info.argsz < sizeof info) return -EINVAL;
  Session::HotResetInfo has{};
  if (const int failed = session.hotResetInfo(has)) return failed;
  info.count = has.count;
  if (has.count > (info.argsz - sizeof info) / sizeof(vfio_pci_dependent_device)) {
    info.flags = 0;
    return copyOut(argument, &info, sizeof info) != 0 ? -EFAULT : -ENOSPC;
  }
  info.flags = has.flags;
  const size_t size = has.devices.size() * sizeof(vfio_pci_dependent_device);
  if (copyOut(argument + sizeof info, has.devices.data(), size) != 0) return -EFAULT;
  return has.failed != 0 ? has.failed : copyOut(argument, &info, sizeof info);
}

// The group files to which the program's descriptors refer.
int groupsOf(Services& host, UserAddress from, uint32_t count, std::vector<std::shared_ptr<GroupFile>>& out) {
  std::vector<int32_t> descriptors(count);
  if (mm::Memory::copyIn(descriptors.data(), from, count * sizeof(int32_t)) != 0) return -EFAULT;
  for (const int32_t fd : descriptors) {
    const auto file = host.file(fd);
    if (!file) return fcntl(fd, F_GETFD) < 0 ? -EBADF : -EINVAL;
    auto group = std::dynamic_pointer_cast<GroupFile>(file);
    if (!group) return -EINVAL;
    out.push_back(std::move(group));
  }
  return 0;
}

int hotReset(Session& session, UserAddress argument) {
  vfio_pci_hot_reset request{};
  if (mm::Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  if (request.argsz < sizeof request || request.flags != 0) return -EINVAL;
  if (const int failed = session.checkHotReset(request.count)) return failed;
  std::vector<std::shared_ptr<GroupFile>> groups;
  if (const int failed = groupsOf(session.device().host, argument + sizeof request, request.count, groups))
    return failed;
  return session.hotReset(groups);
}

int setIoEvent(Session& session, UserAddress argument) {
  vfio_device_ioeventfd request{};
  if (mm::Memory::copyIn(&request, argument, vfio_device_ioeventfd_min) != 0) return -EFAULT;
  if (request.argsz < vfio_device_ioeventfd_min) return -EINVAL;
  if ((request.flags & ~VFIO_DEVICE_IOEVENTFD_SIZE_MASK) != 0) return -EINVAL;
  return session.setIoEvent({.index = regionOf(request.offset),
                             .offset = request.offset & offsetMask,
                             .data = request.data,
                             .width = request.flags,  // the flag's value is the width
                             .fd = request.fd});
}

int feature(Session& session, UserAddress argument) {
  vfio_device_feature request{};
  if (mm::Memory::copyIn(&request, argument, sizeof request) != 0) return -EFAULT;
  if (request.argsz < sizeof request) return -EINVAL;
  features::Call call{};
  if (const int failed = features::find(session, request.flags, request.argsz - sizeof request, call))
    return failed;
  if (call.run == nullptr) return 0;  // a probe
  std::vector<uint8_t> data(call.size);
  const UserAddress place = argument + sizeof request;
  if (call.size != 0 && mm::Memory::copyIn(data.data(), place, call.size) != 0) return -EFAULT;
  if (const int failed = call.run(session, data)) return failed;
  return call.answers ? copyOut(place, data.data(), call.size) : 0;
}

}  // namespace

int request(Session& session, unsigned long number, UserAddress argument) {
  const bool isForBus = number == VFIO_DEVICE_GET_PCI_HOT_RESET_INFO || number == VFIO_DEVICE_PCI_HOT_RESET;
  if (isForBus && !session.hasBus()) return -ENOTTY;
  switch (number) {
    case VFIO_DEVICE_GET_INFO:
      return getInfo(session, argument);
    case VFIO_DEVICE_GET_REGION_INFO:
      return getRegionInfo(session, argument);
    case VFIO_DEVICE_GET_IRQ_INFO:
      return getIrqInfo(session, argument);
    case VFIO_DEVICE_SET_IRQS:
      return setIrqs(session, argument);
    case VFIO_DEVICE_RESET:
      return session.reset();
    case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
      return getHotResetInfo(session, argument);
    case VFIO_DEVICE_PCI_HOT_RESET:
      return hotReset(session, argument);
    case VFIO_DEVICE_IOEVENTFD:
      return setIoEvent(session, argument);
    case VFIO_DEVICE_FEATURE:
      return feature(session, argument);
    default:
      return -ENOTTY;
  }
}

int64_t readAt(Session& session, UserAddress user, size_t size, uint64_t offset) {
  return session.readRegion(regionOf(offset), offset & offsetMask, size,
                            [user](size_t at, std::span<const uint8_t> bytes) {
                              return copyOut(user + at, bytes.data(), bytes.size());
                            });
}

int64_t writeAt(Session& session, UserAddress user, size_t size, uint64_t offset) {
  return session.writeRegion(regionOf(offset), offset & offsetMask, size,
                             [user](size_t at, std::span<uint8_t> bytes) {
                               return mm::Memory::copyIn(bytes.data(), user + at, bytes.size());
                             });
}

int64_t mapAt(Session& session, std::shared_ptr<File> keeper, void* hint, size_t length, int protection,
              int flags, uint64_t offset) {
  return session.mapRegion(std::move(keeper), hint, length, protection, flags, regionOf(offset),
                           offset & offsetMask);
}

}  // namespace vfio::soft::cdev
