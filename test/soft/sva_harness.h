// Shared code of the checks of shared virtual addressing: a host with endpoints that have PASIDs and page
// requests, each alone in its group, and processes to bind.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "../../native/soft/iommu/sva.h"
#include "machine_harness.h"

namespace vfio::soft::check {

// What a bond was told.
struct Told final : iommu::BondUser {
  void exited() override { ++exits; }
  void unserved(const iommu::PageRequest& request, mm::FaultIn why) override {
    ++faults;
    last = why;
    address = request.address;
  }
  std::atomic<unsigned> exits = 0;  // the engine's thread counts
  unsigned faults = 0;
  mm::FaultIn last = mm::FaultIn::done;
  uint64_t address = 0;
};

class SvaMachine {
 public:
  explicit SvaMachine(KernelVersion kernel = kNewestKernel, iommu::Unit itsUnit = fullUnit())
      : host(std::make_shared<mm::Memory>(), {.kernel = kernel}),
        unit(std::move(itsUnit)),
        inside_(host.install(std::make_shared<Inside>(), FdKind::plain, O_RDWR)) {}
  ~SvaMachine() {
    // A device may be in the group of an earlier one.
    inside([this] {
      while (!devices_.empty()) devices_.pop_back();
    });
    host.close(inside_);
  }
  SvaMachine(const SvaMachine&) = delete;
  SvaMachine& operator=(const SvaMachine&) = delete;

  void inside(const std::function<void()>& function) {
    (void)host.ioctl(inside_, 0, reinterpret_cast<uintptr_t>(&function));
  }

  // A device in a group of its own, or in that of another device.
  iommu::Endpoint& device(unsigned pasidBits = 8, iommu::Endpoint* sibling = nullptr) {
    Device* made = nullptr;
    inside([&] { made = &devices_.emplace_back(host, unit, static_cast<int>(devices_.size()), sibling); });
    made->endpoint.pasidBits = pasidBits;
    made->endpoint.pageRequests = true;
    return made->endpoint;
  }

  // The calls of Sva, as a system call makes them. `pid` 0: this process.
  int enable(iommu::Endpoint& endpoint) {
    int result = 0;
    inside([&] { result = host.sva().enable(endpoint); });
    return result;
  }
  int disable(iommu::Endpoint& endpoint) {
    int result = 0;
    inside([&] { result = host.sva().disable(endpoint); });
    return result;
  }
  int bind(iommu::Endpoint& endpoint, pid_t pid, std::shared_ptr<iommu::Bond>& out, bool exclusive = false) {
    int result = 0;
    inside([&] { result = host.sva().bind(endpoint, pid, exclusive, out); });
    return result;
  }
  void unbind(std::shared_ptr<iommu::Bond>& bond) {
    inside([&] { bond.reset(); });
  }
  std::optional<uint32_t> pasidOf(const std::shared_ptr<iommu::Bond>& bond) {
    std::optional<uint32_t> pasid;
    inside([&] { pasid = bond->pasid(); });
    return pasid;
  }
  // An access of a device that can't wait: did every byte move?
  bool read(iommu::Endpoint& endpoint, uint64_t address, void* into, size_t size, uint32_t pasid) {
    bool moved = false;
    inside([&] { moved = endpoint.dma.read(address, into, size, pasid); });
    return moved;
  }
  bool write(iommu::Endpoint& endpoint, uint64_t address, const void* from, size_t size, uint32_t pasid) {
    bool moved = false;
    inside([&] { moved = endpoint.dma.write(address, from, size, pasid); });
    return moved;
  }

  Host host;
  iommu::Unit unit;

 private:
  struct Device {
    Device(Host& host, iommu::Unit& unit, int number, iommu::Endpoint* sibling)
        : own{500 + number, {}},
          endpoint(host, "0001:00:" + std::to_string(10 + number) + ".0", static_cast<uint16_t>(number), unit,
                   sibling != nullptr ? sibling->group : own) {}
    iommu::Group own;
    iommu::Endpoint endpoint;
  };
  std::list<Device> devices_;
  const int inside_;
};

// A process that does nothing until it is told to end. It has this process's memory as it was at the fork.
class Child {
 public:
  Child() : pid(fork()) {
    if (pid != 0) return;
    for (;;) pause();
  }
  ~Child() { end(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void end() {
    if (ended_) return;
    ended_ = true;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  const pid_t pid;

 private:
  bool ended_ = false;
};

}  // namespace vfio::soft::check
