// First-stage tables of VT-d, as a guest writes them: four or five levels of the processor's own format.
#pragma once

#include "nested.h"

namespace vfio::soft::iommu {

// A MakeNested: IOMMU_HWPT_DATA_VTD_S1.
[[nodiscard]] int makeVtdNested(const Unit& unit, const std::shared_ptr<Domain>& parent, const UserData& data,
                                std::shared_ptr<NestedTable>& out);

}  // namespace vfio::soft::iommu
