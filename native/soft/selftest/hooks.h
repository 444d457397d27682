// The interface of this folder: the hooks that /dev/iommu gets if HostOptions::selftest is set.
#pragma once

#include "../iommufd/test_hooks.h"

namespace vfio::soft::selftest {

[[nodiscard]] const iommufd::TestHooks& hooks();

}  // namespace vfio::soft::selftest
