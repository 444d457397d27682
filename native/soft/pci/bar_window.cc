#include "bar_window.h"

#include "registers.h"

namespace vfio::soft::pci {

namespace {

constexpr uint16_t virtioVendor = 0x1af4;
constexpr uint8_t configAccess = 5;  // the type of the capability
constexpr unsigned typeAt = 3, barAt = 4, offsetAt = 8, lengthAt = 12, dataAt = 16, size = 20;

// Returns 0 if there is none.
unsigned find(const ConfigSpace& config) {
  if (config.read(regVendor, 2) != virtioVendor) return 0;
  unsigned at = config.read(regCapabilities, 1);
  for (unsigned steps = 0; at >= headerEnd && steps < 48; ++steps) {
    if (config.read(at, 1) == capVendor && config.read(at + typeAt, 1) == configAccess &&
        config.read(at + vendorLength, 1) >= size)
      return at;
    at = config.read(at + 1, 1);
  }
  return 0;
}

}  // namespace

void openBarWindow(ConfigSpace& config) {
  const unsigned at = find(config);
  if (at == 0) return;
  constexpr uint32_t all = 0xffffffff;
  config.allow(at + barAt, 1, all);
  for (const unsigned field : {offsetAt, lengthAt, dataAt}) config.allow(at + field, 4, all);
}

std::optional<BarWindow> barWindowAt(const ConfigSpace& config, unsigned offset) {
  const unsigned at = find(config);
  if (at == 0 || offset < at + dataAt || offset >= at + size) return std::nullopt;
  const BarWindow window{at + dataAt, config.read(at + barAt, 1), config.read(at + offsetAt, 4),
                         config.read(at + lengthAt, 4)};
  const bool possible = window.width == 1 || window.width == 2 || window.width == 4;
  if (!possible || window.offset % window.width != 0) return std::nullopt;
  return window;
}

}  // namespace vfio::soft::pci
