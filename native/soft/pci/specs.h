// What a machine's description says of one function, for as long as the function lives.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "../devices/device.h"

namespace vfio::soft::pci {

// `use`: what a host driver does with a device, the kernel's disk or network interface on it.
struct UseSpec {
  std::string disk;       // its name; empty: none
  std::string mountedOn;  // empty: nowhere
  std::string interface;
  bool up = false;
  bool routed = false;  // there is a route through it
};

// `sriov`: the virtual functions that a device can have. They are all alike.
struct SriovSpec {
  unsigned totalVfs = 0;
  unsigned offset = 1;  // of the first one's address from that of the physical function, and of each next one
  unsigned stride = 1;
  devices::Description description{};
  std::array<uint64_t, 6> placed{};  // where the BARs of the first one are; the others' follow

  // The address of one, on the bus of the physical function.
  [[nodiscard]] unsigned devfn(uint8_t physical, unsigned index) const {
    return physical + offset + index * stride;
  }
};

}  // namespace vfio::soft::pci
