#include "page_requests.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "../../uapi/iommufd_data.h"
#include "../core/device_faults.h"
#include "../core/services.h"
#include "endpoint.h"
#include "model.h"

namespace vfio::soft::iommu {
namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

uint32_t PageRequests::mostGroups() const {
  return endpoint_.unit.pageRequests == PageRequestKind::stall ? 1U << 16 : 1U << 9;
}

// The driver gives each device as many requests as the unit's queue has room for, or a fixed number. The
// unit itself limits how many transactions it holds; no limit is modelled.
size_t PageRequests::most() const {
  constexpr size_t kOfDevice = 512;  // what it says in its PRI capability
  if (endpoint_.unit.pageRequests == PageRequestKind::stall) return mostGroups();
  const size_t granted = endpoint_.unit.model.defaults.requestsGranted;
  return granted == 0 ? kOfDevice : std::min(kOfDevice, granted);
}

PageRequest PageRequests::single(const Need& need) {
  uint32_t permissions =
      need.access == kWrite ? uapi::IOMMU_PGFAULT_PERM_WRITE : uapi::IOMMU_PGFAULT_PERM_READ;
  if (need.asks.execute) permissions |= uapi::IOMMU_PGFAULT_PERM_EXEC;
  if (need.asks.privileged) permissions |= uapi::IOMMU_PGFAULT_PERM_PRIV;
  return {.address = need.iova & ~(kPage - 1), .permissions = permissions, .pasid = need.pasid};
}

std::vector<PageRequest> PageRequests::missing(uint32_t group, const Need& need, size_t room) const {
  constexpr size_t kMostOfGroup = 32;
  const size_t most =
      endpoint_.unit.pageRequests == PageRequestKind::stall ? 1 : std::min(room, kMostOfGroup);
  PageRequest next = single(need);
  next.group = group;
  next.last = false;
  const Attachment& by = *endpoint_.attachment(need.pasid);
  std::vector<PageRequest> requests;
  // A transfer can reach over the last address there is: nothing is asked for behind it.
  const uint64_t last = need.iova + std::min<uint64_t>(need.size - 1, UINT64_MAX - need.iova);
  for (; next.address <= last && requests.size() < most; next.address += kPage) {
    const Translation::Reach reach =
        endpoint_.reach(by, need.pasid, std::max(next.address, need.iova), 1, need.access);
    if (requests.empty() || (reach.size == 0 && reach.missing)) requests.push_back(next);
    if (next.address + kPage < next.address) break;
  }
  requests.back().last = true;
  return requests;
}

void PageRequests::send(const PageRequest& request) { endpoint_.unit.requestQueue.send(endpoint_, request); }

int PageRequests::report(const PageRequest& request) {
  const Attachment* const by = endpoint_.attachment(request.pasid);
  if (by == nullptr || by->pageRequests == nullptr) {
    // Until 6.11 the last request of a group was the only one that was answered.
    if (request.last || endpoint_.host.since(6, 11)) respond(request.group, PageResponse::invalid);
    return -EINVAL;
  }
  if (!request.last) {
    incomplete_.push_back(request);
    return 0;
  }
  std::vector<PageRequest> whole;
  std::erase_if(incomplete_, [&](const PageRequest& earlier) {
    if (earlier.group != request.group) return false;
    whole.push_back(earlier);
    return true;
  });
  whole.push_back(request);
  if (endpoint_.host.deviceFaults().strike(DeviceFaults::Of::pageRequest, endpoint_.bdf)) return 0;
  by->pageRequests->take(endpoint_, std::move(whole));
  return 0;
}

void PageRequests::respond(uint32_t group, PageResponse response) { endpoint_.dma.resume(group, response); }

void PageRequests::turnOff() {
  if (--enabled_ == 0) dropIncomplete();
}

}  // namespace vfio::soft::iommu
