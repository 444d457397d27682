// Memory that two machines share, after QEMU's ivshmem-plain (1af4:1110): BAR0 has four registers that do
// nothing without a doorbell server, BAR2 is 1 MiB of plain memory. It raises no interrupts and does no DMA.
#pragma once

#include <memory>

#include "device.h"

namespace vfio::soft::devices {

[[nodiscard]] std::unique_ptr<Device> makeSharedMemory();

}  // namespace vfio::soft::devices
