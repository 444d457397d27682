// The controls of a software host: what a test can ask of a machine that no system call can.
// Backend::controls returns them; the kernel has none.
//
// The code above this interface knows a host by Backend and Controls only. So an object that implements both
// can stand in front of a host, and records, changes or replays all that a test does to the machine.
//
// Life: controls live as long as the backend that returned them. All calls are safe from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/occurrence.h"
#include "device_model.h"

namespace vfio {

// One translation failure, as the fault log of an IOMMU has it.
struct DmaFault {
  std::string bdf;
  uint64_t iova;
  uint64_t length;
  bool write;
  std::string reason;  // "blocked", "not mapped", "not readable", "beyond the device's DMA mask" ...
};

// Something that a device did, in virtual time.
struct TraceEntry {
  std::chrono::nanoseconds time;
  const char* what;  // "work", "interrupt", "dma read", "dma write"
  std::string bdf;
};

// Is told each time that an injected fault strikes, in the thread of the call: the name of the call, or of
// what the device did. It makes no call of the host.
using Struck = std::function<void(const char* what)>;

// System calls that fail as if the kernel had run out of something at their entry: with nothing done.
struct CallFault {
  // The name of a system call ("open", "mmap" ...) or of a request ("IOMMU_IOAS_MAP"); empty: each call that
  // can fail so, which calls that clean up can't: close, munmap, and the requests that detach, unmap and
  // destroy.
  std::string call;
  int error = 0;  // an errno, positive; 0: the calls are told to `struck`, and don't fail
  Occurrence when{};
  Struck struck{};
};

// What goes wrong between a device and the machine.
struct DeviceFault {
  enum class Kind {
    interruptLost,
    interruptDelayed,
    interruptDoubled,
    interruptReordered,  // it comes after the device's next one; without one, after the delay
    dmaDelayed,          // reads that the model waits for at once can't be
    dmaDropped,         // a write is lost, and the device isn't told; a read is answered with ones, and fails
    dmaCorrupted,       // one bit is wrong
    pageRequestSilent,  // nobody gets the request, and the device waits
  };
  Kind kind;
  std::string bdf;  // empty: each device
  Occurrence when{};
  std::chrono::nanoseconds delay{};
  Struck struck{};
};

// Something that a sanitizer of drivers has to know, at the time when it happened.
struct Incident {
  // "fault": a translation failure. "disposed": DMA to memory that was forbidden (forbidDma). "after-reset":
  // DMA though no driver has written to a register since the device's last reset. "overlap": a write where
  // another device (`reason`) wrote, while both had leave to. "interrupt": an interrupt that nobody hears of;
  // `iova` is its vector.
  const char* kind;
  DmaFault fault;
  std::optional<uint32_t> pasid{};
  uint64_t time = 0;  // nanoseconds of the monotonic clock
};

class Controls {
 public:
  virtual ~Controls() = default;

  // Does this descriptor belong to the host, by its number or by the file that it refers to?
  [[nodiscard]] virtual bool owns(int fd) = 0;

  // The translation failures since the last call, oldest first.
  [[nodiscard]] virtual std::vector<DmaFault> takeFaults() = 0;
  // From now on incidents are kept, until they are taken.
  virtual void watch() = 0;
  // The incidents since the last call, oldest first. `lost`: how many more there were.
  [[nodiscard]] virtual std::vector<Incident> takeIncidents(uint64_t& lost) = 0;
  // DMA to this memory of the process is an incident from now on; with length 0, no more. Until watch() this
  // does nothing.
  virtual void forbidDma(uint64_t address, uint64_t length) = 0;
  // Returns when no device has work left. Virtual time moves as far as that needs.
  virtual void settle() = 0;
  // Virtual time, of a host that was made with it. `step`: does the next piece of the devices' work, and
  // moves the clock to its time: 1; 0: there is none. `advance`: moves the clock, and does all work that is
  // due until then, in order: 0. Both: -EOPNOTSUPP if the host's time is real.
  [[nodiscard]] virtual int step() = 0;
  [[nodiscard]] virtual int advance(std::chrono::nanoseconds time) = 0;
  // What devices have done since the last call, oldest first. Recorded with virtual time only.
  [[nodiscard]] virtual std::vector<TraceEntry> takeTrace() = 0;

  // Plugs in a device. `device` is JSON, as the description of a device in a topology. Throws
  // std::invalid_argument, with a message, for a device that cannot be built. `make` makes the model of a
  // device whose `model` is "simulated", which is described as a passive one; null: there is no such model.
  virtual void addDevice(const std::string& device, const devices::Maker& make) = 0;
  // Removes the device that has this address and this life (Backend::life). 0: it is removed. -EBUSY: it is
  // open, and its user is asked to close it, or its model is answering a call. Nobody else can open it then;
  // ask again until it is removed. -ENODEV: there is no such device, or another device has the address by
  // now.
  [[nodiscard]] virtual int removeDevice(const std::string& bdf, uint64_t life) = 0;
  // Binds a device to a driver of the kernel, which does DMA unless it is a driver that does none: 0,
  // -ENODEV, -EBUSY (the device is in use, or a user owns its group), or the error of the driver.
  // `exclusive`: the driver attaches a page table of its own (iommu_attach_device). That fails with -EINVAL
  // unless the device is alone in its group.
  [[nodiscard]] virtual int bindDriver(const std::string& bdf, const std::string& driver, bool exclusive) = 0;
  // Injects a fault, which ends with the last reference to what is returned. `injectCallFault` throws
  // std::invalid_argument for a name that no call has; null: nothing that fails calls stands in front of the
  // host (native/inject).
  [[nodiscard]] virtual std::shared_ptr<void> injectCallFault(CallFault /*fault*/) { return nullptr; }
  [[nodiscard]] virtual std::shared_ptr<void> injectDeviceFault(DeviceFault fault) = 0;

  // From now on the program runs as this user.
  virtual void become(uint32_t uid) = 0;
};

}  // namespace vfio
