// An open device: the state between the first file that is granted it (BIND, or GET_DEVICE_FD of its group)
// and the close of the last. Opening clears bus mastering, resets the function if it
// can be, and remembers its config space; closing stops it and puts config space back.
//
// Its calls are those of VFIO, on values and spans: they check what is asked, and know no memory of a
// program. What copies a system call's structs in and out is requests.h; another way in calls the same.
//
// Life: made and destroyed by the Device (device.h), which owns it.
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
    bool msixMappable;  // it holds the MSI-X table and can be mapped all the same
  };
  [[nodiscard]] int regionInfo(uint32_t index, RegionInfo& out) const;
  struct IrqInfo {
    uint32_t flags;
    uint32_t count;
  };
  [[nodiscard]] int irqInfo(uint32_t index, IrqInfo& out) const;

  // --- regions: bytes moved (fewer at the end of a BAR), or -errno
  [[nodiscard]] int64_t readRegion(unsigned index, uint64_t offset, size_t size, const Put& put);
  [[nodiscard]] int64_t writeRegion(unsigned index, uint64_t offset, size_t size, const Fetch& fetch);
  [[nodiscard]] int64_t readRegion(unsigned index, uint64_t offset, std::span<uint8_t> into);
  [[nodiscard]] int64_t writeRegion(unsigned index, uint64_t offset, std::span<const uint8_t> from);
  // Maps a part of a region into this process. `keeper` is the open file: mappings hold it.
  [[nodiscard]] int64_t mapRegion(std::shared_ptr<File> keeper, void* hint, size_t length, int protection,
                                  int flags, unsigned index, uint64_t offset);
  // A write of `data` that each signal of an eventfd causes; `fd` -1 takes it away.
  struct IoEventRequest {
    unsigned index;
    uint64_t offset;
    uint64_t data;
    unsigned width;
    int fd;
  };
  [[nodiscard]] int setIoEvent(const IoEventRequest& request);

  // --- interrupts
  // Checks a request, and says how many bytes of data it has: 0 or -EINVAL.
  [[nodiscard]] int irqDataSize(const uapi::vfio_irq_set& request, size_t& size) const;
  // As Interrupts::set; -EINVAL also for less data than the request has.
  [[nodiscard]] int setIrqs(const uapi::vfio_irq_set& request, std::span<const uint8_t> data);
  [[nodiscard]] Interrupts& interrupts() { return interrupts_; }

  // --- resets
  [[nodiscard]] int reset();
  // Is it on a bus that it could be reset with?
  [[nodiscard]] bool hasBus() const { return !function_.isMediated(); }
  struct HotResetInfo {
    uint32_t flags;
    uint32_t count;  // of functions on the bus
    std::vector<uapi::vfio_pci_dependent_device> devices;
    int failed;  // why there are no more of them; 0: there are
  };
  [[nodiscard]] int hotResetInfo(HotResetInfo& out) const;
  // May a reset be asked for with so many groups to show? 0 or -errno.
  [[nodiscard]] int checkHotReset(size_t groups) const;
  [[nodiscard]] int hotReset(std::span<const std::shared_ptr<GroupFile>> groups);

  // --- power
  // Low power, until `wake` or any other call; `wakeup` (or null) is signalled by that one. -EINVAL: it is
  // asleep already.
  [[nodiscard]] int sleep(std::shared_ptr<EventFd> wakeup);
  // The program wakes it itself: nothing is signalled.
  void leaveSleep();
  // Any call resumes a device that was put to sleep.
  void wake();

  [[nodiscard]] Device& device() const { return device_; }

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
  // Bytes that an access to a BAR moves: cut at its end, or -EINVAL.
  [[nodiscard]] int64_t inBar(unsigned bar, uint64_t offset, size_t size) const;
  [[nodiscard]] int64_t readBar(unsigned bar, uint64_t offset, size_t size, const Put& put);
  [[nodiscard]] int64_t writeBar(unsigned bar, uint64_t offset, size_t size, const Fetch& fetch);
  [[nodiscard]] uint32_t ownerId(const pci::Function& function) const;
  void removeIoEvents();

  Device& device_;
  pci::Function& function_;
  bool resetWorks_ = false;
  pci::Function::State saved_;  // what close goes back to
  Interrupts interrupts_;
  ConfigView config_;
  std::list<IoEvent> ioEvents_;
  bool asleep_ = false;  // low power was asked for
  std::shared_ptr<EventFd> wakeup_;
};

// A reset of everything on a bus; config spaces come back as they were.
void resetBus(pci::Function& member);
// Whether every function that such a reset hits is held by vfio-pci.
[[nodiscard]] bool busHeldByVfio(const pci::Function& member);

}  // namespace vfio::soft::cdev
