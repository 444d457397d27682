// The software host: one machine (PCI topology, IOMMUs, devices) and the "kernel" that serves system calls on
// it.
//
// Life: made by Host::open in JavaScript (or by a fuzzer, a benchmark, a preload library: nothing here knows
// of JavaScript), lives until its owner drops it and its last descriptor is closed. It owns the descriptor
// table, the machine, and one engine thread on which devices do their work. One lock guards all of it; it is
// held for the length of every call and of every piece of device work, so the models below need no locks of
// their own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../../backend.h"
#include "../core/file.h"
#include "../core/options.h"
#include "../core/parameters.h"

namespace vfio::soft {

class Engine;
struct Description;
using Inode = std::pair<uint64_t, uint64_t>;  // device, inode
namespace files {
struct Status;
}
namespace machine {
class Machine;
}
namespace mm {
class Memory;
}

// What a descriptor of the host answers to poll, so that it can be waited on as the kernel's could.
enum class FdKind {
  plain,     // always readable and writable, as a regular file
  pollable,  // readable when `Host::setReadable` says so, always writable
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

class Host final : public Backend {
 public:
  // `memory` is the process's: hosts of one process share it.
  explicit Host(std::shared_ptr<mm::Memory> memory, HostOptions options = {});
  ~Host() override;

  int open(const char* path, int flags) override;
  int close(int fd) override;
  int dup(int fd) override;
  int ioctl(int fd, unsigned long request, uintptr_t argument) override;
  int64_t read(int fd, void* buffer, size_t size) override;
  int64_t write(int fd, const void* buffer, size_t size) override;
  int64_t pread(int fd, void* buffer, size_t size, uint64_t offset) override;
  int64_t pwrite(int fd, const void* buffer, size_t size, uint64_t offset) override;
  FileKind kindOf(int fd) override;
  std::string nameOf(int fd) override;
  std::optional<bool> same(int one, int other) override;
  int64_t mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) override;
  int munmap(void* address, size_t length) override;
  int64_t readlink(const char* path, char* buffer, size_t size) override;
  int list(const char* path, std::vector<std::string>& names) override;
  int64_t readText(const char* path, std::string& text) override;
  int ownership(const char* path, Ownership& out) override;
  int own(const char* path, uint32_t uid, uint32_t mode) override;
  uint32_t user() const override;
  int openers(const char* path, std::vector<int>& pids) override;
  int descriptors(const char* path, std::vector<int>& fds) override;
  uint64_t life(const std::string& bdf) override;
  std::string release() const override;
  uint64_t pinned() const override;
  int dmaOwner(int group, DmaOwner& out) override;
  bool trapped(const void* mapping) const override;
  int registerRead(const void* address, unsigned width, uint64_t& value) override;
  int registerWrite(void* address, unsigned width, uint64_t value) override;

  int64_t lseek(int fd, int64_t offset, int whence);
  // What stat(2) tells of a path; `follow`: of what a link leads to.
  [[nodiscard]] int status(const char* path, bool follow, files::Status& out);

  // Around a fork, so that the child has a host of its own, in the state at the fork: descriptors are its
  // own, device work goes on with its next call. Memory of BARs stays shared, as mappings of it are.
  void beforeFork();
  void afterFork(bool inChild);

  // --- controls: what a test may ask of the machine that no system call can
  [[nodiscard]] bool owns(int fd);  // is this descriptor one of ours (by number or by what is behind it)?
  [[nodiscard]] std::vector<DmaFault> takeFaults();  // translation failures since last asked, oldest first
  void settle();                                     // returns when no device has work left
  // Hot-plug. `device` is one of a topology's, as JSON; throws std::invalid_argument as the topology does.
  void addDevice(const std::string& device);
  // 0; -ENODEV; -EBUSY: somebody has it open and is told to let go, and nobody else can open it. To be asked
  // again, with its life, until it is gone: -ENODEV too if another device has the address by then.
  [[nodiscard]] int removeDevice(const std::string& bdf, uint64_t life);
  [[nodiscard]] int removeDevice(const std::string& bdf) { return removeDevice(bdf, life(bdf)); }
  // Gives a device to a driver, which does DMA for the kernel unless it is one of those that don't: 0,
  // -ENODEV, -EBUSY (in use, or a user owns the group), or what the driver says.
  // `exclusive`: the driver attaches a page table of its own (iommu_attach_device), for which the device has
  // to be alone in its group: -EINVAL.
  [[nodiscard]] int bindDriver(const std::string& bdf, const std::string& driver, bool exclusive = false);
  void become(uint32_t uid);  // the program is another user's from now on

  // --- for the models below; the lock is held
  // A new descriptor, or -errno. `flags` are those of open(2): the access mode and O_CLOEXEC count.
  [[nodiscard]] int install(std::shared_ptr<File> file, FdKind kind, int flags);
  void uninstall(int fd);  // of a call that fails after all: nobody has seen the number
  [[nodiscard]] std::shared_ptr<File> file(int fd);   // null if not ours
  void setReadable(const File& file, bool readable);  // not for FdKind::plain
  void reportFault(DmaFault fault);
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  // May the caller do what reaches past all protection? With CAP_SYS_RAWIO, which nobody but root has.
  [[nodiscard]] bool mayDoRawIo() const;
  [[nodiscard]] Engine& engine() { return *engine_; }
  [[nodiscard]] mm::Memory& memory() { return *memory_; }
  [[nodiscard]] const HostOptions& options() const { return options_; }
  // Does it answer as this release or a later one?
  [[nodiscard]] bool since(unsigned major, unsigned minor) const {
    return options_.kernel >= KernelVersion{major, minor};
  }

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
  [[nodiscard]] int64_t mapTrap(void* hint, int flags, Trap trap);
  // The same with the memory of `fd` mapped: loads and stores are plain.
  [[nodiscard]] int64_t mapFile(void* hint, int protection, int flags, int fd, uint64_t offset, Trap trap);

 private:
  // A descriptor is one end of a socket pair. The inode of that end tells which file a number stands for,
  // even after a dup or a reuse of the number behind our back; the end that we keep makes it readable, and
  // hangs up exactly when the last duplicate is closed, however it was closed.
  struct TrapPart {  // what is left of a trap: munmap may cut it
    size_t length;
    uint64_t offset;
    std::shared_ptr<Trap> trap;
  };
  using Traps = std::map<uintptr_t, TrapPart>;
  [[nodiscard]] Description* description(int fd);
  // The same, trusting that a number which led to a description still does: asking costs as much as the call.
  // A number that was closed behind our back is noticed at the next open, close or dup of it.
  [[nodiscard]] Description* known(int fd);
  [[nodiscard]] static int number(Description& description);
  [[nodiscard]] int64_t transfer(int fd, bool write, const void* buffer, size_t size,
                                 std::optional<uint64_t> offset);
  void reap();
  void separate();
  void dropTraps(uintptr_t address, size_t length);
  [[nodiscard]] std::pair<const TrapPart*, uint64_t> findTrap(const void* address, size_t length) const;
  mutable std::mutex mutex_;
  const HostOptions options_;
  Parameters parameters_;
  std::shared_ptr<mm::Memory> memory_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<machine::Machine> machine_;
  std::map<Inode, std::unique_ptr<Description>> descriptions_;
  std::vector<Description*> numbers_;  // by descriptor; null: not known
  Traps traps_;
  std::vector<DmaFault> faults_;
};

}  // namespace vfio::soft
