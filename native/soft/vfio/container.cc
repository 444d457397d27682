#include "container.h"

#include <cerrno>

#include "../../uapi/vfio_container.h"
#include "../host.h"
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
      return type1_ ? type1_->ioctl(static_cast<uint32_t>(request), argument) : -EINVAL;
  }
}

int Container::checkExtension(uint64_t extension) const {
  return type1_ ? type1_->ioctl(VFIO_CHECK_EXTENSION, extension)
                : type1::Type1::checkExtension(host_, extension);
}

int Container::setIommu(uint64_t type) {
  if (groups_.empty() || type1_) return -EINVAL;
  if (type1::Type1::checkExtension(host_, type) <= 0) return -ENODEV;
  // What is an extension need not be a back end.
  if (type != VFIO_TYPE1_IOMMU && type != VFIO_TYPE1v2_IOMMU && type != VFIO_TYPE1_NESTING_IOMMU) {
    return -EINVAL;
  }
  auto added = std::make_unique<type1::Type1>(host_, type);
  // The group that came last goes first.
  for (auto group = groups_.rbegin(); group != groups_.rend(); ++group) {
    if (const int error = added->attach(*(*group)->iommuGroup())) return error;
  }
  type1_ = std::move(added);
  return 0;
}

int Container::add(Group& group) {
  iommu::Group& members = *group.iommuGroup();
  if (const int error = members.claim(&group)) return error;
  if (type1_) {
    if (const int error = type1_->attach(members)) {
      members.release(&group);
      return error;
    }
  }
  groups_.push_back(&group);
  return 0;
}

void Container::remove(Group& group) {
  iommu::Group& members = *group.iommuGroup();
  if (type1_) type1_->detach(members);
  members.release(&group);
  std::erase(groups_, &group);
  if (groups_.empty()) type1_.reset();
}

}  // namespace vfio::soft::cdev
