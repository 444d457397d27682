// A way to BARs through config space, for software that can't reach them otherwise. Virtio devices have it: a
// vendor-specific capability whose fields name some bytes of a BAR, and whose last four bytes stand for
// these.
#pragma once

#include <cstdint>
#include <optional>

#include "config.h"

namespace vfio::soft::pci {

struct BarWindow {
  unsigned data;  // where in config space the window is
  unsigned bar;
  uint32_t offset;
  unsigned width;  // of the access to the BAR: 1, 2 or 4
};

// Makes the fields of the window writable, if the function has one.
void openBarWindow(ConfigSpace& config);
// The window, if an access at this offset is to it and its fields name an access that a bus can make.
[[nodiscard]] std::optional<BarWindow> barWindowAt(const ConfigSpace& config, unsigned offset);

}  // namespace vfio::soft::pci
