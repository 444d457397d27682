#include "guest_format.h"

#include <algorithm>
#include <utility>

#include "endpoint.h"

namespace vfio::soft::iommu {

void Guest::invalidate(Range range) const {
  for (const NestedTable* table : tables_) table->invalidate(range);
}

void Guest::invalidateDevice(uint64_t device) const {
  for (const NestedTable* table : tables_) {
    for (const auto& [endpoint, pasid] : table->served()) {
      if (nameOf(*endpoint) == device) endpoint->invalidate(pasid, kEverything);
    }
  }
}

GuestTable::GuestTable(std::shared_ptr<Domain> itsParent, Guest& itsGuest)
    : NestedTable(std::move(itsParent)), guest(itsGuest) {
  guest.tables_.push_back(this);
}

GuestTable::~GuestTable() { std::erase(guest.tables_, this); }

}  // namespace vfio::soft::iommu
