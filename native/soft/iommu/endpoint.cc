#include "endpoint.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "../core/dma_watch.h"
#include "../core/engine.h"
#include "../core/services.h"
#include "guest_format.h"
#include "model.h"
#include "sva.h"

namespace vfio::soft::iommu {

Endpoint::Endpoint(Services& itsHost, std::string itsBdf, uint16_t itsRequesterId, Unit& itsUnit,
                   Group& itsGroup)
    : host(itsHost), bdf(std::move(itsBdf)), requesterId(itsRequesterId), unit(itsUnit), group(itsGroup) {
  // Members can't be told apart, so one that appears is translated as the others are.
  if (!group.members.empty()) {
    plain_ = group.members.front()->plain_;
    pasids_ = group.members.front()->pasids_;
    serve(std::nullopt, plain_);
    for (const auto& [pasid, by] : pasids_) serve(pasid, by);
  }
  group.members.push_back(this);
}

Endpoint::~Endpoint() {
  host.sva().close(*this);
  const auto end = [this](std::optional<uint32_t> pasid, const Attachment& by) {
    if (by.pageRequests != nullptr) by.pageRequests->forget(*this);
    if (by.translation == nullptr) return;
    leave(pasid, by);
    invalidate(pasid, kEverything);
  };
  end(std::nullopt, plain_);
  for (const auto& [pasid, by] : pasids_) end(pasid, by);
  unit.requestQueue.forget(*this);
  unit.requestQueue.drain();
  host.engine().cancel(this);
  std::erase(group.members, this);
}

bool Endpoint::canRequestPages() const { return pageRequests && unit.model.passesRequests(unit); }

bool Endpoint::guestsPasid() const {
  return unit.nesting != nullptr && unit.nesting->hasPasids() && plain_.translation != nullptr &&
         plain_.translation->nested();
}

const Attachment* Endpoint::attachment(std::optional<uint32_t> pasid) const {
  if (!pasid) return plain_.translation != nullptr ? &plain_ : nullptr;
  const auto found = pasids_.find(*pasid);
  if (found != pasids_.end()) return &found->second;
  return guestsPasid() ? &plain_ : nullptr;
}

Translation::Reach Endpoint::reach(const Attachment& by, std::optional<uint32_t> pasid, uint64_t iova,
                                   uint64_t limit, uint32_t access) const {
  return unit.model.translate(*this, by, pasid, iova, limit, access);
}

void Endpoint::invalidate(std::optional<uint32_t> pasid, Range range) const {
  withdraw({.endpoint = *this, .pasid = pasid, .guestPasids = !pasid && guestsPasid(), .range = range});
}

void Endpoint::withdraw(const Invalidation& what) const {
  unit.model.invalidate(what);
  if (DmaWatch* const watch = host.watcher())
    watch->withdrawn({bdf, what.pasid, what.guestPasids, what.range.start, what.range.last});
}

void Endpoint::serve(std::optional<uint32_t> pasid, const Attachment& by) const {
  if (by.translation != nullptr) by.translation->serve({this, pasid});
}

void Endpoint::leave(std::optional<uint32_t> pasid, const Attachment& by) const {
  if (by.translation != nullptr) by.translation->leave({this, pasid});
}

void Endpoint::attach(std::optional<uint32_t> pasid, const Attachment& to) {
  // The kernel changes the table, empties the caches and the queue of page requests, and only then changes
  // the handler. So what is in the queue still goes to the old one, which refuses it afterwards.
  unit.requestQueue.drain();
  // Was anything translating these transactions until now? It may be a guest's table, for all PASIDs.
  const bool translated = attachment(pasid) != nullptr;
  const bool guests = !pasid && guestsPasid();
  if (!pasid) {
    leave(pasid, plain_);
    plain_ = to;
  } else {
    const auto before = pasids_.find(*pasid);
    if (before != pasids_.end()) leave(pasid, before->second);
    if (to.translation != nullptr) {
      pasids_[*pasid] = to;
    } else if (before != pasids_.end()) {
      pasids_.erase(before);
    }
  }
  serve(pasid, to);
  if (translated) withdraw({.endpoint = *this, .pasid = pasid, .guestPasids = guests});
}

}  // namespace vfio::soft::iommu
