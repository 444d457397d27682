// The services that a host offers to its models: the release of the kernel, descriptors, the thread of the
// devices, memory, the fault log, mappings of registers. The models know nothing else of the host.
//
// Life: the host implements them and outlives all models. The caller holds the host's lock, except for
// `locked`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "../../controls.h"
#include "file.h"
#include "options.h"
#include "parameters.h"

namespace vfio::soft {

class DeviceFaults;
class DmaWatch;
class Engine;
namespace iommu {
class Sva;
}
namespace mm {
class Memory;
}

// What poll reports for a descriptor of the host. A program can so wait on it as on the kernel's descriptor.
enum class FdKind {
  plain,     // always readable and writable, like a regular file
  pollable,  // readable when `Services::setReadable` says so, always writable
  readable,  // readable as with `pollable`, never writable
};

// What a mapping of a device file refers to. If `answers`, `read` and `write` are set, the range consists of
// registers, with no memory behind them: each access to the range calls these functions (with the lock held;
// `offset` counts from the start of the range). The mapping holds `keeper` until the last part of the range
// is unmapped.
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
  // Does the host answer as this release or a later one?
  [[nodiscard]] bool since(unsigned major, unsigned minor) const {
    return options().kernel >= KernelVersion{major, minor};
  }
  [[nodiscard]] virtual Parameters& parameters() = 0;
  // May the caller do things that no protection limits? It may with CAP_SYS_RAWIO, which only root has.
  [[nodiscard]] virtual bool mayDoRawIo() const = 0;

  [[nodiscard]] virtual Engine& engine() = 0;
  [[nodiscard]] virtual mm::Memory& memory() = 0;
  [[nodiscard]] virtual DeviceFaults& deviceFaults() = 0;
  [[nodiscard]] virtual iommu::Sva& sva() = 0;

  // Returns a new descriptor, or -errno. `flags` are those of open(2): only the access mode and O_CLOEXEC
  // matter.
  [[nodiscard]] virtual int install(std::shared_ptr<File> file, FdKind kind, int flags) = 0;
  // Takes back the descriptor of a call that fails after all: no program has seen the number.
  virtual void uninstall(int fd) = 0;
  [[nodiscard]] virtual std::shared_ptr<File> file(int fd) = 0;   // null if the descriptor isn't the host's
  virtual void setReadable(const File& file, bool readable) = 0;  // not for FdKind::plain

  // A failure to translate an access, with this PASID or without one.
  virtual void reportFault(DmaFault fault, std::optional<uint32_t> pasid = std::nullopt) = 0;
  // What a sanitizer wants to see. Null: there is none.
  [[nodiscard]] virtual DmaWatch* watcher() = 0;
  // Records what a device does, with virtual time only (TraceEntry).
  virtual void trace(const char* what, const std::string& bdf) = 0;

  // --- the lock, for device models that live elsewhere (devices::Device::remote)
  // Runs `work` without the lock. Other calls run meanwhile. Afterwards the caller looks up again whatever
  // it had looked up before, unless the caller itself keeps that alive.
  virtual void unlocked(const std::function<void()>& work) = 0;
  // Runs `work` with the lock held. For a thread that does not hold it.
  virtual void locked(const std::function<void()>& work) = 0;
  // Runs `work`, with the lock held, after the current call has done everything else and before it returns
  // to the program. At that point nothing is half done, so `work` may release the lock.
  virtual void afterCall(std::function<void()> work) = 0;

  // Maps a range of registers. Returns its address, or -errno.
  [[nodiscard]] virtual int64_t mapTrap(void* hint, int flags, Trap trap) = 0;
  // Does the same with the memory of `fd` mapped: loads and stores are plain memory accesses.
  [[nodiscard]] virtual int64_t mapFile(void* hint, int protection, int flags, int fd, uint64_t offset,
                                        Trap trap) = 0;

 protected:
  Services() = default;
  ~Services() = default;
  Services(const Services&) = default;
  Services& operator=(const Services&) = default;
};

}  // namespace vfio::soft
