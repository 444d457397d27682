#include "group.h"

#include <cerrno>

namespace vfio::soft::iommu {

int Group::claim(const void* by) {
  if (kernelDrivers != 0 || (ownerCount != 0 && owner != by)) return -EPERM;
  owner = by;
  ++ownerCount;
  return 0;
}

void Group::release(const void* by) {
  if (owner != by || ownerCount == 0) return;
  if (--ownerCount == 0) owner = nullptr;
}

}  // namespace vfio::soft::iommu
