// Reaching a device's regions: read and write at file offsets, mmap, and writes caused by eventfds.
#include <sys/mman.h>

#include <algorithm>
#include <bit>

#include "../../uapi/vfio.h"
#include "../core/engine.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "../pci/function.h"
#include "device.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

namespace {

constexpr unsigned offsetShift = 40;
constexpr uint64_t offsetMask = (uint64_t{1} << offsetShift) - 1;
constexpr uint64_t pageSize = 4096;
constexpr size_t mostIoEvents = 1000;

struct Hole {
  uint64_t start, end;
};

// The MSI-X table: reads give ones, writes vanish.
Hole msixHole(const pci::Function& function, unsigned bar) {
  const auto& msix = function.description().msix;
  if (msix.vectors == 0 || msix.bar != bar) return {0, 0};
  return {msix.table, msix.table + uint64_t{16} * msix.vectors};
}

}  // namespace

int64_t Session::transfer(UserAddress user, size_t size, uint64_t offset, bool write) {
  if (size == 0) return 0;
  const uint64_t index = offset >> offsetShift;
  const uint64_t inside = offset & offsetMask;
  if (index >= VFIO_PCI_NUM_REGIONS) return -EINVAL;
  wake();
  if (index == VFIO_PCI_CONFIG_REGION_INDEX) {
    return write ? config_.write(user, size, inside) : config_.read(user, size, inside);
  }
  if (index > VFIO_PCI_BAR5_REGION_INDEX) return -EINVAL;  // no ROM, no VGA
  return transferBar(static_cast<unsigned>(index), user, size, inside, write);
}

bool Session::reachable(unsigned bar) const {
  // Ports have no such check: with decoding off, nobody answers.
  return function_.resources[bar].kind == devices::BarKind::io || config_.memoryEnabled();
}

int64_t Session::transferBar(unsigned bar, UserAddress user, size_t size, uint64_t offset, bool write) {
  const auto& resource = function_.resources[bar];
  if (resource.address == 0 || offset >= resource.size) return -EINVAL;
  size_t left = std::min<uint64_t>(size, resource.size - offset);
  const auto total = static_cast<int64_t>(left);
  const Hole hole = msixHole(function_, bar);
  // Ports move at most four bytes at a time.
  const unsigned widest = resource.kind == devices::BarKind::io ? 4 : 8;
  while (left > 0) {
    size_t fillable = 0;
    if (offset < hole.start) {
      fillable = std::min<uint64_t>(left, hole.start - offset);
    } else if (offset >= hole.end) {
      fillable = left;
    }
    size_t moved;
    uint64_t value = 0;
    if (fillable == 0) {
      moved = std::min<uint64_t>(left, hole.end - offset);
      constexpr uint8_t ones = 0xff;
      for (size_t i = 0; !write && i < moved; ++i) {
        if (mm::Memory::copyOut(user + i, &ones, 1) != 0) return -EFAULT;
      }
    } else {
      unsigned width = widest;
      while (width > fillable || offset % width != 0) width /= 2;
      moved = width;
      if (write) {
        if (mm::Memory::copyIn(&value, user, width) != 0) return -EFAULT;
        if (!reachable(bar)) return -EIO;
        function_.barWrite(bar, offset, width, value);
      } else {
        if (!reachable(bar)) return -EIO;
        value = function_.barRead(bar, offset, width);
        if (mm::Memory::copyOut(user, &value, width) != 0) return -EFAULT;
      }
    }
    left -= moved;
    offset += moved;
    user += moved;
  }
  return total;
}

int64_t Session::mmap(std::shared_ptr<File> keeper, void* hint, size_t length, int protection, int flags,
                      uint64_t offset) {
  const uint64_t index = offset >> offsetShift;
  const uint64_t start = offset & offsetMask;
  if (index >= VFIO_PCI_NUM_REGIONS) return -EINVAL;
  if ((flags & MAP_TYPE) == MAP_PRIVATE) return -EINVAL;
  if (index > VFIO_PCI_BAR5_REGION_INDEX || !mappable(static_cast<unsigned>(index))) return -EINVAL;
  const auto bar = static_cast<unsigned>(index);
  const uint64_t size = (function_.resources[bar].size + pageSize - 1) / pageSize * pageSize;
  if (start > size || length > size - start) return -EINVAL;

  Trap trap{.length = length, .keeper = std::move(keeper)};
  if (const int fd = function_.memoryFd(bar); fd >= 0) {
    return device_.host.mapFile(hint, protection, flags, fd, start, std::move(trap));
  }
  pci::Function& function = function_;
  trap.answers = [&function, bar] { return function.decodes(bar); };
  trap.read = [&function, bar, start](uint64_t at, unsigned width) {
    return function.barRead(bar, start + at, width);
  };
  trap.write = [&function, bar, start](uint64_t at, unsigned width, uint64_t value) {
    function.barWrite(bar, start + at, width, value);
  };
  return device_.host.mapTrap(hint, flags, std::move(trap));
}

int Session::setIoEvent(UserAddress argument) {
  vfio_device_ioeventfd request{};
  if (mm::Memory::copyIn(&request, argument, vfio_device_ioeventfd_min) != 0) return -EFAULT;
  if (request.argsz < vfio_device_ioeventfd_min) return -EINVAL;
  if ((request.flags & ~VFIO_DEVICE_IOEVENTFD_SIZE_MASK) != 0) return -EINVAL;
  if (!std::has_single_bit(request.flags) || request.fd < -1) return -EINVAL;
  const unsigned width = request.flags;  // the flag's value is the width
  const uint64_t index = request.offset >> offsetShift;
  const uint64_t at = request.offset & offsetMask;
  if (index > VFIO_PCI_BAR5_REGION_INDEX) return -EINVAL;
  const auto bar = static_cast<unsigned>(index);
  if (at + width > function_.resources[bar].size) return -EINVAL;
  const Hole hole = msixHole(function_, bar);
  if (at + width > hole.start && at < hole.end) return -EINVAL;
  const auto same = std::find_if(ioEvents_.begin(), ioEvents_.end(), [&](const IoEvent& event) {
    return event.bar == bar && event.offset == at && event.data == request.data && event.width == width;
  });
  if (same != ioEvents_.end()) {
    if (request.fd >= 0) return -EEXIST;
    device_.host.engine().unwatch(same->watch);
    ioEvents_.erase(same);
    return 0;
  }
  if (request.fd < 0) return -ENODEV;
  if (ioEvents_.size() >= mostIoEvents) return -ENOSPC;
  IoEvent event{bar, at, request.data, width, nullptr, 0};
  if (const int failed = EventFd::get(request.fd, event.source)) return failed;
  event.watch = device_.host.engine().watch(event.source->fd(), [this, bar, at, width, data = request.data] {
    if (reachable(bar)) function_.barWrite(bar, at, width, data);
  });
  ioEvents_.push_back(std::move(event));
  return 0;
}

void Session::removeIoEvents() {
  for (const auto& event : ioEvents_) device_.host.engine().unwatch(event.watch);
  ioEvents_.clear();
}

}  // namespace vfio::soft::cdev
