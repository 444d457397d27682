// Functions that have nothing but a config space as far as this host is concerned: the host bridge, PCIe
// ports, bridges to conventional buses. They are in the tree because groups and resets go by them.
#pragma once

#include <memory>

#include "device.h"

namespace vfio::soft::devices {

// A device with this description, whose BARs read as zero.
[[nodiscard]] std::unique_ptr<Device> makePassive(const Description& description);

}  // namespace vfio::soft::devices
