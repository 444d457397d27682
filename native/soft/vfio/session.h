// An open device. The constructor clears bus mastering, resets the function if it can be reset, and saves its
// config space. The destructor stops the device and restores config space.
//
// Its calls are those of VFIO, on values and spans. They check the request, and never access a program's
// memory. requests.h copies the structs of system calls in and out; any other caller makes the same calls.
//
// Life: the Device (device.h) owns it. It makes the session for the first file that is granted the device
// (BIND, or GET_DEVICE_FD of its group), and destroys it when the last such file is closed.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "../../uapi/vfio.h"
#include "../core/file.h"
#include "../pci/function.h"
#include "access.h"
#include "config_view.h"
#include "interrupts.h"

namespace vfio::soft::cdev {

class Device;
class GroupFile;

class Session {
 public:
  explicit Session(Device& device);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // --- what the device has
  struct Info {
    uint32_t flags;
    uint32_t regions;
    uint32_t irqs;
  };
  [[nodiscard]] Info info() const;
  struct RegionInfo {
    uint32_t flags;
    uint64_t size;
    bool msixMappable;  // the region contains the MSI-X table and can be mapped nevertheless
    std::vector<uapi::vfio_region_sparse_mmap_area> areas;  // the parts that can be mapped; empty: all of it
  };
  [[nodiscard]] int regionInfo(uint32_t index, RegionInfo& out) const;
  struct IrqInfo {
    uint32_t flags;
    uint32_t count;
  };
  [[nodiscard]] int irqInfo(uint32_t index, IrqInfo& out) const;

  // --- regions: these return the number of bytes moved (fewer at the end of a BAR), or -errno
  [[nodiscard]] int64_t readRegion(unsigned index, uint64_t offset, size_t size, const Put& put);
  [[nodiscard]] int64_t writeRegion(unsigned index, uint64_t offset, size_t size, const Fetch& fetch);
  [[nodiscard]] int64_t readRegion(unsigned index, uint64_t offset, std::span<uint8_t> into);
  [[nodiscard]] int64_t writeRegion(unsigned index, uint64_t offset, std::span<const uint8_t> from);
  // Maps a part of a region into this process. `keeper` is the open file; the mapping keeps it alive.
  [[nodiscard]] int64_t mapRegion(std::shared_ptr<File> keeper, void* hint, size_t length, int protection,
                                  int flags, unsigned index, uint64_t offset);
  // Each signal of the eventfd `fd` causes a write of `data`. With `fd` -1 the request removes such a write.
  struct IoEventRequest {
    unsigned index;
    uint64_t offset;
    uint64_t data;
    unsigned width;
    int fd;
  };
  [[nodiscard]] int setIoEvent(const IoEventRequest& request);

  // --- interrupts
  // Checks a request, and sets `size` to its number of bytes of data: 0 or -EINVAL.
  [[nodiscard]] int irqDataSize(const uapi::vfio_irq_set& request, size_t& size) const;
  // Like Interrupts::set, with the check of irqDataSize; also -EINVAL for less data than the request needs.
  [[nodiscard]] int setIrqs(const uapi::vfio_irq_set& request, std::span<const uint8_t> data);
  [[nodiscard]] Interrupts& interrupts() { return interrupts_; }

  // --- resets
  [[nodiscard]] int reset();
  // Is the function on a bus, with which it could be reset?
  [[nodiscard]] bool hasBus() const { return !function_.isMediated(); }
  struct HotResetInfo {
    uint32_t flags;
    uint32_t count;  // number of functions on the bus
    std::vector<uapi::vfio_pci_dependent_device> devices;
    int failed;  // the error that ended the list of devices early; 0: the list is complete
  };
  [[nodiscard]] int hotResetInfo(HotResetInfo& out) const;
  // May a reset be requested with this number of groups? 0 or -errno.
  [[nodiscard]] int checkHotReset(size_t groups) const;
  [[nodiscard]] int hotReset(std::span<const std::shared_ptr<GroupFile>> groups);

  // --- power
  // Puts the device into low power. If `wakeup` is given, the next call wakes the device and signals it. If
  // it is null, only `leaveSleep` ends the sleep. -EINVAL: the device is asleep already.
  [[nodiscard]] int sleep(std::shared_ptr<EventFd> wakeup);
  // The program itself wakes the device: no eventfd is signalled.
  void leaveSleep();
  // Called at the start of any call: wakes a device that sleeps with a `wakeup`, and signals that.
  void wake();

  [[nodiscard]] Device& device() const { return device_; }
  [[nodiscard]] iommu::Endpoint& endpoint() const { return *function_.endpoint; }

 private:
  struct IoEvent {
    unsigned bar;
    uint64_t offset;
    uint64_t data;
    unsigned width;
    std::shared_ptr<EventFd> source;
    uint64_t watch;
  };
  [[nodiscard]] uint64_t regionSize(unsigned index) const;
  [[nodiscard]] bool mappable(unsigned index) const;
  [[nodiscard]] bool reachable(unsigned bar) const;  // decoding on, for memory
  // The number of bytes that an access to a BAR moves, cut at the BAR's end; or -EINVAL.
  [[nodiscard]] int64_t inBar(unsigned bar, uint64_t offset, size_t size) const;
  [[nodiscard]] int64_t readBar(unsigned bar, uint64_t offset, size_t size, const Put& put);
  [[nodiscard]] int64_t writeBar(unsigned bar, uint64_t offset, size_t size, const Fetch& fetch);
  [[nodiscard]] uint32_t ownerId(const pci::Function& function) const;
  void removeIoEvents();

  Device& device_;
  pci::Function& function_;
  bool resetWorks_ = false;
  pci::Function::State saved_;  // the state that the close restores
  Interrupts interrupts_;
  ConfigView config_;
  std::list<IoEvent> ioEvents_;
  bool asleep_ = false;  // the program has requested low power
  std::shared_ptr<EventFd> wakeup_;
};

// Resets every function on the bus of `member`, and restores their config spaces.
void resetBus(pci::Function& member);
// Whether vfio-pci holds every function that such a reset affects. False if one of them is a virtual
// function.
[[nodiscard]] bool busHeldByVfio(const pci::Function& member);

}  // namespace vfio::soft::cdev
