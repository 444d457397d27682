#include "model.h"

#include <cerrno>

#include "../../uapi/iommufd.h"
#include "../core/services.h"
#include "endpoint.h"

namespace vfio::soft::iommu {

int Model::allocates(const Unit& unit, uint32_t flags) const {
  if (flags != 0 && !takesFlags()) return -EOPNOTSUPP;
  if ((flags & uapi::IOMMU_HWPT_ALLOC_DIRTY_TRACKING) != 0 && !unit.tracksDirty) return -EOPNOTSUPP;
  if ((flags & uapi::IOMMU_HWPT_ALLOC_NEST_PARENT) == 0) return 0;
  const bool withFaults = (flags & uapi::IOMMU_HWPT_FAULT_ID_VALID) != 0;
  return unit.nesting == nullptr || withFaults ? -EOPNOTSUPP : 0;
}

int Model::enablesRequests(const Endpoint& endpoint) const {
  if (!endpoint.canRequestPages()) return -ENODEV;
  // Since 6.16 the drivers count; until then each part of the kernel turned the feature on by itself.
  return endpoint.requests.on() && !endpoint.host.since(6, 16) ? -EBUSY : 0;
}

Translation::Reach Model::translate(const Endpoint& from, const Attachment& by, std::optional<uint32_t> pasid,
                                    uint64_t iova, uint64_t limit, uint32_t access) const {
  // A PASID that nothing is attached for is the guest's.
  if (pasid && from.isPlain(by)) return by.translation->reachAs(*pasid, iova, limit, access);
  return by.translation->reach(iova, limit, access);
}

}  // namespace vfio::soft::iommu
