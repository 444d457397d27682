#include "sva.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "../core/engine.h"
#include "../core/services.h"
#include "endpoint.h"
#include "model.h"

namespace vfio::soft::iommu {

struct Bond::Process {
  Process(Sva& its, std::shared_ptr<mm::AddressSpace> memory)
      : sva(its),
        space(std::move(memory)),
        table(std::make_shared<SharedTable>(
            space, [this](const SharedTable::Unserved& what) { sva.unserved(*this, what); })) {}
  ~Process() {
    if (watch != 0) sva.host_.engine().unwatch(watch);
    sva.pasids_.erase(pasid);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  Sva& sva;
  const std::shared_ptr<mm::AddressSpace> space;
  const std::shared_ptr<SharedTable> table;
  uint32_t pasid = 0;
  uint64_t watch = 0;
};

// ---------------------------------------------------------------- a bond

Bond::Bond(std::shared_ptr<Process> process, Endpoint& endpoint)
    : process_(std::move(process)), endpoint_(&endpoint) {
  attach({.translation = process_->table, .pageRequests = process_->table.get()});
}

// As in the kernel, a PASID is attached for the whole group: a member that was plugged in after the bind has
// it too.
void Bond::attach(const Attachment& to) const {
  for (Endpoint* const member : std::vector(endpoint_->group.members)) member->attach(process_->pasid, to);
}

Bond::~Bond() { detach(); }

std::optional<uint32_t> Bond::pasid() const {
  if (endpoint_ == nullptr || hasExited()) return std::nullopt;
  return process_->pasid;
}

bool Bond::hasExited() const { return process_->space->hasEnded(); }

// First nothing is translated any more, then the requests that have no answer get one.
void Bond::detach() {
  if (endpoint_ == nullptr) return;
  attach({});
  Endpoint& endpoint = *std::exchange(endpoint_, nullptr);
  endpoint.unit.requestQueue.drain();
  endpoint.dma.refuse(process_->pasid);
}

// ---------------------------------------------------------------- the feature

Sva::~Sva() {
  for (const auto& each : bonds_) {
    if (const auto bond = each.lock()) bond->detach();
  }
}

bool Sva::has(const Endpoint& endpoint) {
  return endpoint.unit.model.sharesTables() && endpoint.usablePasidBits() != 0 && endpoint.canRequestPages();
}

int Sva::enable(Endpoint& endpoint) {
  if (!has(endpoint)) return -ENODEV;
  if (enabled(endpoint)) return -EBUSY;
  if (const int failed = endpoint.unit.model.enablesRequests(endpoint)) return failed;
  enabled_.insert(&endpoint);
  endpoint.requests.turnOn();
  return 0;
}

int Sva::disable(Endpoint& endpoint) {
  if (!enabled(endpoint)) return -EINVAL;
  for (const auto& each : bonds_) {
    const auto bond = each.lock();
    if (bond && bond->endpoint_ == &endpoint) return -EBUSY;
  }
  enabled_.erase(&endpoint);
  endpoint.requests.turnOff();
  return 0;
}

// ---------------------------------------------------------------- binding

int Sva::processOf(pid_t pid, std::shared_ptr<Bond::Process>& out) {
  for (const auto& each : bonds_) {
    const auto bond = each.lock();
    if (!bond || bond->hasExited() || !bond->process_->space->isAlive()) continue;
    const bool own = bond->process_->space->ending() < 0;
    if (pid == 0 ? own : !own && bond->process_->space->pid == pid) {
      out = bond->process_;
      return out->space->permitted();  // the caller may have become another user
    }
  }
  std::shared_ptr<mm::AddressSpace> space;
  if (pid == 0) {
    space = mm::AddressSpace::ofSelf(host_.memory());
  } else if (const int failed = mm::AddressSpace::ofProcess(pid, space)) {
    return failed;
  }
  out = std::make_shared<Bond::Process>(*this, std::move(space));
  return 0;
}

int Sva::bind(Endpoint& endpoint, pid_t pid, bool exclusive, std::shared_ptr<Bond>& out) {
  if (pid == getpid()) pid = 0;
  if (endpoint.group.id == Group::kNone || endpoint.group.by != Confinement::iommu) return -ENODEV;
  if (endpoint.group.members.size() != 1) return -EINVAL;
  const unsigned bits = endpoint.usablePasidBits();
  const uint32_t end = bits == 0 ? 0 : uint32_t{1} << bits;
  std::erase_if(bonds_, [](const auto& each) { return each.expired(); });

  std::shared_ptr<Bond::Process> process;
  if (const int failed = processOf(pid, process)) return failed;
  if (process->pasid == 0) {
    uint32_t free = 1;
    for (const auto& [taken, owner] : pasids_) {
      if (taken != free) break;
      ++free;
    }
    if (free >= end) return end == 0 && !host_.since(6, 6) ? -EOPNOTSUPP : -ENOSPC;
    process->pasid = free;
    pasids_.emplace(free, process.get());
    if (process->space->ending() >= 0) {
      // If no thread can be started, the next call on the host notices the end. Accesses fail in any case.
      process->watch = host_.engine().watchOnce(process->space->ending(),
                                                [this, ended = process.get()] { exited(*ended); });
    }
  } else if (process->pasid >= end) {
    return -EOVERFLOW;
  }

  for (const auto& each : bonds_) {
    const auto bond = each.lock();
    if (!bond || bond->endpoint_ != &endpoint || bond->process_ != process) continue;
    if (exclusive) return -EEXIST;
    out = bond;
    return 0;
  }
  if (endpoint.hasPasid(process->pasid)) return -EBUSY;
  if (const int failed = process->table->suits(endpoint.unit)) return failed;
  if (!enabled(endpoint)) return -EINVAL;
  out = std::make_shared<Bond>(std::move(process), endpoint);
  bonds_.push_back(out);
  return 0;
}

void Sva::close(Endpoint& endpoint) {
  for (const auto& each : bonds_) {
    const auto bond = each.lock();
    if (bond && bond->endpoint_ == &endpoint) bond->detach();
  }
  if (enabled_.erase(&endpoint) != 0) endpoint.requests.turnOff();
}

// ---------------------------------------------------------------- events

void Sva::exited(Bond::Process& process) {
  if (process.space->hasEnded()) return;
  process.space->end();
  for (const auto& each : bonds_) {
    const auto bond = each.lock();
    if (!bond || bond->process_.get() != &process) continue;
    // A unit that caches translations has to forget them before the memory goes.
    if (bond->endpoint_ != nullptr) bond->endpoint_->invalidate(process.pasid, kEverything);
    for (BondUser* const user : std::vector(bond->users_)) user->exited();
  }
}

void Sva::unserved(Bond::Process& process, const SharedTable::Unserved& what) {
  // The process may have replaced its program, of which nobody tells.
  if (what.why == mm::FaultIn::ended) exited(process);
  for (const auto& each : bonds_) {
    const auto bond = each.lock();
    if (!bond || bond->process_.get() != &process || bond->endpoint_ != &what.from) continue;
    for (BondUser* const user : std::vector(bond->users_)) user->unserved(what.request, what.why);
  }
}

void Sva::afterFork() {
  for (const auto& each : bonds_) {
    const auto bond = each.lock();
    if (bond && bond->process_->space->ending() < 0) exited(*bond->process_);
  }
}

}  // namespace vfio::soft::iommu
