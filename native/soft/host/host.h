// The software host: one machine (PCI topology, IOMMUs, devices) and the "kernel" that serves system calls on
// it.
//
// Life: Host::open creates it in JavaScript (or a fuzzer, a benchmark, a preload library does: nothing here
// knows of JavaScript). It lives until its owner drops it and its last descriptor is closed. It owns the
// descriptor table, the machine, and one engine thread on which devices do their work. One lock guards all
// of it. The lock is held during every call and every piece of device work, so the models below need no
// locks of their own. It is released only while a device model that lives elsewhere answers
// (docs/architecture.md).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "../../backend.h"
#include "../../controls.h"
#include "../core/device_faults.h"
#include "../core/dma_watch.h"
#include "../core/services.h"
#include "../files/descriptors.h"
#include "../files/traps.h"
#include "../files/tree.h"
#include "../iommu/sva.h"

namespace vfio::soft {

class Engine;
namespace machine {
class Machine;
}
namespace mm {
class Memory;
}
namespace topology {
class Catalogue;
}

class Host final : public Backend, public Controls, public Services {
 public:
  // `memory` belongs to the process: hosts of one process share it.
  // `models`: the models that a topology can name, besides or instead of the built-in ones (null: the
  // built-in ones).
  explicit Host(std::shared_ptr<mm::Memory> memory, HostOptions options = {},
                std::shared_ptr<const topology::Catalogue> models = nullptr);
  ~Host() override;

  Controls* controls() override { return this; }
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
  // Returns what stat(2) reports for a path. With `follow`, it reports the file that a link refers to.
  [[nodiscard]] int status(const char* path, bool follow, files::Status& out);

  // Called around a fork, so that the child has a host of its own, in the state at the fork. The child's
  // descriptors are its own, and device work continues with its next call. Memory of BARs stays shared, and
  // so do mappings of it. If another thread has a call under way in a model that lives elsewhere, that call
  // never ends in the child: its device stays in use there.
  void beforeFork();
  void afterFork(bool inChild);

  // --- Controls
  bool owns(int fd) override;
  std::vector<DmaFault> takeFaults() override;
  void watch() override;
  std::vector<Incident> takeIncidents(uint64_t& lost) override;
  void forbidDma(uint64_t address, uint64_t length) override;
  void settle() override;
  int step() override;
  int advance(std::chrono::nanoseconds time) override;
  std::vector<TraceEntry> takeTrace() override;
  void addDevice(const std::string& device, const devices::Maker& make) override;
  int removeDevice(const std::string& bdf, uint64_t life) override;
  [[nodiscard]] int removeDevice(const std::string& bdf) { return removeDevice(bdf, life(bdf)); }
  int bindDriver(const std::string& bdf, const std::string& driver, bool exclusive) override;
  std::shared_ptr<void> injectDeviceFault(DeviceFault fault) override;
  void become(uint32_t uid) override;

  // --- Services: called by the models, with the lock held
  [[nodiscard]] const HostOptions& options() const override { return options_; }
  [[nodiscard]] Parameters& parameters() override { return parameters_; }
  [[nodiscard]] bool mayDoRawIo() const override;
  [[nodiscard]] Engine& engine() override { return *engine_; }
  [[nodiscard]] mm::Memory& memory() override { return *memory_; }
  [[nodiscard]] DeviceFaults& deviceFaults() override { return deviceFaults_; }
  [[nodiscard]] iommu::Sva& sva() override { return sva_; }
  [[nodiscard]] int install(std::shared_ptr<File> file, FdKind kind, int flags) override;
  void uninstall(int fd) override;
  [[nodiscard]] std::shared_ptr<File> file(int fd) override;
  void setReadable(const File& file, bool readable) override;
  void reportFault(DmaFault fault, std::optional<uint32_t> pasid = std::nullopt) override;
  [[nodiscard]] DmaWatch* watcher() override { return watch_ ? &*watch_ : nullptr; }
  void trace(const char* what, const std::string& bdf) override;
  [[nodiscard]] int64_t mapTrap(void* hint, int flags, Trap trap) override;
  [[nodiscard]] int64_t mapFile(void* hint, int protection, int flags, int fd, uint64_t offset,
                                Trap trap) override;
  void unlocked(const std::function<void()>& work) override;
  void locked(const std::function<void()>& work) override;
  void afterCall(std::function<void()> work) override;

 private:
  class Inside;   // a call: the lock, the reserve of memory, and the work left for its end
  void finish();  // does the work left for the end of this call
  void reap();    // drops files that were closed behind our back
  [[nodiscard]] int64_t transfer(int fd, bool write, const void* buffer, size_t size,
                                 std::optional<uint64_t> offset);
  mutable std::mutex mutex_;
  const HostOptions options_;
  Parameters parameters_;
  DeviceFaults deviceFaults_{options_.seed};
  std::optional<DmaWatch> watch_;  // told of the ends of mappings and devices below
  std::shared_ptr<mm::Memory> memory_;
  iommu::Sva sva_{*this};
  files::Descriptors descriptors_;
  files::Traps traps_;
  files::Tree tree_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<machine::Machine> machine_;
  std::vector<DmaFault> faults_;
  std::vector<TraceEntry> trace_;
  std::vector<std::function<void()>> after_;  // the work left for the end of the current call
};

}  // namespace vfio::soft
