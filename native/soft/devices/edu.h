// The `edu` device of QEMU (docs/specs/edu): 1234:11e8, one BAR of registers, a factorial unit, a 4 KiB
// buffer with a DMA engine, one interrupt by MSI or INTx.
//
// It differs from QEMU's device in two points. DMA starts at once instead of after 100 ms. A transfer that
// leaves the buffer moves nothing and is recorded in the fault log (QEMU's versions stop the machine or run
// on past the buffer).
#pragma once

#include <memory>

#include "device.h"

namespace vfio::soft::devices {

[[nodiscard]] std::unique_ptr<Device> makeEdu();

}  // namespace vfio::soft::devices
