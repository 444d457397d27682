#include "endpoint.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "../../uapi/iommufd_data.h"
#include "../core/engine.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "domain.h"

namespace vfio::soft::iommu {

int Group::claim(const void* by) {
  if (kernelDrivers != 0 || (ownerCount != 0 && owner != by)) return -EPERM;
  owner = by;
  ++ownerCount;
  return 0;
}

void Group::release(const void* by) {
  if (owner != by || ownerCount == 0) return;
  if (--ownerCount == 0) owner = nullptr;
}

Endpoint::Endpoint(Services& itsHost, std::string itsBdf, uint16_t itsRequesterId, Unit& itsUnit,
                   Group& itsGroup)
    : host(itsHost), bdf(std::move(itsBdf)), requesterId(itsRequesterId), unit(itsUnit), group(itsGroup) {
  // Members can't be told apart, so one that appears is translated as the others are.
  if (!group.members.empty()) {
    plain_ = group.members.front()->plain_;
    pasids_ = group.members.front()->pasids_;
  }
  group.members.push_back(this);
}

Endpoint::~Endpoint() {
  if (plain_.pageRequests != nullptr) plain_.pageRequests->forget(*this);
  for (const auto& [pasid, to] : pasids_) {
    if (to.pageRequests != nullptr) to.pageRequests->forget(*this);
  }
  host.engine().cancel(this);
  std::erase(group.members, this);
}

const Attachment* Endpoint::attachment(std::optional<uint32_t> pasid) const {
  if (!pasid) return plain_.translation != nullptr ? &plain_ : nullptr;
  const auto found = pasids_.find(*pasid);
  if (found != pasids_.end()) return &found->second;
  return guestsPasid() ? &plain_ : nullptr;
}

Translation::Reach Endpoint::reach(const Attachment& by, std::optional<uint32_t> pasid, uint64_t iova,
                                   uint64_t limit, uint32_t access) const {
  if (pasid && &by == &plain_) return by.translation->reachAs(*pasid, iova, limit, access);
  return by.translation->reach(iova, limit, access);
}

void Endpoint::attach(std::optional<uint32_t> pasid, const Attachment& to) {
  if (!pasid) {
    plain_ = to;
  } else if (to.translation != nullptr) {
    pasids_[*pasid] = to;
  } else {
    pasids_.erase(*pasid);
  }
  // Requests whose group isn't complete are lost with the table that they were for.
  if (to.pageRequests == nullptr) {
    std::erase_if(partial_, [&](const PageRequest& request) { return request.pasid == pasid; });
  }
}

// ---------------------------------------------------------------- DMA

const char* Endpoint::move(Transfer& transfer, bool& missing) {
  missing = false;
  const bool write = transfer.access == kWrite;
  while (transfer.size != 0) {
    const Attachment* const by = attachment(transfer.pasid);
    if (by == nullptr) return plain_.translation == nullptr ? "blocked" : "no address space for this PASID";
    const Translation::Reach reach =
        this->reach(*by, transfer.pasid, transfer.iova, transfer.size, transfer.access);
    if (reach.size == 0) {
      missing = reach.missing && by->pageRequests != nullptr;
      return reach.reason;
    }
    const size_t done = write ? mm::Memory::copyOutSome(reach.user, transfer.bytes, reach.size)
                              : mm::Memory::copyInSome(transfer.bytes, reach.user, reach.size);
    if (write && reach.domain != nullptr && reach.domain->dirtyTracking())
      reach.domain->markDirty(reach.iova, done);
    transfer.iova += done;
    transfer.bytes += done;
    transfer.size -= done;
    // Pinned memory that the program took away all the same: protected it, or truncated its file.
    if (done != reach.size) return "no memory behind the mapping";
  }
  return nullptr;
}

void Endpoint::fail(const Transfer& transfer, const char* reason) {
  const Attachment* const by = attachment(transfer.pasid);
  if (by != nullptr) by->translation->failed(*this, transfer.pasid, transfer.iova, transfer.access);
  host.reportFault({bdf, transfer.iova, transfer.size, transfer.access == kWrite, reason});
}

// A failure is the page's, not the transfer's: what is written there is lost, what is read from there is
// zero, and the pages behind it have their turn.
void Endpoint::moveRest(Transfer transfer) {
  constexpr uint64_t kPage = 4096;
  while (transfer.size != 0) {
    const size_t lost = std::min<uint64_t>(transfer.size, kPage - transfer.iova % kPage);
    if (transfer.access == kRead) std::memset(transfer.bytes, 0, lost);
    transfer.iova += lost;
    transfer.bytes += lost;
    transfer.size -= lost;
    bool missing = false;
    if (move(transfer, missing) == nullptr) return;
  }
}

bool Endpoint::dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) {
  Transfer transfer{iova, size, static_cast<char*>(into), kRead, pasid, {}};
  bool missing = false;
  const char* const reason = move(transfer, missing);
  if (reason == nullptr) return true;
  fail(transfer, reason);
  moveRest(std::move(transfer));
  return false;
}

bool Endpoint::dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) {
  // Only read, since it is a write to memory.
  Transfer transfer{iova, size, static_cast<char*>(const_cast<void*>(from)), kWrite, pasid, {}};
  bool missing = false;
  const char* const reason = move(transfer, missing);
  if (reason == nullptr) return true;
  fail(transfer, reason);
  moveRest(std::move(transfer));
  return false;
}

void Endpoint::startRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid, Done done) {
  proceed({iova, size, static_cast<char*>(into), kRead, pasid, std::move(done)});
}

void Endpoint::startWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid,
                          Done done) {
  proceed({iova, size, static_cast<char*>(const_cast<void*>(from)), kWrite, pasid, std::move(done)});
}

void Endpoint::proceed(Transfer transfer) {
  bool missing = false;
  const char* const reason = move(transfer, missing);
  if (reason != nullptr && missing && canRequestPages()) {
    askFor(std::move(transfer));
    return;
  }
  if (reason != nullptr) {
    fail(transfer, reason);
    moveRest({transfer.iova, transfer.size, transfer.bytes, transfer.access, transfer.pasid, {}});
  }
  transfer.done(reason == nullptr);
}

void Endpoint::dropTransfers() {
  waiting_.clear();
  host.engine().cancel(this);
}

// ---------------------------------------------------------------- page requests

// Asks for all the pages that the rest of a transfer has to have, as one group.
void Endpoint::askFor(Transfer transfer) {
  constexpr uint64_t kPage = 4096;
  constexpr unsigned kMost = 32;         // of a group
  constexpr uint32_t kGroups = 1U << 9;  // a group's index has nine bits
  const auto outstanding = [this](uint32_t group) {
    return std::ranges::any_of(waiting_, [group](const Transfer& other) { return other.group == group; });
  };
  while (outstanding(nextGroup_ % kGroups)) ++nextGroup_;
  transfer.group = nextGroup_++ % kGroups;

  const uint32_t permissions =
      transfer.access == kWrite ? uapi::IOMMU_PGFAULT_PERM_WRITE : uapi::IOMMU_PGFAULT_PERM_READ;
  std::vector<PageRequest> requests;
  const uint64_t last = transfer.iova + (transfer.size - 1);
  for (uint64_t page = transfer.iova & ~(kPage - 1); page <= last && requests.size() < kMost; page += kPage) {
    const Translation::Reach reach = this->reach(*attachment(transfer.pasid), transfer.pasid,
                                                 std::max(page, transfer.iova), 1, transfer.access);
    if (reach.size == 0 && reach.missing) {
      requests.push_back({page, permissions, transfer.group, transfer.pasid, false});
    }
    if (page + kPage < page) break;
  }
  requests.back().last = true;
  waiting_.push_back(std::move(transfer));
  for (const PageRequest& request : requests) (void)this->request(request);
}

int Endpoint::request(const PageRequest& request) {
  const Attachment* const by = attachment(request.pasid);
  if (by == nullptr || by->pageRequests == nullptr) {
    if (request.last) respond(request.group, PageResponse::invalid);
    return -EINVAL;
  }
  if (!request.last) {
    partial_.push_back(request);
    return 0;
  }
  std::vector<PageRequest> whole;
  std::erase_if(partial_, [&](const PageRequest& earlier) {
    if (earlier.group != request.group) return false;
    whole.push_back(earlier);
    return true;
  });
  whole.push_back(request);
  by->pageRequests->take(*this, std::move(whole));
  return 0;
}

void Endpoint::respond(uint32_t group, PageResponse response) {
  const auto found =
      std::ranges::find_if(waiting_, [group](const Transfer& transfer) { return transfer.group == group; });
  if (found == waiting_.end()) return;  // was reset meanwhile, or it was only a request
  // The device goes on where devices work, and not inside the call that answered.
  auto transfer = std::make_shared<Transfer>(std::move(*found));
  waiting_.erase(found);
  const bool soon = host.engine().post(this, std::chrono::nanoseconds::zero(), [this, transfer, response] {
    if (response == PageResponse::success) {
      proceed(std::move(*transfer));
    } else {
      fail(*transfer, "the page request was refused");
      transfer->done(false);
    }
  });
  if (!soon) host.reportFault({bdf, 0, 0, false, kNoThread});
}

}  // namespace vfio::soft::iommu
