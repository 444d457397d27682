// The parts of a machine's description that concern one function. They live as long as the function.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "../devices/device.h"

namespace vfio::soft::pci {

// `use`: how a host driver uses a device: the kernel's disk or network interface on it.
struct UseSpec {
  std::string disk;       // name of the disk; empty: none
  std::string mountedOn;  // empty: nowhere
  std::string interface;
  bool up = false;
  bool routed = false;  // there is a route through it
};

// `sriov`: the virtual functions that a device can have. They are all alike.
struct SriovSpec {
  unsigned totalVfs = 0;
  // `offset` leads from the physical function's address to the first one's, `stride` from each to the next.
  unsigned offset = 1;
  unsigned stride = 1;
  devices::Description description{};
  std::array<uint64_t, 6> placed{};  // where the BARs of the first one are; those of the others follow

  // The address of one virtual function, on the bus of the physical function.
  [[nodiscard]] unsigned devfn(uint8_t physical, unsigned index) const {
    return physical + offset + index * stride;
  }
};

}  // namespace vfio::soft::pci
