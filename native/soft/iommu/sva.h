// Shared virtual addressing: binds the address spaces of processes to endpoints.
//
// The rules and their order are those of the kernel's iommu_sva_bind_device: PASIDs are numbers of the whole
// machine, from 1 on; a process has one for all of its bonds, from its first bond to its last; a second bond
// of the same pair is counted. An endpoint that shares its group can't be bound.
//
// Life: one Sva for a host. A Process is made with its first bond and destroyed with its last. A Bond is
// shared by its users (the files that stand for it), and ends with the last one, with its endpoint, or when
// the endpoint's device is closed. The end of the process does not end it, but nothing can be reached then.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "../mm/address_space.h"
#include "page_request.h"
#include "shared_table.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommu {

struct Attachment;
class Endpoint;
class Sva;

// What a user of a bond is told.
class BondUser {
 public:
  virtual void exited() = 0;  // once
  virtual void unserved(const PageRequest& request, mm::FaultIn why) = 0;

 protected:
  ~BondUser() = default;
};

// The tie of one process and one endpoint.
class Bond {
 public:
  struct Process;
  Bond(std::shared_ptr<Process> process, Endpoint& endpoint);
  ~Bond();
  Bond(const Bond&) = delete;
  Bond& operator=(const Bond&) = delete;

  // The PASID; nothing: the process has ended, or the endpoint has left.
  [[nodiscard]] std::optional<uint32_t> pasid() const;
  [[nodiscard]] bool hasExited() const;
  [[nodiscard]] bool isDetached() const { return endpoint_ == nullptr; }

  void join(BondUser& user) { users_.push_back(&user); }
  void leave(BondUser& user) { std::erase(users_, &user); }

 private:
  friend Sva;
  void attach(const Attachment& to) const;
  void detach();
  const std::shared_ptr<Process> process_;
  Endpoint* endpoint_;
  std::vector<BondUser*> users_;
};

class Sva {
 public:
  explicit Sva(Services& host) : host_(host) {}
  ~Sva();
  Sva(const Sva&) = delete;
  Sva& operator=(const Sva&) = delete;

  // --- the feature of an endpoint
  // Could it be enabled? The endpoint and its unit have PASIDs and page requests.
  [[nodiscard]] static bool has(const Endpoint& endpoint);
  [[nodiscard]] bool enabled(const Endpoint& endpoint) const { return enabled_.contains(&endpoint); }
  // Page requests are on while it is enabled. 0, -ENODEV (it doesn't have it), -EBUSY (it is enabled), or
  // what the unit's driver says of page requests (Model::enablesRequests).
  [[nodiscard]] int enable(Endpoint& endpoint);
  // 0, -EINVAL (it is not enabled) or -EBUSY (a process is bound).
  [[nodiscard]] int disable(Endpoint& endpoint);

  // --- bonds
  // Binds a process: 0, -ENODEV (no IOMMU, or no group), -EINVAL (the group has other members, or the feature
  // is not enabled), -EOVERFLOW (the process's PASID is too large for this endpoint), -ENOSPC (no PASID is
  // left that the endpoint can carry; before 6.6 -EOPNOTSUPP where it can carry none), -EBUSY (the PASID is
  // attached to something else), -EEXIST (with `exclusive`: the two are bound already), -EOPNOTSUPP (the
  // unit can't walk page tables of processes), or the error of finding the process (AddressSpace::ofProcess).
  // `pid` 0, or the caller's own: this process.
  [[nodiscard]] int bind(Endpoint& endpoint, pid_t pid, bool exclusive, std::shared_ptr<Bond>& out);
  // Ends all bonds of an endpoint whose device is closed or removed, and disables the feature.
  void close(Endpoint& endpoint);

  // In the child of a fork: the bonds of this process are the parent's.
  void afterFork();

 private:
  friend Bond;
  [[nodiscard]] int processOf(pid_t pid, std::shared_ptr<Bond::Process>& out);
  void exited(Bond::Process& process);
  void unserved(Bond::Process& process, const SharedTable::Unserved& what);

  Services& host_;
  std::set<const Endpoint*> enabled_;
  std::map<uint32_t, const Bond::Process*> pasids_;
  std::list<std::weak_ptr<Bond>> bonds_;
};

}  // namespace vfio::soft::iommu
