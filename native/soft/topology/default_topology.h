// The default machine: the guest of test/kernel, without the devices that nobody drives from user space.
// Addresses, interrupt lines and group numbers are those of the guest. Groups 1 and 6 are missing here, since
// they are of devices that were left out.
#pragma once

#include <string_view>

namespace vfio::soft::topology {

inline constexpr std::string_view defaultTopology = R"({
  "iommus": [{ "kind": "vtd" }],
  "devices": [
    { "model": "host-bridge", "bdf": "0000:00:00.0" },
    { "model": "edu", "bdf": "0000:00:10.0", "addresses": ["0xfe400000"], "group": 2 },
    { "model": "root-port", "bdf": "0000:00:11.0", "irq": 22, "addresses": ["0xfe501000"] },
    { "model": "root-port", "bdf": "0000:00:12.0", "irq": 22, "addresses": ["0xfe502000"] },
    { "model": "ivshmem", "bdf": "0000:00:14.0", "addresses": ["0xfe503000", "0xfe504000", "0xfea00000"] },
    { "model": "bridge", "bdf": "0000:02:00.0", "behind": "0000:00:12.0", "irq": 11,
      "addresses": ["0xfe000000"], "group": 7 },
    { "model": "edu", "bdf": "0000:03:01.0", "behind": "0000:02:00.0", "addresses": ["0xfde00000"] },
    { "model": "edu", "bdf": "0000:03:02.0", "behind": "0000:02:00.0", "addresses": ["0xfdf00000"] }
  ]
})";

}  // namespace vfio::soft::topology
