// A virtio network device, after the virtio specification 1.2: over PCI (1af4:1041), with split virtqueues,
// one to receive and one to send, and MSI-X with a vector for each and one for changes, or INTx.
//
// The folder: `format.h` has what the specification lays out in registers and memory, `queue.h` a virtqueue,
// `transport.h` what all virtio devices do, `net.cc` this one.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "../device.h"

namespace vfio::soft::devices {

struct VirtioNetOptions {
  // Default: 52:54:00:00, and the bus and the number of the function on it.
  std::optional<std::array<uint8_t, 6>> mac{};
  // The PCI address of the device that receives what this one sends. Empty: itself.
  std::string peer{};
};

[[nodiscard]] std::unique_ptr<Device> makeVirtioNet(const VirtioNetOptions& options);

}  // namespace vfio::soft::devices
