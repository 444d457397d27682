#include "endpoint.h"

#include <algorithm>
#include <cerrno>

#include "../host.h"
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

Endpoint::Endpoint(Host& itsHost, std::string itsBdf, uint16_t itsRequesterId, Unit& itsUnit, Group& itsGroup)
    : host(itsHost), bdf(std::move(itsBdf)), requesterId(itsRequesterId), unit(itsUnit), group(itsGroup) {
  // Members can't be told apart, so one that appears is translated as the others are.
  if (!group.members.empty()) domain = group.members.front()->domain;
  group.members.push_back(this);
}

Endpoint::~Endpoint() { std::erase(group.members, this); }

bool Endpoint::dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid) {
  auto* bytes = static_cast<char*>(into);
  return transfer(iova, size, kRead, pasid, [&bytes](uint64_t user, size_t length) {
    const size_t done = mm::Memory::copyInSome(bytes, user, length);
    bytes += done;
    return done;
  });
}

bool Endpoint::dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid) {
  const auto* bytes = static_cast<const char*>(from);
  return transfer(iova, size, kWrite, pasid, [&bytes](uint64_t user, size_t length) {
    const size_t done = mm::Memory::copyOutSome(user, bytes, length);
    bytes += done;
    return done;
  });
}

template <class Move>
bool Endpoint::transfer(uint64_t iova, size_t size, uint32_t access, std::optional<uint32_t> pasid,
                        const Move& move) {
  const auto fault = [&](const char* reason) {
    host.reportFault({bdf, iova, size, access == kWrite, reason});
    return false;
  };
  while (size != 0) {
    if (domain == nullptr) return fault("blocked");
    if (pasid) return fault("no address space for this PASID");
    if (iova < domain->aperture().start || iova > domain->aperture().last)
      return fault("beyond the aperture");
    const std::optional<Domain::Run> run = domain->translate(iova, size);
    if (!run) return fault("not mapped");
    if ((run->access & access) == 0) return fault(access == kWrite ? "not writable" : "not readable");
    const size_t done = move(run->user, run->size);
    if (access == kWrite && domain->dirtyTracking()) domain->markDirty(iova, done);
    iova += done;
    size -= done;
    // Pinned memory that the program took away all the same: protected it, or truncated its file.
    if (done != run->size) return fault("no memory behind the mapping");
  }
  return true;
}

}  // namespace vfio::soft::iommu
