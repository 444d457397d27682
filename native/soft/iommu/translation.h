// The base class of everything that translates transactions: the view that endpoints have of page tables.
//
//   Domain       (domain.h)  the kernel fills it from an address space
//   NestedTable  (nested.h)  a guest wrote it; it leads to the addresses of a Domain below it
//
// Mediated devices have other translations, since their driver looks into the address space each time: those
// belong to iommufd/access.h and type1/type1.h.
//
// A translation knows whom it serves: the endpoints that it is attached to, and with which PASIDs. Whoever
// takes something out of a table, or narrows it, calls invalidate(), so that no unit keeps using an entry
// that it may have cached (model.h). The drivers of mediated devices cache nothing, so theirs are never
// invalidated.
//
// Life: shared by its maker and the endpoints that it is attached to.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "unit.h"

namespace vfio::soft::mm {
class AddressSpace;
}

namespace vfio::soft::iommu {

class Domain;
class Endpoint;

enum Access : uint32_t { kNoAccess = 0, kRead = 1, kWrite = 2 };

class Translation {
 public:
  Translation() = default;
  virtual ~Translation() = default;
  Translation(const Translation&) = delete;
  Translation& operator=(const Translation&) = delete;

  // Where a transaction's bytes are: at consecutive addresses of the process, and in which domain.
  struct Reach {
    uint64_t user = 0;                        // the address in this process, or in `space`
    uint64_t size = 0;                        // 0: the transaction can't continue, for a `reason`
    Domain* domain = nullptr;                 // whose dirty bits a write sets (null: nobody's),
    uint64_t iova = 0;                        // ... and where
    const char* reason = nullptr;             // in words, for the fault log
    const mm::AddressSpace* space = nullptr;  // memory that a process shares; null: pinned memory
    bool missing = false;  // software could supply the page: a page request is right here, a fault isn't
  };
  // Finds as many of the first `limit` (> 0) bytes from `iova` as are in one piece and allow `access` (kRead
  // or kWrite).
  [[nodiscard]] virtual Reach reach(uint64_t iova, uint64_t limit, uint32_t access) = 0;
  // The same with a PASID, where those are the guest's business (GuestFormat::hasPasids).
  [[nodiscard]] virtual Reach reachAs(uint32_t /*pasid*/, uint64_t iova, uint64_t limit, uint32_t access) {
    return reach(iova, limit, access);
  }

  // 0, or -errno when an endpoint behind `unit` can't be translated by this.
  [[nodiscard]] virtual int suits(const Unit& unit) const = 0;
  // ... or when this endpoint can't, whatever its unit is.
  [[nodiscard]] virtual int admits(const Endpoint& /*endpoint*/) { return 0; }
  // ... or when an endpoint could be translated, but not in the way that the guest asks for. This is checked
  // last.
  [[nodiscard]] virtual int configures(const Unit& /*unit*/) const { return 0; }
  // A transaction of `from` failed at this address: a guest that wrote the table is told of it.
  virtual void failed(const Endpoint& /*from*/, std::optional<uint32_t> /*pasid*/, uint64_t /*iova*/,
                      uint32_t /*access*/) {}

  [[nodiscard]] virtual bool nested() const { return false; }

  // --- whom it serves. Endpoints register themselves.
  struct Served {
    const Endpoint* endpoint;
    std::optional<uint32_t> pasid;
    bool operator==(const Served&) const = default;
  };
  void serve(const Served& fresh) { served_.push_back(fresh); }
  void leave(const Served& gone) { std::erase(served_, gone); }
  [[nodiscard]] const std::vector<Served>& served() const { return served_; }

  // Makes the units of all these forget the translations of `range`. Called after the table has changed.
  virtual void invalidate(Range range) const;

 private:
  std::vector<Served> served_;
};

}  // namespace vfio::soft::iommu
