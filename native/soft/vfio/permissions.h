// Which bits of config space a program may see as the hardware has them, and which it may change: a table per
// capability. A virtual bit is read and written in the session's copy, others in the device; a bit that is
// not writable ignores writes. The rules are those of the kernel's vfio-pci.
#pragma once

#include <cstdint>
#include <vector>

namespace vfio::soft::cdev {

struct Permissions {
  enum class Read : uint8_t { hardware, raw, mixed };  // `hardware`: except the list's own bytes
  enum class Write : uint8_t { none, raw, mixed };
  Read read = Read::hardware;
  Write write = Write::none;
  std::vector<uint8_t> virtualBits;
  std::vector<uint8_t> writableBits;
};

// `length` is the capability's size; 0 in the result's place means: hide it from the program.
[[nodiscard]] Permissions headerPermissions();
[[nodiscard]] Permissions capabilityPermissions(uint8_t id, unsigned length, uint16_t flags);
[[nodiscard]] Permissions extendedPermissions(uint16_t id, unsigned length);
[[nodiscard]] Permissions unassignedPermissions();

// Sizes of capabilities as vfio-pci knows them: 0 hides one, `variable` depends on the device.
constexpr unsigned variable = 0xff;
[[nodiscard]] unsigned capabilityLength(uint8_t id);
[[nodiscard]] unsigned extendedLength(uint16_t id);

}  // namespace vfio::soft::cdev
