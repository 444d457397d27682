// The door to this folder: what /dev/iommu of a host with HostOptions::selftest is opened with.
#pragma once

#include "../iommufd/test_hooks.h"

namespace vfio::soft::selftest {

[[nodiscard]] const iommufd::TestHooks& hooks();

}  // namespace vfio::soft::selftest
