// The page requests of one endpoint: it collects the requests of a group until the last one comes, and hands
// the group to the handler of the page table's page requests.
//
// Life: part of its endpoint. Requests of an incomplete group are lost when their page table is detached.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "page_request.h"

namespace vfio::soft::iommu {

class PageRequests {
 public:
  explicit PageRequests(Endpoint& endpoint) : endpoint_(endpoint) {}
  PageRequests(const PageRequests&) = delete;
  PageRequests& operator=(const PageRequests&) = delete;

  // The request for one page.
  [[nodiscard]] static PageRequest single(std::optional<uint32_t> pasid, uint64_t iova, uint32_t access);
  // The requests, as one group, for the pages that [iova, iova+size) lacks: the first page, at which the
  // transfer has stopped, and those of the others that are missing.
  [[nodiscard]] std::vector<PageRequest> missing(uint32_t group, std::optional<uint32_t> pasid, uint64_t iova,
                                                 size_t size, uint32_t access) const;
  // A page request of the device: 0, or -EINVAL when nobody handles it; then the device gets the answer
  // `invalid`.
  [[nodiscard]] int send(const PageRequest& request);
  // The answer to a group of requests.
  void respond(uint32_t group, PageResponse response);
  // Forgets the incomplete groups with this PASID, or without one.
  void forget(std::optional<uint32_t> pasid);

 private:
  Endpoint& endpoint_;
  std::vector<PageRequest> partial_;  // of groups whose last request hasn't come
};

}  // namespace vfio::soft::iommu
