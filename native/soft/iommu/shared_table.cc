#include "shared_table.h"

#include <cerrno>

#include "../../uapi/iommufd_data.h"
#include "../mm/memory.h"
#include "endpoint.h"
#include "model.h"

namespace vfio::soft::iommu {

Translation::Reach SharedTable::reach(uint64_t iova, uint64_t limit, uint32_t /*access*/) {
  if (space_->hasEnded()) return {.reason = "the process has ended"};
  if (!mm::Memory::inUserSpace(iova, 1)) return {.reason = "not an address of a process"};
  const uint64_t there = space_->present(iova, limit);
  // The rights of the area show in the access itself: it is made with the rights of the process.
  if (there == 0) return {.reason = "the page is not present", .space = space_.get(), .missing = true};
  return {.user = iova, .size = there, .iova = iova, .space = space_.get()};
}

int SharedTable::suits(const Unit& unit) const { return unit.model.sharesTables() ? 0 : -EOPNOTSUPP; }

std::optional<PageResponse> SharedTable::serve(Endpoint& from, const PageRequest& request) {
  const auto asks = [&request](uint32_t permission) { return (request.permissions & permission) != 0; };
  // Whether the access is privileged makes no difference to the kernel, which looks at the rights of the
  // area.
  const mm::FaultIn came = space_->hasEnded()
                               ? mm::FaultIn::ended
                               : space_->faultIn(request.address, asks(uapi::IOMMU_PGFAULT_PERM_WRITE),
                                                 asks(uapi::IOMMU_PGFAULT_PERM_EXEC));
  if (came == mm::FaultIn::done) return PageResponse::success;
  report_({from, request, came});
  return PageResponse::invalid;
}

// The first request that can't be served ends the group. One response is for all of it.
void SharedTable::take(Endpoint& from, std::vector<PageRequest> group) {
  PageResponse response = PageResponse::success;
  for (const PageRequest& request : group) {
    response = *serve(from, request);
    if (response != PageResponse::success) break;
  }
  from.requests.respond(group.back().group, response);
}

}  // namespace vfio::soft::iommu
