// An open device: the state between the first file that is granted it (BIND, or GET_DEVICE_FD of its group)
// and the close of the last. Opening clears bus mastering, resets the function if it
// can be, and remembers its config space; closing stops it and puts config space back.
//
// Life: made and destroyed by the Device (device.h), which owns it.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "../core/file.h"
#include "../pci/function.h"
#include "config_view.h"
#include "interrupts.h"

namespace vfio::soft::cdev {

class Device;

class Session {
 public:
  explicit Session(Device& device);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  [[nodiscard]] int ioctl(unsigned long request, UserAddress argument);
  [[nodiscard]] int64_t transfer(UserAddress user, size_t size, uint64_t offset, bool write);
  // `keeper` is the open file: mappings hold it.
  [[nodiscard]] int64_t mmap(std::shared_ptr<File> keeper, void* hint, size_t length, int protection,
                             int flags, uint64_t offset);
  [[nodiscard]] Interrupts& interrupts() { return interrupts_; }
  // Any call resumes a device that was put to sleep.
  void wake();

 private:
  struct IoEvent {
    unsigned bar;
    uint64_t offset;
    uint64_t data;
    unsigned width;
    std::shared_ptr<EventFd> source;
    uint64_t watch;
  };
  [[nodiscard]] int getInfo(UserAddress argument);
  [[nodiscard]] int getRegionInfo(UserAddress argument);
  [[nodiscard]] int getIrqInfo(UserAddress argument);
  [[nodiscard]] int setIrqs(UserAddress argument);
  [[nodiscard]] int reset();
  [[nodiscard]] int getHotResetInfo(UserAddress argument);
  [[nodiscard]] int hotReset(UserAddress argument);
  [[nodiscard]] int copyGroups(UserAddress from, uint32_t count,
                               std::vector<std::shared_ptr<File>>& files) const;
  [[nodiscard]] int setIoEvent(UserAddress argument);
  [[nodiscard]] int feature(UserAddress argument);
  [[nodiscard]] int setToken(uint32_t flags, UserAddress argument, size_t size);
  [[nodiscard]] int lowPower(uint32_t flags, UserAddress argument, size_t size, uint32_t feature);

  [[nodiscard]] uint64_t regionSize(unsigned index) const;
  [[nodiscard]] bool mappable(unsigned index) const;
  [[nodiscard]] bool reachable(unsigned bar) const;  // decoding on, for memory
  [[nodiscard]] int64_t transferBar(unsigned bar, UserAddress user, size_t size, uint64_t offset, bool write);
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
