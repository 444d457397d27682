// What an IOMMU sees of a device: an endpoint that issues transactions with a requester id, in a group with
// the endpoints that it can't be told apart from. Made with its PCI function, dies with it.
//
// Translation takes (endpoint, PASID, address); what leads nowhere is blocked.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "page_request.h"
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

// What keeps the DMA of a group's endpoints inside the program's memory: an IOMMU; their driver, which does
// it for them (mediated devices); nobody.
enum class Confinement : uint8_t { iommu, driver, none };

// A group of endpoints and the owner of its DMA (requirement B1). An owner is any address that stands for one
// open file: an iommufd context, a container.
struct Group {
  static constexpr int kNone = -1;
  int id;  // kNone: nobody sees it
  std::vector<class Endpoint*> members;
  const void* owner = nullptr;
  unsigned ownerCount = 0;              // claims by `owner`
  unsigned kernelDrivers = 0;           // members bound to a driver that does DMA for the kernel
  bool kernelTable = false;             // one of these has a page table of its own, and shares with nobody
  Confinement by = Confinement::iommu;  // none: VFIO may lend a number to the group of the one device
  bool exclusive = true;  // has one owner at a time; if not, it is of one device that nobody can reach

  // 0, or -EPERM when the kernel or another owner has it.
  [[nodiscard]] int claim(const void* by);
  void release(const void* by);
};

// What translates the transactions of an endpoint with one PASID, or without any.
struct Attachment {
  std::shared_ptr<Translation> translation;    // null: blocked
  PageRequestHandler* pageRequests = nullptr;  // null: a missing page is a fault. Its owner outlives this
};

class Endpoint {
 public:
  // What is reported of work that can't go on by itself (Engine::post).
  static constexpr const char* kNoThread =
      "no thread can be had for the device's work (EAGAIN): the program's next calls do it";

  Endpoint(Services& host, std::string bdf, uint16_t requesterId, Unit& unit, Group& group);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  // DMA by the device, page by page: one that fails is left out (reads as zeroes), and what is behind it
  // still moves. Returns true if every byte did; the first failure is reported to the host's fault log.
  bool dmaRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid = std::nullopt);
  bool dmaWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid = std::nullopt);

  // The same for a device that can wait: for pages that are missing it asks, if there is somebody to ask, and
  // goes on when it has them. `done` is told the outcome, at once or later on the engine. The memory stays
  // the device's until then.
  using Done = std::function<void(bool)>;
  void startRead(uint64_t iova, void* into, size_t size, std::optional<uint32_t> pasid, Done done);
  void startWrite(uint64_t iova, const void* from, size_t size, std::optional<uint32_t> pasid, Done done);
  // Drops the transfers that wait; their `done` is not called.
  void dropTransfers();

  // A page request of the device: 0, or -EINVAL when nobody takes it, which the device learns as `invalid`.
  [[nodiscard]] int request(const PageRequest& request);
  // The answer to a group of them.
  void respond(uint32_t group, PageResponse response);
  // Can it ask for pages? Both it and its unit have to be able to.
  [[nodiscard]] bool canRequestPages() const {
    return pageRequests && unit.pageRequests != PageRequestKind::none;
  }
  [[nodiscard]] unsigned usablePasidBits() const { return std::min(pasidBits, unit.pasidBits); }

  // Without a PASID, and by PASID.
  [[nodiscard]] const Attachment* attachment(std::optional<uint32_t> pasid) const;
  [[nodiscard]] const std::shared_ptr<Translation>& translation() const { return plain_.translation; }
  void attach(std::optional<uint32_t> pasid, const Attachment& to);  // nothing: detaches

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

 private:
  struct Transfer {
    uint64_t iova;
    size_t size;
    char* bytes;  // the device's; only read when it writes to memory
    uint32_t access;
    std::optional<uint32_t> pasid;
    Done done;
    uint32_t group = 0;  // of its page requests, while it waits
  };
  // Moves as much as can be moved: null when that is all, or why not. `missing`: pages can be asked for.
  // Do transactions with a PASID that nothing is attached for go to a guest's table?
  [[nodiscard]] bool guestsPasid() const {
    return unit.guestPasids && plain_.translation != nullptr && plain_.translation->nested();
  }
  [[nodiscard]] Translation::Reach reach(const Attachment& by, std::optional<uint32_t> pasid, uint64_t iova,
                                         uint64_t limit, uint32_t access) const;
  [[nodiscard]] const char* move(Transfer& transfer, bool& missing);
  void proceed(Transfer transfer);
  void askFor(Transfer transfer);
  void fail(const Transfer& transfer, const char* reason);
  void moveRest(Transfer transfer);

  // With no PASID. Without a translation the group has no owner and the kernel's default domain rules, which
  // lets through nothing of a device that no kernel driver uses: blocked.
  Attachment plain_;
  std::map<uint32_t, Attachment> pasids_;
  std::vector<PageRequest> partial_;  // of groups whose last request hasn't come
  std::list<Transfer> waiting_;
  uint32_t nextGroup_ = 0;
};

}  // namespace vfio::soft::iommu
