// A device to test mappings on, after QEMU's pci-testdev (1b36:0005): BAR0 has registers that count accesses,
// BAR1 is I/O ports, BAR2 is 1 MiB of plain memory. It raises no interrupts and does no DMA.
//
// BAR0: 0x00 reads written accesses so far, 0x04 their last width, 0x08 the low and 0x0c the high half of the
// last value; a write at 0x00 clears the count. BAR1 is 256 bytes that keep what is written.
// (QEMU's test protocol for eventfds in these two BARs is not modelled.)
#pragma once

#include <memory>

#include "device.h"

namespace vfio::soft::devices {

[[nodiscard]] std::unique_ptr<Device> makeTestDevice();

}  // namespace vfio::soft::devices
