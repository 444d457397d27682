#include "transfers.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "../core/dma_watch.h"
#include "../core/engine.h"
#include "../core/services.h"
#include "../mm/address_space.h"
#include "../mm/memory.h"
#include "domain.h"
#include "endpoint.h"

namespace vfio::soft::iommu {

namespace {

// How often a transfer asks for a page of a process without moving a byte. The kernel's answer can be
// `success` although the page can't be accessed, or is gone again. A program that answers by itself has no
// such limit.
constexpr unsigned kMostTries = 8;

// Returns how many of the first bytes could be copied.
size_t copy(bool write, char* bytes, const Translation::Reach& reach) {
  if (reach.space != nullptr) {
    return write ? reach.space->write(reach.user, bytes, reach.size)
                 : reach.space->read(bytes, reach.user, reach.size);
  }
  return write ? mm::Memory::copyOutSome(reach.user, bytes, reach.size)
               : mm::Memory::copyInSome(bytes, reach.user, reach.size);
}

}  // namespace

PageRequests::Need Transfers::needOf(const Transfer& transfer) {
  return {transfer.pasid, transfer.iova, transfer.size, transfer.access, transfer.asks};
}

// Does the owner of the page table bring in the page at which the transfer has stopped?
bool Transfers::served(Transfer& transfer) {
  const Attachment* const by = endpoint_.attachment(transfer.pasid);
  if (by == nullptr || !endpoint_.canRequestPages()) return false;
  const PageRequest request = PageRequests::single(needOf(transfer));
  return by->pageRequests->serve(endpoint_, request) == PageResponse::success;
}

const char* Transfers::move(Transfer& transfer, bool& missing) {
  missing = false;
  const bool write = transfer.access == kWrite;
  while (transfer.size != 0) {
    const Attachment* const by = endpoint_.attachment(transfer.pasid);
    if (by == nullptr) {
      return endpoint_.translation() == nullptr ? "blocked" : "no address space for this PASID";
    }
    const Translation::Reach reach =
        endpoint_.reach(*by, transfer.pasid, transfer.iova, transfer.size, transfer.access);
    if (reach.size == 0) {
      missing = reach.missing && by->pageRequests != nullptr;
      if (missing && reach.space != nullptr) missing = ++transfer.tries <= kMostTries;
      return reach.reason;
    }
    const size_t done = copy(write, transfer.bytes, reach);
    if (write && reach.domain != nullptr && reach.domain->dirtyTracking())
      reach.domain->markDirty(reach.iova, done);
    // What a driver does with another process's memory, nobody here knows.
    const bool known = reach.space == nullptr || reach.space->ending() < 0;
    if (DmaWatch* const watch = endpoint_.host.watcher(); watch != nullptr && done != 0 && known)
      watch->moved({endpoint_.bdf, transfer.pasid, transfer.iova, reach.user, done, write, endpoint_.stored});
    transfer.iova += done;
    transfer.bytes += done;
    transfer.size -= done;
    if (done != 0) transfer.tries = 0;
    if (done == reach.size) continue;
    // The memory is pinned, but the program protected it or truncated its file all the same.
    if (reach.space == nullptr) return "no memory behind the mapping";
    // The page has gone since, or its area does not allow the access: the page request finds out which.
    missing = by->pageRequests != nullptr && ++transfer.tries <= kMostTries;
    return "the process's memory could not be accessed";
  }
  return nullptr;
}

void Transfers::fail(const Transfer& transfer, const char* reason) {
  const Attachment* const by = endpoint_.attachment(transfer.pasid);
  if (by != nullptr) by->translation->failed(endpoint_, transfer.pasid, transfer.iova, transfer.access);
  endpoint_.host.reportFault({endpoint_.bdf, transfer.iova, transfer.size, transfer.access == kWrite, reason},
                             transfer.pasid);
}

// A failure concerns the page, not the transfer: bytes written there are lost, bytes read from there are
// zero, and the pages behind it are moved as well.
void Transfers::moveRest(Transfer transfer) {
  constexpr uint64_t kPage = 4096;
  while (transfer.size != 0) {
    const size_t lost = std::min<uint64_t>(transfer.size, kPage - transfer.iova % kPage);
    if (transfer.access == kRead) std::memset(transfer.bytes, 0, lost);
    transfer.iova += lost;
    transfer.bytes += lost;
    transfer.size -= lost;
    transfer.tries = 0;
    bool missing = false;
    const char* reason = move(transfer, missing);
    while (reason != nullptr && missing && served(transfer)) reason = move(transfer, missing);
    if (reason == nullptr) return;
  }
}

bool Transfers::run(Transfer transfer) {
  bool missing = false;
  const char* reason = move(transfer, missing);
  while (reason != nullptr && missing && served(transfer)) reason = move(transfer, missing);
  if (reason == nullptr) return true;
  fail(transfer, reason);
  moveRest(std::move(transfer));
  return false;
}

bool Transfers::read(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) {
  return run({iova, size, static_cast<char*>(into), kRead, pasid, {}});
}

bool Transfers::write(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) {
  // The cast is safe: a write to memory only reads these bytes.
  return run({iova, size, static_cast<char*>(const_cast<void*>(from)), kWrite, pasid, {}});
}

void Transfers::startRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid, Done done,
                          Asks asks) {
  proceed({iova, size, static_cast<char*>(into), kRead, pasid, std::move(done), asks});
}

void Transfers::startWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid,
                           Done done, Asks asks) {
  proceed({iova, size, static_cast<char*>(const_cast<void*>(from)), kWrite, pasid, std::move(done), asks});
}

void Transfers::proceed(Transfer transfer) {
  bool missing = false;
  const char* const reason = move(transfer, missing);
  if (reason != nullptr && missing && endpoint_.canRequestPages()) {
    wait(std::move(transfer));
    return;
  }
  if (reason != nullptr) failAt(transfer, reason);
  admitNext();
  transfer.done(reason == nullptr);
}

// Fails where it stands; the pages behind that are still moved.
void Transfers::failAt(const Transfer& transfer, const char* reason) {
  fail(transfer, reason);
  moveRest({transfer.iova, transfer.size, transfer.bytes, transfer.access, transfer.pasid, {}});
}

// How many more requests may be without an answer.
size_t Transfers::room() const {
  if (waiting_.size() >= endpoint_.requests.mostGroups()) return 0;
  const size_t most = endpoint_.requests.most();
  return asked_ < most ? most - asked_ : 0;
}

// Requests the pages that the rest of a transfer needs, as one group.
void Transfers::wait(Transfer transfer) {
  const size_t left = room();
  if (left == 0) {
    inLine_.push_back(std::move(transfer));
    return;
  }
  const uint32_t groups = endpoint_.requests.mostGroups();
  const auto outstanding = [this](uint32_t group) {
    return std::ranges::any_of(waiting_, [group](const Transfer& other) { return other.group == group; });
  };
  while (outstanding(nextGroup_ % groups)) ++nextGroup_;
  transfer.group = nextGroup_++ % groups;
  const std::vector<PageRequest> requests =
      endpoint_.requests.missing(transfer.group, needOf(transfer), left);
  transfer.requests = requests.size();
  asked_ += transfer.requests;
  waiting_.push_back(std::move(transfer));
  for (const PageRequest& request : requests) endpoint_.requests.send(request);
  admitNext();
}

void Transfers::admitNext() {
  if (inLine_.empty() || room() == 0) return;
  Transfer next = std::move(inLine_.front());
  inLine_.pop_front();
  resumeOnEngine(std::move(next), [this](Transfer transfer) { proceed(std::move(transfer)); });
}

void Transfers::resume(uint32_t group, PageResponse response) {
  const auto found =
      std::ranges::find_if(waiting_, [group](const Transfer& transfer) { return transfer.group == group; });
  // The device was reset meanwhile, or no transfer belonged to the request.
  if (found == waiting_.end()) return;
  Transfer transfer = std::move(*found);
  waiting_.erase(found);
  asked_ -= transfer.requests;
  resumeOnEngine(std::move(transfer), [this, response](Transfer answered) {
    if (response == PageResponse::success) return proceed(std::move(answered));
    // A held transaction ends as a fault. A device that asks by itself gives up the whole transfer.
    if (endpoint_.unit.pageRequests == PageRequestKind::stall) {
      failAt(answered, "the stalled access was aborted");
    } else {
      fail(answered, "the page request was refused");
    }
    admitNext();
    answered.done(false);
  });
}

// The device continues on the engine, where devices work, and not inside the call that answered.
void Transfers::resumeOnEngine(Transfer transfer, std::function<void(Transfer)> work) {
  auto kept = std::make_shared<Transfer>(std::move(transfer));
  Services& host = endpoint_.host;
  const bool soon = host.engine().post(&endpoint_, std::chrono::nanoseconds::zero(),
                                       [kept, work = std::move(work)] { work(std::move(*kept)); });
  if (!soon) host.reportFault({endpoint_.bdf, 0, 0, false, kNoThread});
}

void Transfers::refuse(std::optional<uint32_t> pasid) {
  std::vector<uint32_t> groups;
  for (const Transfer& transfer : waiting_) {
    if (transfer.pasid == pasid) groups.push_back(transfer.group);
  }
  for (const uint32_t group : groups) resume(group, PageResponse::invalid);
}

void Transfers::drop() {
  endpoint_.unit.requestQueue.drain();
  waiting_.clear();
  inLine_.clear();
  asked_ = 0;
  endpoint_.host.engine().cancel(&endpoint_);
}

}  // namespace vfio::soft::iommu
