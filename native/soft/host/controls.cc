// What tests ask of the machine: faults and their log, virtual time, hot-plug.
#include <cerrno>
#include <utility>

#include "../../base/lack.h"
#include "../core/engine.h"
#include "../iommu/group.h"
#include "../machine/machine.h"
#include "host_lock.h"

namespace vfio::soft {

std::vector<DmaFault> Host::takeFaults() {
  const Inside hold(*this, Refusable::no);
  return std::exchange(faults_, {});
}

void Host::watch() {
  const Inside hold(*this);
  if (!watch_) watch_.emplace();
}

std::vector<Incident> Host::takeIncidents(uint64_t& lost) {
  const Inside hold(*this, Refusable::no);
  lost = 0;
  return watch_ ? watch_->take(lost) : std::vector<Incident>();
}

void Host::forbidDma(uint64_t address, uint64_t length) {
  const Inside hold(*this);
  if (!watch_) return;
  if (length != 0) {
    watch_->forbid(address, length);
  } else {
    watch_->allow(address);
  }
}

void Host::settle() { engine_->settle(); }

int Host::step() {
  const Inside hold(*this, Refusable::no);
  if (!engine_->hasVirtualTime()) return -EOPNOTSUPP;
  return engine_->step() ? 1 : 0;
}

int Host::advance(std::chrono::nanoseconds time) {
  Engine::Clock::time_point until;
  {
    const Inside hold(*this, Refusable::no);
    if (!engine_->hasVirtualTime()) return -EOPNOTSUPP;
    until = engine_->after(time);
  }
  // The lock is free between two pieces of work, and what they leave for the end of a call is done.
  for (;;) {
    const Inside hold(*this, Refusable::no);
    if (engine_->step(until)) continue;
    engine_->moveTo(until);
    return 0;
  }
}

std::vector<TraceEntry> Host::takeTrace() {
  const Inside hold(*this, Refusable::no);
  return std::exchange(trace_, {});
}

void Host::trace(const char* what, const std::string& bdf) {
  constexpr size_t most = 1 << 20;
  if (!engine_->hasVirtualTime() || trace_.size() >= most) return;
  trace_.push_back({engine_->now().time_since_epoch(), what, bdf});
}

void Host::addDevice(const std::string& device, const devices::Maker& make) {
  const Inside hold(*this);
  machine_->addDevice(device, make);
}

std::shared_ptr<void> Host::injectDeviceFault(DeviceFault fault) {
  const Inside hold(*this);
  return deviceFaults_.inject(std::move(fault));
}

uint64_t Host::life(const std::string& bdf) {
  const std::lock_guard hold(mutex_);
  return machine_->life(bdf);
}

int Host::removeDevice(const std::string& bdf, uint64_t life) try {
  const Inside hold(*this);
  reap();
  return life == machine_->life(bdf) ? machine_->removeDevice(bdf) : -ENODEV;
} catch (...) {
  return lack();
}

int Host::bindDriver(const std::string& bdf, const std::string& driver, bool exclusive) try {
  const Inside hold(*this);
  reap();
  return machine_->bindDriver(bdf, driver, exclusive);
} catch (...) {
  return lack();
}

int Host::dmaOwner(int id, DmaOwner& out) try {
  const Inside hold(*this);
  reap();
  const iommu::Group* group = machine_->iommuGroup(id);
  if (!group) return -ENODEV;
  out = {};
  if (group->ownerCount != 0) {
    out = {DmaOwner::Kind::user, group->ownerCount, descriptors_.leadingTo(group->owner)};
  } else if (group->kernelDrivers != 0) {
    out = {DmaOwner::Kind::kernel, group->kernelDrivers, -1};
  }
  return 0;
} catch (...) {
  return lack();
}

void Host::reportFault(DmaFault fault, std::optional<uint32_t> pasid) {
  if (watch_) watch_->report({.kind = "fault", .fault = fault, .pasid = pasid});
  // A device in a loop must not fill memory: hardware logs overflow too. A test wants the oldest faults.
  constexpr size_t most = 4096;
  try {
    if (faults_.size() < most) faults_.push_back(std::move(fault));
  } catch (const std::bad_alloc&) {
    // Like an overflow: only the fault that can't be kept is lost.
  }
}

}  // namespace vfio::soft
