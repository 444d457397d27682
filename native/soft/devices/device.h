// Makes the names of native/device_model.h available in vfio::soft::devices.
#pragma once

#include "../../device_model.h"

namespace vfio::soft::devices {
using namespace vfio::devices;
}  // namespace vfio::soft::devices
