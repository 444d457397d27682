// What an IOMMU sees of a device: an endpoint that issues transactions with a requester id, in one group
// with the endpoints that the IOMMU can't tell it apart from. It knows what translates its transactions: one
// attachment without a PASID, and one for each PASID. Its transfers and its page requests are parts of it,
// in files of their own (transfers.h, page_requests.h).
//
// Translation takes (endpoint, PASID, address); a transaction that nothing translates is blocked. When an
// attachment is replaced or removed, and when the endpoint is destroyed, the unit is told to forget all that
// it has cached of it.
//
// Life: made with its PCI function and destroyed with it. An attachment shares ownership of its translation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "group.h"
#include "page_request.h"
#include "page_requests.h"
#include "transfers.h"
#include "translation.h"
#include "unit.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommu {

struct Invalidation;

// What translates the transactions of an endpoint with one PASID, or without any.
struct Attachment {
  std::shared_ptr<Translation> translation;    // null: blocked
  PageRequestHandler* pageRequests = nullptr;  // null: a missing page is a fault. Its owner outlives this
};

class Endpoint {
 public:
  Endpoint(Services& host, std::string bdf, uint16_t requesterId, Unit& unit, Group& group);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // Can it ask for pages? It, its unit and the unit's driver have to be able to.
  [[nodiscard]] bool canRequestPages() const;
  // Has the function PCI's capability for page requests?
  [[nodiscard]] bool hasPri() const { return pageRequests && unit.pageRequests != PageRequestKind::stall; }
  [[nodiscard]] unsigned usablePasidBits() const { return std::min(pasidBits, unit.pasidBits); }

  // The attachment for transactions without a PASID, or with this one. Null: nothing translates them.
  [[nodiscard]] const Attachment* attachment(std::optional<uint32_t> pasid) const;
  [[nodiscard]] const std::shared_ptr<Translation>& translation() const { return plain_.translation; }
  void attach(std::optional<uint32_t> pasid, const Attachment& to);  // no translation: detaches
  [[nodiscard]] bool isPlain(const Attachment& one) const { return &one == &plain_; }
  // Is something attached for just this PASID, whoever attached it?
  [[nodiscard]] bool hasPasid(uint32_t pasid) const { return pasids_.contains(pasid); }

  // Where the bytes of a transaction are. `by` is the attachment of this endpoint that translates it.
  [[nodiscard]] Translation::Reach reach(const Attachment& by, std::optional<uint32_t> pasid, uint64_t iova,
                                         uint64_t limit, uint32_t access) const;
  // The translations of `range` have changed or ended, for transactions with this PASID, or without one:
  // makes the unit forget those that it has cached.
  void invalidate(std::optional<uint32_t> pasid, Range range) const;

  Services& host;
  const std::string bdf;
  const uint16_t requesterId;
  Unit& unit;
  Group& group;
  std::vector<ReservedRegion> reserved;  // this endpoint's own, besides the unit's
  // What the device can do, if the unit can too.
  unsigned pasidBits = 0;
  bool pageRequests = false;
  const Endpoint* physical = nullptr;  // of a virtual function: the physical one, which outlives it
  bool pasidsExecute = false;          // its requests with a PASID can fetch code,
  bool pasidsPrivileged = false;       // ... or have a supervisor's privilege

  uint64_t stored = 0;  // when a driver last wrote to a register of the device; kept for the host's DmaWatch

  // Its parts, which refer back to it.
  Transfers dma{*this};
  PageRequests requests{*this};

 private:
  // Does a guest's table translate the transactions with a PASID for which nothing is attached?
  [[nodiscard]] bool guestsPasid() const;
  // Every invalidation goes through here, so that the host's DmaWatch learns of it too.
  void withdraw(const Invalidation& what) const;
  // Every attachment is made and removed through these two, so that its translation knows whom it serves.
  void serve(std::optional<uint32_t> pasid, const Attachment& by) const;
  void leave(std::optional<uint32_t> pasid, const Attachment& by) const;

  // The attachment for no PASID. Without a translation the group has no owner, and the kernel's default
  // domain is in force. That lets nothing through from a device that no kernel driver uses, so the device is
  // blocked.
  Attachment plain_;
  std::map<uint32_t, Attachment> pasids_;
};

}  // namespace vfio::soft::iommu
