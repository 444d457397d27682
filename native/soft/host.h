// The software host: one machine (PCI topology, IOMMUs, devices) and the "kernel" that serves system calls on
// it.
//
// Life: made by Host::open in JavaScript (or by a fuzzer, a benchmark, a preload library: nothing here knows
// of JavaScript), lives until its owner drops it and its last descriptor is closed. It owns the descriptor
// table, the machine, and one engine thread on which devices do their work. One lock guards all of it; it is
// held for the length of every call and of every piece of device work, so the models below need no locks of
// their own.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "../backend.h"
#include "file.h"

namespace vfio::soft {

class Engine;
namespace pci {
class Machine;
}
namespace mm {
class Memory;
}

// What a descriptor of the host is made of underneath, so that it can be polled as the kernel's could.
enum class FdKind {
  plain,     // always readable and writable, as a regular file
  pollable,  // readable when `Host::setReadable` says so, always writable
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

class Host final : public Backend {
 public:
  // The default machine. (A topology argument comes with the issue that needs it.)
  Host();
  ~Host() override;

  int open(const char* path, int flags) override;
  int close(int fd) override;
  int ioctl(int fd, unsigned long request, uintptr_t argument) override;
  int64_t read(int fd, void* buffer, size_t size) override;
  int64_t write(int fd, const void* buffer, size_t size) override;
  int64_t pread(int fd, void* buffer, size_t size, uint64_t offset) override;
  int64_t pwrite(int fd, const void* buffer, size_t size, uint64_t offset) override;
  int64_t mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) override;
  int munmap(void* address, size_t length) override;
  int64_t readlink(const char* path, char* buffer, size_t size) override;
  int list(const char* path, std::vector<std::string>& names) override;
  bool trapped(const void* mapping) const override;
  uint64_t registerRead(const void* address, unsigned width) override;
  void registerWrite(void* address, unsigned width, uint64_t value) override;

  // --- controls: what a test may ask of the machine that no system call can
  [[nodiscard]] bool owns(int fd);  // is this descriptor one of ours (by number or by what is behind it)?
  [[nodiscard]] std::vector<DmaFault> takeFaults();  // translation failures since last asked, oldest first
  void settle();                                     // returns when no device has work left

  // --- for the models below; the lock is held
  [[nodiscard]] int install(std::shared_ptr<File> file, FdKind kind);  // a new descriptor, or -errno
  [[nodiscard]] std::shared_ptr<File> file(int fd);                    // null if not ours
  void setReadable(const File& file, bool readable);                   // for FdKind::pollable
  void reportFault(DmaFault fault);
  [[nodiscard]] pci::Machine& machine() { return *machine_; }
  [[nodiscard]] Engine& engine() { return *engine_; }
  [[nodiscard]] mm::Memory& memory() { return *memory_; }

  // Registers with nothing behind them: an address range whose accesses go to `read` and `write` (called with
  // the lock held; offset is from the start of the range). Used by device files' mmap; gone at munmap.
  struct Trap {
    size_t length;
    std::function<uint64_t(uint64_t offset, unsigned width)> read;
    std::function<void(uint64_t offset, unsigned width, uint64_t value)> write;
  };
  [[nodiscard]] int64_t mapTrap(void* hint, Trap trap);

 private:
  struct Descriptor;
  mutable std::mutex mutex_;
  std::unique_ptr<mm::Memory> memory_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<pci::Machine> machine_;
  std::unordered_map<int, Descriptor> descriptors_;
  std::unordered_map<uint64_t, Trap> traps_;
  std::vector<DmaFault> faults_;
};

}  // namespace vfio::soft
