// A host whose calls fail on demand. It stands in front of a software host, and passes on each call that no
// injected fault strikes. A call that one strikes never reaches the host behind: nothing of it is done.
//
// Life: it owns the host behind it. A fault belongs to whoever injected it; it is listed here weakly. The
// lock is held only while a call is compared with the faults, and not at all while there are none.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../backend.h"
#include "../controls.h"

namespace vfio::inject {

class FaultyHost final : public Backend, public Controls {
 public:
  // `host` has controls. `seed`: of the probabilities.
  FaultyHost(std::unique_ptr<Backend> host, uint64_t seed);
  ~FaultyHost() override;

  Controls* controls() override { return this; }
  int open(const char* path, int flags) override;
  int close(int fd) override { return host_->close(fd); }
  int dup(int fd) override;
  int ioctl(int fd, unsigned long request, uintptr_t argument) override;
  int64_t read(int fd, void* buffer, size_t size) override;
  int64_t write(int fd, const void* buffer, size_t size) override;
  int64_t pread(int fd, void* buffer, size_t size, uint64_t offset) override;
  int64_t pwrite(int fd, const void* buffer, size_t size, uint64_t offset) override;
  int eventfd() override;
  FileKind kindOf(int fd) override { return host_->kindOf(fd); }
  std::string nameOf(int fd) override { return host_->nameOf(fd); }
  std::optional<bool> same(int one, int other) override { return host_->same(one, other); }
  int64_t mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) override;
  int munmap(void* address, size_t length) override { return host_->munmap(address, length); }
  int64_t readlink(const char* path, char* buffer, size_t size) override;
  int list(const char* path, std::vector<std::string>& names) override;
  int64_t readText(const char* path, std::string& text) override;
  int ownership(const char* path, Ownership& out) override;
  int own(const char* path, uint32_t uid, uint32_t mode) override;
  uint32_t user() const override { return host_->user(); }
  int openers(const char* path, std::vector<int>& pids) override { return host_->openers(path, pids); }
  int descriptors(const char* path, std::vector<int>& fds) override { return host_->descriptors(path, fds); }
  uint64_t life(const std::string& bdf) override { return host_->life(bdf); }
  std::string release() const override { return host_->release(); }
  uint64_t pinned() const override { return host_->pinned(); }
  int dmaOwner(int group, DmaOwner& out) override { return host_->dmaOwner(group, out); }
  bool trapped(const void* mapping) const override { return host_->trapped(mapping); }
  int registerRead(const void* address, unsigned width, uint64_t& value) override {
    return host_->registerRead(address, width, value);
  }
  int registerWrite(void* address, unsigned width, uint64_t value) override {
    return host_->registerWrite(address, width, value);
  }

  // --- Controls
  bool owns(int fd) override { return controls_.owns(fd); }
  std::vector<DmaFault> takeFaults() override { return controls_.takeFaults(); }
  void watch() override { controls_.watch(); }
  std::vector<Incident> takeIncidents(uint64_t& lost) override { return controls_.takeIncidents(lost); }
  void forbidDma(uint64_t address, uint64_t length) override { controls_.forbidDma(address, length); }
  void settle() override { controls_.settle(); }
  int step() override { return controls_.step(); }
  int advance(std::chrono::nanoseconds time) override { return controls_.advance(time); }
  std::vector<TraceEntry> takeTrace() override { return controls_.takeTrace(); }
  void addDevice(const std::string& device, const devices::Maker& make) override {
    controls_.addDevice(device, make);
  }
  int removeDevice(const std::string& bdf, uint64_t life) override {
    return controls_.removeDevice(bdf, life);
  }
  int bindDriver(const std::string& bdf, const std::string& driver, bool exclusive) override {
    return controls_.bindDriver(bdf, driver, exclusive);
  }
  std::shared_ptr<void> injectCallFault(CallFault fault) override;
  std::shared_ptr<void> injectDeviceFault(DeviceFault fault) override {
    return controls_.injectDeviceFault(std::move(fault));
  }
  void become(uint32_t uid) override { controls_.become(uid); }

 private:
  struct Rule;
  // 0: the call is made; else -errno. `request`: the name of an ioctl's request; nullptr: none is known.
  [[nodiscard]] int failed(const char* call, const char* request = nullptr, bool cleansUp = false);

  const std::unique_ptr<Backend> host_;
  Controls& controls_;
  const uint64_t seed_;
  std::atomic<bool> some_ = false;  // are there faults?
  std::mutex lock_;
  uint64_t injected_ = 0;
  std::vector<std::weak_ptr<Rule>> rules_;
};

}  // namespace vfio::inject
