// Guests' tables of SMMUv3: a stream table entry (STE) that leads to the context descriptors and the
// first-stage tables that the guest wrote, all at guest-physical addresses, which the nest parent
// translates. They are made on a virtual IOMMU (IOMMU_HWPT_DATA_ARM_SMMUV3), which knows the guest's names
// of the devices and receives the events.
#pragma once

#include "../guest_format.h"

namespace vfio::soft::iommu::models {

class Smmuv3Tables final : public GuestFormat {
 public:
  Smmuv3Tables() : GuestFormat("arm-smmuv3") {}

  [[nodiscard]] bool hasGuests(const Services&) const override { return true; }
  [[nodiscard]] bool hasGuestsOf(const Services& host, const Unit& unit, uint32_t type) const override;
  [[nodiscard]] bool hasCommandQueues(const Unit& unit, uint32_t type) const override;
  // -EOPNOTSUPP (for a PASID), -EINVAL (data of another type or size), -EFAULT, -EIO (an STE with a value
  // that a guest may not set).
  [[nodiscard]] int makeTable(const Services& host, const Unit& unit, const std::shared_ptr<Domain>& parent,
                              Guest& guest, uint32_t flags, const UserData& data,
                              std::shared_ptr<NestedTable>& out) const override;
  // --- smmuv3_commands.cc
  [[nodiscard]] int runCommands(const Guest& guest, UserArray& array) const override;
  [[nodiscard]] bool runQueued(const Guest& guest, const GuestCommand& command) const override;
};

[[nodiscard]] const Smmuv3Tables& smmuv3Tables();

}  // namespace vfio::soft::iommu::models
