// The translation of shared virtual addressing: the page table of a process. Addresses of transactions are
// addresses of the process.
//
// A page that is not present is missing: a device that can wait asks for it, and the process's own memory
// management brings it in, with the rights of its area. What it can't bring in is answered `invalid`, and the
// bonds of the device and the process are told (sva.h).
//
// Nothing is cached, so a change of the process's memory needs no invalidation here. A unit with an IOTLB
// would need a notifier of the process's changes, as the kernel has one.
//
// Life: made with the first bond of a process, shared by the endpoints that it is attached to.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "../mm/address_space.h"
#include "page_request.h"
#include "translation.h"

namespace vfio::soft::iommu {

class SharedTable final : public Translation, public PageRequestHandler {
 public:
  // A page request that could not be served.
  struct Unserved {
    const Endpoint& from;
    const PageRequest& request;
    mm::FaultIn why;
  };
  using Report = std::function<void(const Unserved&)>;

  SharedTable(std::shared_ptr<mm::AddressSpace> space, Report report)
      : space_(std::move(space)), report_(std::move(report)) {}

  [[nodiscard]] Reach reach(uint64_t iova, uint64_t limit, uint32_t access) override;
  [[nodiscard]] int suits(const Unit& unit) const override;

  void take(Endpoint& from, std::vector<PageRequest> group) override;
  [[nodiscard]] std::optional<PageResponse> serve(Endpoint& from, const PageRequest& request) override;
  void forget(const Endpoint& /*from*/) override {}  // it keeps no requests

  using Translation::serve;

 private:
  const std::shared_ptr<mm::AddressSpace> space_;
  const Report report_;
};

}  // namespace vfio::soft::iommu
