// What an IOMMU sees of a device: an endpoint that issues transactions with a requester id, in a group with
// the endpoints that it can't be told apart from. It knows what translates its transactions: one attachment
// without a PASID, and one for each PASID. Its transfers and page requests are parts of it with files of
// their own (transfers.h, page_requests.h).
//
// Translation takes (endpoint, PASID, address); what leads nowhere is blocked. When an attachment is replaced
// or taken away, and when the endpoint itself goes, the unit is told to forget all that it has cached of it.
//
// Life: made with its PCI function, dies with it. An attachment shares its translation.
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

  // Can it ask for pages? Both it and its unit have to be able to.
  [[nodiscard]] bool canRequestPages() const {
    return pageRequests && unit.pageRequests != PageRequestKind::none;
  }
  [[nodiscard]] unsigned usablePasidBits() const { return std::min(pasidBits, unit.pasidBits); }

  // Without a PASID, and by PASID.
  [[nodiscard]] const Attachment* attachment(std::optional<uint32_t> pasid) const;
  [[nodiscard]] const std::shared_ptr<Translation>& translation() const { return plain_.translation; }
  void attach(std::optional<uint32_t> pasid, const Attachment& to);  // nothing: detaches
  [[nodiscard]] bool isPlain(const Attachment& one) const { return &one == &plain_; }

  // Where the bytes of a transaction are that `by`, an attachment of this endpoint, translates.
  [[nodiscard]] Translation::Reach reach(const Attachment& by, std::optional<uint32_t> pasid, uint64_t iova,
                                         uint64_t limit, uint32_t access) const;
  // Makes the unit forget what it has cached of that, for transactions with this PASID, or without one.
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
  bool pasidsExecute = false;     // its requests with a PASID can be for fetching code,
  bool pasidsPrivileged = false;  // ... or a supervisor's

  // Its parts, which know it.
  Transfers dma{*this};
  PageRequests requests{*this};

 private:
  // Do transactions with a PASID that nothing is attached for go to a guest's table?
  [[nodiscard]] bool guestsPasid() const;
  // Attachments come and go by these, so that their translations know whom they serve.
  void serve(std::optional<uint32_t> pasid, const Attachment& by) const;
  void leave(std::optional<uint32_t> pasid, const Attachment& by) const;

  // With no PASID. Without a translation the group has no owner and the kernel's default domain rules, which
  // lets through nothing of a device that no kernel driver uses: blocked.
  Attachment plain_;
  std::map<uint32_t, Attachment> pasids_;
};

}  // namespace vfio::soft::iommu
