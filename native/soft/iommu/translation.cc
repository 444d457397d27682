#include "translation.h"

#include "endpoint.h"

namespace vfio::soft::iommu {

void Translation::invalidate(Range range) const {
  for (const Served& each : served_) each.endpoint->invalidate(each.pasid, range);
}

}  // namespace vfio::soft::iommu
