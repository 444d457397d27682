// What an IOMMU sees of a device: an endpoint that issues transactions with a requester id, in a group with
// the endpoints that it can't be told apart from. It knows what translates its transactions: one attachment
// without a PASID, and one for each PASID. Its transfers and page requests are parts of it with files of
// their own (transfers.h, page_requests.h).
//
// Translation takes (endpoint, PASID, address); what leads nowhere is blocked.
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

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommu {

struct Range {
  uint64_t start;
  uint64_t last;  // inclusive
};

enum class ReservedKind { direct, directRelaxable, reserved, msi, softwareMsi };

struct ReservedRegion {
  Range range;
  ReservedKind kind;
};

// What GET_HW_INFO says of a unit: a type, and the data of that type.
struct HwInfo {
  uint32_t type;
  std::vector<unsigned char> data;
};

enum class UnitKind : uint8_t { vtd, smmuv3, amd, ppc, virtio, custom };

// In which format a unit reads the page tables of a guest.
enum class NestingFormat : uint8_t { none, vtdS1, armSmmuv3, amdGuest };

// One piece of translation hardware: what it can do (made by makeUnit, unit.h). The VT-d model of the guest
// has one aperture [0, 2^48-1] with 4 KiB, 2 MiB and 1 GiB pages and the MSI window 0xfee00000-0xfeefffff.
struct Unit {
  std::string name;  // "dmar0"
  Range aperture;
  uint64_t pageSizes;                    // bitmap of page sizes in bytes
  std::vector<ReservedRegion> reserved;  // what every endpoint behind it may not map
  bool enforcesCoherency;
  bool isolatesInterrupts;
  bool tracksDirty;
  UnitKind kind = UnitKind::vtd;
  NestingFormat nesting = NestingFormat::none;
  bool nests = false;               // has two-stage translation: a table can be the parent of a guest's
  bool allowsNoAccess = false;      // has leaf entries that neither read nor write (VT-d has not)
  bool writableIsReadable = false;  // its driver lets devices read what was mapped for writing only
  bool parentsAreWritable = false;  // its driver refuses read-only mappings in the parents of guests' tables
  MakeNested makeNested = nullptr;  // a guest's table with a domain for a parent; null: it has none of these
  unsigned pasidBits = 0;
  PageRequestKind pageRequests = PageRequestKind::none;
  bool guestPasids = false;  // PASIDs are the guest's, in its nested table: requests with one go there
  // First-stage tables of VT-d: five levels, supervisor requests, extended accessed flags.
  bool fiveLevels = false;
  bool supervisorRequests = false;
  bool extendedAccessed = false;
  uint64_t walksToo = 0;       // page sizes that it can walk in tables made for others, besides its own
  bool commandQueues = false;  // SMMUv3 with Tegra241's virtual command queues
  HwInfo (*describe)(const Unit& unit) = nullptr;  // null: as its kind's driver does (hw_info.h)
};

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

  // Where the bytes of a transaction are that `by`, an attachment of this endpoint, translates.
  [[nodiscard]] Translation::Reach reach(const Attachment& by, std::optional<uint32_t> pasid, uint64_t iova,
                                         uint64_t limit, uint32_t access) const;

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
  [[nodiscard]] bool guestsPasid() const {
    return unit.guestPasids && plain_.translation != nullptr && plain_.translation->nested();
  }

  // With no PASID. Without a translation the group has no owner and the kernel's default domain rules, which
  // lets through nothing of a device that no kernel driver uses: blocked.
  Attachment plain_;
  std::map<uint32_t, Attachment> pasids_;
};

}  // namespace vfio::soft::iommu
