#include "dma_watch.h"

#include <chrono>
#include <new>
#include <utility>

namespace vfio::soft {

uint64_t DmaWatch::now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
}

void DmaWatch::report(Incident incident) {
  // A device in a loop must not fill memory.
  constexpr size_t most = 1024;
  incident.time = now();
  if (incidents_.size() >= most) {
    ++lost_;
    return;
  }
  try {
    incidents_.push_back(std::move(incident));
  } catch (const std::bad_alloc&) {
    ++lost_;
  }
}

void DmaWatch::lostInterrupt(const std::string& bdf, unsigned vector, std::string reason) {
  report({.kind = "interrupt", .fault = {bdf, vector, 0, false, std::move(reason)}});
}

void DmaWatch::moved(const Transfer& transfer) {
  auto at = forbidden_.upper_bound(transfer.user + transfer.size - 1);
  if (at != forbidden_.begin()) {
    --at;
    if (transfer.user - at->first < at->second || at->first >= transfer.user)
      report({.kind = "disposed",
              .fault = {transfer.bdf, transfer.iova, transfer.size, transfer.write, "disposed"},
              .pasid = transfer.pasid});
  }
  if (transfer.write) compare(transfer);
}

// Two devices may write to the same memory one after the other, if a driver gives it to the second one when
// the first is done with it. So it is an incident only if the driver has told the second one nothing since,
// and the first one can still write there.
void DmaWatch::compare(const Transfer& transfer) {
  for (const Write& other : writes_) {
    const bool overlaps =
        other.user < transfer.user + transfer.size && transfer.user < other.user + other.size;
    if (!overlaps || other.bdf == transfer.bdf || other.time < transfer.stored) continue;
    report({.kind = "overlap",
            .fault = {transfer.bdf, transfer.iova, transfer.size, true, other.bdf},
            .pasid = transfer.pasid});
    break;
  }
  Write& mine = writes_[nextWrite_++ % writes_.size()];
  mine.bdf = transfer.bdf;
  mine.pasid = transfer.pasid;
  mine.iova = transfer.iova;
  mine.user = transfer.user;
  mine.size = transfer.size;
  mine.time = now();
}

void DmaWatch::withdrawn(const Withdrawal& what) {
  for (Write& write : writes_) {
    const bool within = write.iova <= what.last && write.iova + (write.size - 1) >= what.first;
    const bool same = write.pasid == what.pasid || what.allPasids;
    if (write.size != 0 && within && same && write.bdf == what.bdf) write.size = 0;
  }
}

void DmaWatch::forbid(uint64_t address, uint64_t length) {
  if (length != 0) forbidden_[address] = length;
}

void DmaWatch::allow(uint64_t address) { forbidden_.erase(address); }

std::vector<Incident> DmaWatch::take(uint64_t& lost) {
  lost = std::exchange(lost_, 0);
  return std::exchange(incidents_, {});
}

}  // namespace vfio::soft
