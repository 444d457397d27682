// First-stage tables of VT-d, as a guest writes them: four or five levels of the processor's own format. They
// are made on a domain (IOMMU_HWPT_DATA_VTD_S1).
#pragma once

#include "../guest_format.h"

namespace vfio::soft::iommu::models {

// The features of hardware that reads such tables.
struct FirstStage {
  bool fiveLevels = false;
  bool supervisorRequests = false;
  bool extendedAccessed = false;
};

class VtdFirstStage final : public GuestFormat {
 public:
  explicit VtdFirstStage(const FirstStage& itsFeatures) : GuestFormat("vtd-s1"), features(itsFeatures) {}

  [[nodiscard]] bool hasPasids() const override { return false; }
  [[nodiscard]] bool nestsOnDomains() const override { return true; }
  [[nodiscard]] int makeTable(const Unit& unit, const std::shared_ptr<Domain>& parent, const UserData& data,
                              std::shared_ptr<NestedTable>& out) const override;

  const FirstStage features;
};

// The format with all of these features, as the driver knows it.
[[nodiscard]] const VtdFirstStage& vtdFirstStage();
// The features of a unit; a unit that doesn't read such tables has none.
[[nodiscard]] FirstStage firstStage(const Unit& unit);

}  // namespace vfio::soft::iommu::models
