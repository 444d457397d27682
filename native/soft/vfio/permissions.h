// Which bits of config space a program reads from the hardware, and which it may change: a table per
// capability. A virtual bit is read and written in the session's copy, any other bit in the device. A bit
// that is not writable ignores writes. The rules are those of the kernel's vfio-pci.
//
// Life: each config view (config_view.h) makes its tables when it is made, and owns them.
#pragma once

#include <cstdint>
#include <vector>

namespace vfio::soft::cdev {

struct Permissions {
  enum class Read : uint8_t { hardware, raw, mixed };  // `hardware`: except the bytes that link the list
  enum class Write : uint8_t { none, raw, mixed };
  Read read = Read::hardware;
  Write write = Write::none;
  std::vector<uint8_t> virtualBits;
  std::vector<uint8_t> writableBits;
};

// `length` is the capability's size.
[[nodiscard]] Permissions headerPermissions();
[[nodiscard]] Permissions capabilityPermissions(uint8_t id, unsigned length, uint16_t flags);
[[nodiscard]] Permissions extendedPermissions(uint16_t id, unsigned length);
[[nodiscard]] Permissions unassignedPermissions();

// Sizes of capabilities, as vfio-pci knows them. 0: the capability is hidden from the program. `variable`:
// the size depends on the device.
constexpr unsigned variable = 0xff;
[[nodiscard]] unsigned capabilityLength(uint8_t id);
[[nodiscard]] unsigned extendedLength(uint16_t id);

}  // namespace vfio::soft::cdev
