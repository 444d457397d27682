// A format of guests' page tables: who can make such tables, how their caches are invalidated, and whether
// the guest's PASIDs are its own business. models/ has a file for each.
//
// Tables are made in one of two ways: on a domain alone, or on a virtual IOMMU, which knows more about the
// guest.
//
// Life: a format has no state, and outlives all tables of it. A Guest is a virtual IOMMU; it outlives the
// tables that are made on it.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "nested.h"
#include "unit.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommu {

// What a format sees of a virtual IOMMU.
class Guest {
 public:
  // The guest's name for this device. Nothing: the guest doesn't know the device.
  [[nodiscard]] virtual std::optional<uint64_t> nameOf(const Endpoint& endpoint) const = 0;
  // Does the guest know a device by this name?
  [[nodiscard]] virtual bool knows(uint64_t device) const = 0;
  // An event of this type for the guest, if it listens: 0, or -EOPNOTSUPP.
  virtual int report(uint32_t type, const void* data, size_t size) = 0;

  // Makes units forget the translations by all tables of the guest: those of `range`, or all of one device.
  void invalidate(Range range) const;
  void invalidateDevice(uint64_t device) const;

 protected:
  ~Guest() = default;

 private:
  friend class GuestTable;
  std::vector<const NestedTable*> tables_;
};

// A table that is made on a virtual IOMMU.
class GuestTable : public NestedTable {
 public:
  GuestTable(std::shared_ptr<Domain> itsParent, Guest& itsGuest);
  ~GuestTable() override;

 protected:
  Guest& guest;
};

// A command of a guest's queue, as the hardware reads it.
using GuestCommand = std::array<uint64_t, 2>;

class GuestFormat {
 public:
  explicit GuestFormat(std::string_view itsName) : name(itsName) {}
  virtual ~GuestFormat() = default;
  GuestFormat(const GuestFormat&) = delete;
  GuestFormat& operator=(const GuestFormat&) = delete;

  const std::string_view name;  // "vtd-s1"

  // Do the guest's tables cover PASIDs too? Then they translate the transactions with a PASID.
  [[nodiscard]] virtual bool hasPasids() const { return true; }

  // --- tables on a domain
  [[nodiscard]] virtual bool nestsOnDomains() const { return false; }
  // Makes a table as `data` describes it: 0, or the -errno that the unit's driver returns.
  [[nodiscard]] virtual int makeTable(const Unit& /*unit*/, const std::shared_ptr<Domain>& /*parent*/,
                                      const UserData& /*data*/, std::shared_ptr<NestedTable>& /*out*/) const {
    return -EOPNOTSUPP;
  }

  // --- virtual IOMMUs
  // Does the driver have virtual IOMMUs, in this release?
  [[nodiscard]] virtual bool hasGuests(const Services& /*host*/) const { return false; }
  // ... and of this type, for this unit?
  [[nodiscard]] virtual bool hasGuestsOf(const Services& host, const Unit& /*unit*/,
                                         uint32_t /*type*/) const {
    return hasGuests(host);
  }
  // Does one of this type come with queues of commands?
  [[nodiscard]] virtual bool hasCommandQueues(const Unit& /*unit*/, uint32_t /*type*/) const { return false; }
  // As above; `flags` are those of the allocation (IOMMU_HWPT_*).
  [[nodiscard]] virtual int makeTable(const Services& /*host*/, const Unit& /*unit*/,
                                      const std::shared_ptr<Domain>& /*parent*/, Guest& /*guest*/,
                                      uint32_t /*flags*/, const UserData& /*data*/,
                                      std::shared_ptr<NestedTable>& /*out*/) const {
    return -EOPNOTSUPP;
  }
  // Runs the guest's commands that invalidate caches: 0 or -errno; `array.handled` is set in both cases.
  [[nodiscard]] virtual int runCommands(const Guest& /*guest*/, UserArray& /*array*/) const {
    return -EOPNOTSUPP;
  }
  // Runs a command from a queue that the guest fills by itself. False: a guest may not issue it.
  [[nodiscard]] virtual bool runQueued(const Guest& /*guest*/, const GuestCommand& /*command*/) const {
    return false;
  }
};

}  // namespace vfio::soft::iommu
