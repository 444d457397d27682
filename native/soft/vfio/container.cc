#include "container.h"

#include <cerrno>

#include "../../uapi/vfio_container.h"
#include "../core/services.h"
#include "group.h"

namespace vfio::soft::cdev {

using namespace uapi;

int Container::ioctl(unsigned long request, UserAddress argument) {
  switch (request) {
    case VFIO_GET_API_VERSION:
      return VFIO_API_VERSION;
    case VFIO_CHECK_EXTENSION:
      return checkExtension(argument);
    case VFIO_SET_IOMMU:
      return setIommu(argument);
    default:
      if (noIommuSet_) return -ENOTTY;
      return type1_ ? type1_->ioctl(static_cast<uint32_t>(request), argument) : -EINVAL;
  }
}

// Is `type` the back end for groups without an IOMMU, and does this host allow it?
bool Container::isNoIommu(uint64_t type) const {
  return type == VFIO_NOIOMMU_IOMMU && host_.parameters().unsafeNoIommu;
}

int Container::checkExtension(uint64_t extension) const {
  if (type1_) return type1_->ioctl(VFIO_CHECK_EXTENSION, extension);
  // Without a back end, the answer covers each back end that could still be set. In a container without
  // groups both kinds could be.
  const bool empty = groups_.empty();
  if ((empty || noIommu_) && isNoIommu(extension)) return 1;
  return empty || !noIommu_ ? type1::Type1::checkExtension(host_, extension) : 0;
}

int Container::setIommu(uint64_t type) {
  if (groups_.empty() || hasBackEnd()) return -EINVAL;
  if (noIommu_) {
    if (!isNoIommu(type)) return -ENODEV;
    if (!host_.mayDoRawIo()) return -EPERM;
    noIommuSet_ = true;
    return 0;
  }
  if (type1::Type1::checkExtension(host_, type) <= 0) return -ENODEV;
  // Not every extension is a back end.
  if (type != VFIO_TYPE1_IOMMU && type != VFIO_TYPE1v2_IOMMU && type != VFIO_TYPE1_NESTING_IOMMU) {
    return -EINVAL;
  }
  auto added = std::make_unique<type1::Type1>(host_, type);
  // The group that was added last is attached first.
  for (auto group = groups_.rbegin(); group != groups_.rend(); ++group) {
    if (const int error = added->attach(*(*group)->iommuGroup())) return error;
  }
  type1_ = std::move(added);
  return 0;
}

int Container::add(Group& group) {
  if (group.isUnsafe() && !host_.mayDoRawIo()) return -EPERM;
  if (!groups_.empty() && noIommu_ != group.isUnsafe()) return -EPERM;
  iommu::Group& members = *group.iommuGroup();
  if (members.exclusive) {
    if (const int error = members.claim(&group)) return error;
  }
  if (type1_) {
    if (const int error = type1_->attach(members)) {
      members.release(&group);
      return error;
    }
  }
  noIommu_ = group.isUnsafe();
  groups_.push_back(&group);
  return 0;
}

void Container::remove(Group& group) {
  iommu::Group& members = *group.iommuGroup();
  if (type1_) type1_->detach(members);
  members.release(&group);
  std::erase(groups_, &group);
  if (!groups_.empty()) return;
  type1_.reset();
  noIommuSet_ = false;
}

}  // namespace vfio::soft::cdev
