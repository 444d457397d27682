// The services that a host offers to its models: the release of the kernel, descriptors, the thread of the
// devices, memory, the fault log, mappings of registers. The models know nothing else of the host.
//
// Life: the host implements them and outlives all models. The caller holds the host's lock, but for `locked`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "file.h"
#include "options.h"
#include "parameters.h"

namespace vfio::soft {

class Engine;
namespace mm {
class Memory;
}

// What a descriptor of the host answers to poll, so that it can be waited on as the kernel's could.
enum class FdKind {
  plain,     // always readable and writable, as a regular file
  pollable,  // readable when `Services::setReadable` says so, always writable
  readable,  // the same, never writable
};

// One translation failure, as an IOMMU's fault log has it.
struct DmaFault {
  std::string bdf;
  uint64_t iova;
  uint64_t length;
  bool write;
  std::string
      reason;  // "blocked", "not mapped", "not readable", "not writable", "beyond the device's DMA mask" ...
};

// What a mapping of a device file leads to. With `answers`, `read` and `write` it is registers with nothing
// behind them: accesses to the range go to these (with the lock held; `offset` is from the start of the
// range). `keeper` is held until the last part of the range is unmapped.
struct Trap {
  size_t length;
  std::function<bool()> answers;  // does the device decode the range now?
  std::function<uint64_t(uint64_t offset, unsigned width)> read;
  std::function<void(uint64_t offset, unsigned width, uint64_t value)> write;
  std::shared_ptr<File> keeper;
};

class Services {
 public:
  [[nodiscard]] virtual const HostOptions& options() const = 0;
  // Does it answer as this release or a later one?
  [[nodiscard]] bool since(unsigned major, unsigned minor) const {
    return options().kernel >= KernelVersion{major, minor};
  }
  [[nodiscard]] virtual Parameters& parameters() = 0;
  // May the caller do what reaches past all protection? With CAP_SYS_RAWIO, which nobody but root has.
  [[nodiscard]] virtual bool mayDoRawIo() const = 0;

  [[nodiscard]] virtual Engine& engine() = 0;
  [[nodiscard]] virtual mm::Memory& memory() = 0;

  // A new descriptor, or -errno. `flags` are those of open(2): the access mode and O_CLOEXEC count.
  [[nodiscard]] virtual int install(std::shared_ptr<File> file, FdKind kind, int flags) = 0;
  virtual void uninstall(int fd) = 0;  // of a call that fails after all: nobody has seen the number
  [[nodiscard]] virtual std::shared_ptr<File> file(int fd) = 0;   // null if it is none of the host's
  virtual void setReadable(const File& file, bool readable) = 0;  // not for FdKind::plain

  virtual void reportFault(DmaFault fault) = 0;

  // --- the lock, for device models that live elsewhere (devices::Device::remote)
  // Runs `work` without the lock. Other calls run meanwhile: what the caller has looked up before is looked
  // up anew, or kept alive by what the caller holds.
  virtual void unlocked(const std::function<void()>& work) = 0;
  // Runs `work` with the lock, for a thread that does not hold it.
  virtual void locked(const std::function<void()>& work) = 0;
  // Runs `work`, with the lock held, when the call under way has done everything else, and before it returns
  // to the program. There nothing is half done, so that `work` can let the lock go.
  virtual void afterCall(std::function<void()> work) = 0;

  // Maps a range of registers: its address, or -errno.
  [[nodiscard]] virtual int64_t mapTrap(void* hint, int flags, Trap trap) = 0;
  // The same with the memory of `fd` mapped: loads and stores are plain.
  [[nodiscard]] virtual int64_t mapFile(void* hint, int protection, int flags, int fd, uint64_t offset,
                                        Trap trap) = 0;

 protected:
  Services() = default;
  ~Services() = default;
  Services(const Services&) = default;
  Services& operator=(const Services&) = default;
};

}  // namespace vfio::soft
