// Access to a device's regions: reads and writes, mappings, and writes caused by eventfds. See session.h.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "../../uapi/vfio.h"
#include "../core/engine.h"
#include "../core/services.h"
#include "../pci/function.h"
#include "device.h"
#include "session.h"

namespace vfio::soft::cdev {

using namespace uapi;

namespace {

constexpr uint64_t pageSize = 4096;
constexpr size_t mostIoEvents = 1000;

struct Hole {
  uint64_t start, end;
};

// The MSI-X table: reads return all ones, writes are ignored.
Hole msixHole(const pci::Function& function, unsigned bar) {
  const auto& msix = function.description().msix;
  if (msix.vectors == 0 || msix.bar != bar) return {0, 0};
  return {msix.table, msix.table + uint64_t{16} * msix.vectors};
}

// How an access to a BAR is cut: into aligned pieces of at most 8 bytes (4 for I/O ports), around the hole.
struct Piece {
  size_t size;
  bool inHole;
};
class Cut {
 public:
  Cut(const pci::Function& function, unsigned bar)
      : hole_(msixHole(function, bar)),
        widest_(function.resources[bar].kind == devices::BarKind::io ? 4 : 8) {}

  [[nodiscard]] Piece next(uint64_t offset, size_t left) const {
    if (offset >= hole_.start && offset < hole_.end)
      return {std::min<uint64_t>(left, hole_.end - offset), true};
    const size_t fillable = offset < hole_.start ? std::min<uint64_t>(left, hole_.start - offset) : left;
    size_t width = widest_;
    while (width > fillable || offset % width != 0) width /= 2;
    return {width, false};
  }

 private:
  const Hole hole_;
  const size_t widest_;
};

}  // namespace

int64_t Session::readRegion(unsigned index, uint64_t offset, size_t size, const Put& put) {
  if (size == 0) return 0;
  if (index >= VFIO_PCI_NUM_REGIONS) return -EINVAL;
  wake();
  if (index == VFIO_PCI_CONFIG_REGION_INDEX) return config_.read(offset, size, put);
  return index > VFIO_PCI_BAR5_REGION_INDEX ? -EINVAL : readBar(index, offset, size, put);  // no ROM, no VGA
}

int64_t Session::writeRegion(unsigned index, uint64_t offset, size_t size, const Fetch& fetch) {
  if (size == 0) return 0;
  if (index >= VFIO_PCI_NUM_REGIONS) return -EINVAL;
  wake();
  if (index == VFIO_PCI_CONFIG_REGION_INDEX) return config_.write(offset, size, fetch);
  return index > VFIO_PCI_BAR5_REGION_INDEX ? -EINVAL : writeBar(index, offset, size, fetch);
}

int64_t Session::readRegion(unsigned index, uint64_t offset, std::span<uint8_t> into) {
  return readRegion(index, offset, into.size(), [into](size_t at, std::span<const uint8_t> bytes) {
    std::ranges::copy(bytes, into.subspan(at).begin());
    return 0;
  });
}

int64_t Session::writeRegion(unsigned index, uint64_t offset, std::span<const uint8_t> from) {
  return writeRegion(index, offset, from.size(), [from](size_t at, std::span<uint8_t> bytes) {
    std::ranges::copy(from.subspan(at, bytes.size()), bytes.begin());
    return 0;
  });
}

bool Session::reachable(unsigned bar) const {
  // The kernel has no such check for I/O ports: with decoding off, no device answers.
  return function_.resources[bar].kind == devices::BarKind::io || config_.memoryEnabled();
}

int64_t Session::inBar(unsigned bar, uint64_t offset, size_t size) const {
  const auto& resource = function_.resources[bar];
  if (resource.address == 0 || offset >= resource.size) return -EINVAL;
  return static_cast<int64_t>(std::min<uint64_t>(size, resource.size - offset));
}

int64_t Session::readBar(unsigned bar, uint64_t offset, size_t size, const Put& put) {
  const int64_t total = inBar(bar, offset, size);
  const Cut cut(function_, bar);
  for (int64_t done = 0; done < total;) {
    const auto at = static_cast<size_t>(done);
    const Piece piece = cut.next(offset + at, static_cast<size_t>(total - done));
    if (piece.inHole) {
      constexpr uint8_t ones = 0xff;
      for (size_t i = 0; i < piece.size; ++i) {
        if (const int failed = put(at + i, {&ones, 1})) return failed;
      }
    } else {
      if (!reachable(bar)) return -EIO;
      const uint64_t value = function_.barRead(bar, offset + at, static_cast<unsigned>(piece.size));
      const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
      if (const int failed = put(at, {bytes, piece.size})) return failed;
    }
    done += static_cast<int64_t>(piece.size);
  }
  return total;
}

int64_t Session::writeBar(unsigned bar, uint64_t offset, size_t size, const Fetch& fetch) {
  const int64_t total = inBar(bar, offset, size);
  const Cut cut(function_, bar);
  for (int64_t done = 0; done < total;) {
    const auto at = static_cast<size_t>(done);
    const Piece piece = cut.next(offset + at, static_cast<size_t>(total - done));
    if (!piece.inHole) {
      uint64_t value = 0;
      if (const int failed = fetch(at, {reinterpret_cast<uint8_t*>(&value), piece.size})) return failed;
      if (!reachable(bar)) return -EIO;
      function_.barWrite(bar, offset + at, static_cast<unsigned>(piece.size), value);
    }
    done += static_cast<int64_t>(piece.size);
  }
  return total;
}

int64_t Session::mapRegion(std::shared_ptr<File> keeper, void* hint, size_t length, int protection, int flags,
                           unsigned index, uint64_t start) {
  if (index >= VFIO_PCI_NUM_REGIONS) return -EINVAL;
  if ((flags & MAP_TYPE) == MAP_PRIVATE) return -EINVAL;
  if (!mappable(index)) return -EINVAL;
  const unsigned bar = index;
  const uint64_t size = (function_.resources[bar].size + pageSize - 1) / pageSize * pageSize;
  if (start > size || length > size - start) return -EINVAL;

  const auto& described = function_.description().bars[bar];
  if (described.sparse() && !described.isMemory(start, length)) return -EINVAL;

  Trap trap{.length = length, .keeper = std::move(keeper)};
  if (const int fd = function_.memoryFd(bar); fd >= 0) {
    return device_.host.mapFile(hint, protection, flags, fd, start, std::move(trap));
  }
  pci::Function& function = function_;
  trap.answers = [&function, bar] { return function.gone() || function.decodes(bar); };
  trap.read = [&function, bar, start](uint64_t at, unsigned width) {
    return function.barRead(bar, start + at, width);
  };
  trap.write = [&function, bar, start](uint64_t at, unsigned width, uint64_t value) {
    function.barWrite(bar, start + at, width, value);
  };
  return device_.host.mapTrap(hint, flags, std::move(trap));
}

int Session::setIoEvent(const IoEventRequest& request) {
  const unsigned width = request.width;
  const uint64_t at = request.offset;
  if (!std::has_single_bit(width) || width > 8 || request.fd < -1) return -EINVAL;
  if (request.index > VFIO_PCI_BAR5_REGION_INDEX) return -EINVAL;
  const unsigned bar = request.index;
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
