// What a device model is: native/device_model.h, beside the controls that plug one in.
#pragma once

#include "../../device_model.h"

namespace vfio::soft::devices {
using namespace vfio::devices;
}  // namespace vfio::soft::devices
