#include "endpoint.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "../core/engine.h"
#include "../core/services.h"

namespace vfio::soft::iommu {

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
  if (to.pageRequests == nullptr) requests.forget(pasid);
}

}  // namespace vfio::soft::iommu
