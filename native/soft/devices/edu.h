// The `edu` device of QEMU (docs/specs/edu): 1234:11e8, one BAR of registers, a factorial unit, a 4 KiB
// buffer with a DMA engine, one interrupt by MSI or INTx.
//
// Where it differs from QEMU: DMA starts at once instead of after 100 ms, and a transfer that leaves the
// buffer moves nothing (QEMU's versions stop the machine or run on past the buffer); it is put into the fault
// log.
#pragma once

#include <memory>

#include "device.h"

namespace vfio::soft::devices {

[[nodiscard]] std::unique_ptr<Device> makeEdu();

}  // namespace vfio::soft::devices
