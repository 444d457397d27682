#include "page_requests.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "../../uapi/iommufd_data.h"
#include "../core/device_faults.h"
#include "../core/services.h"
#include "endpoint.h"

namespace vfio::soft::iommu {

std::vector<PageRequest> PageRequests::missing(uint32_t group, std::optional<uint32_t> pasid, uint64_t iova,
                                               size_t size, uint32_t access) const {
  constexpr uint64_t kPage = 4096;
  constexpr unsigned kMost = 32;  // of a group
  const uint32_t permissions =
      access == kWrite ? uapi::IOMMU_PGFAULT_PERM_WRITE : uapi::IOMMU_PGFAULT_PERM_READ;
  const Attachment& by = *endpoint_.attachment(pasid);
  std::vector<PageRequest> requests;
  const uint64_t last = iova + (size - 1);
  for (uint64_t page = iova & ~(kPage - 1); page <= last && requests.size() < kMost; page += kPage) {
    const Translation::Reach reach = endpoint_.reach(by, pasid, std::max(page, iova), 1, access);
    if (requests.empty() || (reach.size == 0 && reach.missing))
      requests.push_back({page, permissions, group, pasid, false});
    if (page + kPage < page) break;
  }
  requests.back().last = true;
  return requests;
}

PageRequest PageRequests::single(std::optional<uint32_t> pasid, uint64_t iova, uint32_t access) {
  return {.address = iova & ~uint64_t{4095},
          .permissions = access == kWrite ? uapi::IOMMU_PGFAULT_PERM_WRITE : uapi::IOMMU_PGFAULT_PERM_READ,
          .pasid = pasid};
}

int PageRequests::send(const PageRequest& request) {
  const Attachment* const by = endpoint_.attachment(request.pasid);
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
  if (endpoint_.host.deviceFaults().strike(DeviceFaults::Of::pageRequest, endpoint_.bdf)) return 0;
  by->pageRequests->take(endpoint_, std::move(whole));
  return 0;
}

void PageRequests::respond(uint32_t group, PageResponse response) { endpoint_.dma.resume(group, response); }

void PageRequests::forget(std::optional<uint32_t> pasid) {
  std::erase_if(partial_, [&](const PageRequest& request) { return request.pasid == pasid; });
}

}  // namespace vfio::soft::iommu
