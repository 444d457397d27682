// Values that several models have in common.
#pragma once

#include <cstdint>
#include <cstring>

#include "../model.h"

namespace vfio::soft::iommu::models {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;
inline constexpr Range k48Bits = {0, (uint64_t{1} << 48) - 1};

// On x86 a write to this window is an interrupt, whatever the page table says.
inline constexpr ReservedRegion kX86Messages = {{0xfee00000, 0xfeefffff}, ReservedKind::msi};

// One bit of a register.
constexpr uint64_t bit(unsigned at, bool set = true) { return set ? uint64_t{1} << at : 0; }

// A struct of the binary interface as the data of GET_HW_INFO.
template <class Data>
HwInfo hwInfo(uint32_t type, const Data& data) {
  HwInfo out = {type, std::vector<unsigned char>(sizeof(data))};
  std::memcpy(out.data.data(), &data, sizeof(data));
  return out;
}

}  // namespace vfio::soft::iommu::models
