#include "hw_info.h"

#include <bit>
#include <cstring>

#include "../../uapi/iommufd_data.h"

namespace vfio::soft::iommu {
namespace {

template <class Data>
HwInfo info(uint32_t type, const Data& data) {
  HwInfo out = {type, std::vector<unsigned char>(sizeof(data))};
  std::memcpy(out.data.data(), &data, sizeof(data));
  return out;
}

uint64_t bit(unsigned at, bool set = true) { return set ? uint64_t{1} << at : 0; }

bool walksGuestTables(const Unit& unit, NestingFormat format) { return unit.nests && unit.nesting == format; }

// ---------------------------------------------------------------- VT-d, as QEMU's model has it

uint64_t vtdCapabilities(const Unit& unit) {
  const auto width = static_cast<uint64_t>(std::bit_width(unit.aperture.last));
  uint64_t value = 6;                                              // 2^16 domain ids
  value |= bit(7);                                                 // caching mode
  value |= bit(9);                                                 // 3-level tables
  value |= bit(10, width >= 48);                                   // 4-level tables
  value |= (width - 1) << 16;                                      // address width
  value |= uint64_t{0x220 / 16} << 24;                             // where the fault registers are
  value |= (unit.pageSizes >> 21 & 1) << 34;                       // 2 MiB pages
  value |= (unit.pageSizes >> 30 & 1) << 35;                       // 1 GiB pages
  value |= bit(39);                                                // invalidation by page
  value |= uint64_t{18} << 48;                                     // of at most 2^18 pages
  value |= uint64_t{3} << 54;                                      // drains writes and reads
  value |= bit(56, walksGuestTables(unit, NestingFormat::vtdS1));  // 1 GiB pages in first-stage tables
  value |= bit(60, unit.fiveLevels);                               // 5-level first-stage tables
  return value;
}

uint64_t vtdExtendedCapabilities(const Unit& unit) {
  // What came with scalable mode makes up for legacy mode's lack of it.
  const bool scalable = unit.nests || unit.tracksDirty || unit.pasidBits != 0;
  uint64_t value = bit(1);                   // queued invalidation
  value |= bit(2);                           // device TLBs
  value |= bit(3, unit.isolatesInterrupts);  // interrupt remapping
  value |= bit(6);                           // pass-through
  value |= bit(7, unit.enforcesCoherency);   // snoop control
  value |= uint64_t{0xf} << 8;               // where the IOTLB registers are
  value |= uint64_t{0xf} << 20;              // largest handle mask
  value |= bit(26, unit.nests);              // nested translation
  value |= bit(29, unit.pageRequests == PageRequestKind::pri);
  value |= bit(31, unit.supervisorRequests);
  value |= bit(34, unit.extendedAccessed);
  if (unit.pasidBits != 0) value |= bit(40) | uint64_t{unit.pasidBits - 1} << 35;
  value |= bit(43, scalable);
  value |= bit(45, unit.tracksDirty);                              // dirty bits in second-stage tables
  value |= bit(46, scalable);                                      // second-stage tables
  value |= bit(47, walksGuestTables(unit, NestingFormat::vtdS1));  // first-stage tables
  value |= bit(48, scalable);                                      // walks snoop the processor's caches
  return value;
}

// ---------------------------------------------------------------- SMMUv3

// How IDR5 gives a width of addresses: the widest that is no wider.
uint32_t outputAddressSize(const Unit& unit) {
  constexpr int kWidths[] = {32, 36, 40, 42, 44, 48, 52};
  const int width = std::bit_width(unit.aperture.last);
  uint32_t size = 0;
  while (size + 1 < std::size(kWidths) && kWidths[size + 1] <= width) ++size;
  return size;
}

}  // namespace

HwInfo describeVtd(const Unit& unit) {
  uapi::iommu_hw_info_vtd data = {};
  // Linux sets this on every unit, for the sake of those that have the fault.
  data.flags = uapi::IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17;
  data.cap_reg = vtdCapabilities(unit);
  data.ecap_reg = vtdExtendedCapabilities(unit);
  return info(uapi::IOMMU_HW_INFO_TYPE_INTEL_VTD, data);
}

HwInfo describeSmmuv3(const Unit& unit) {
  const bool nests = walksGuestTables(unit, NestingFormat::armSmmuv3);
  const bool stalls = unit.pageRequests == PageRequestKind::stall;
  uapi::iommu_hw_info_arm_smmuv3 data = {};
  uint64_t idr0 = bit(0, nests) | bit(1);  // stage 2, stage 1
  idr0 |= uint64_t{2} << 2;                // tables of AArch64
  idr0 |= bit(4);                          // its accesses are coherent
  if (unit.tracksDirty) idr0 |= uint64_t{2} << 6;
  idr0 |= bit(12) | bit(13);  // 16-bit ASIDs, messages for its own interrupts
  idr0 |= bit(16, unit.pageRequests == PageRequestKind::pri);
  idr0 |= bit(18) | bit(19);  // 16-bit VMIDs, context descriptors in two levels
  idr0 |= uint64_t{2} << 21;  // little endian
  if (!stalls) idr0 |= uint64_t{1} << 24;
  idr0 |= bit(26);            // what is given up is always told to the device
  idr0 |= uint64_t{1} << 27;  // stream tables in two levels
  data.idr[0] = static_cast<uint32_t>(idr0);
  data.idr[1] = 16 | unit.pasidBits << 6 | 19U << 16 | kMostCommandsLog2 << 21;
  // Hierarchical attributes can be disabled, stage 2 can force write-back, invalidation takes ranges.
  data.idr[3] = static_cast<uint32_t>(bit(2) | bit(8, nests) | bit(10));
  data.idr[5] = outputAddressSize(unit) | 1U << 4;  // 4 KiB granule
  data.aidr = 2;                                    // SMMUv3.2
  return info(uapi::IOMMU_HW_INFO_TYPE_ARM_SMMUV3, data);
}

HwInfo describeAmd(const Unit& unit) {
  const bool nests = walksGuestTables(unit, NestingFormat::amdGuest);
  uapi::iommu_hw_info_amd data = {};
  data.efr = bit(1, unit.pageRequests == PageRequestKind::pri);
  data.efr |= bit(4, nests || unit.pasidBits != 0);  // guest translation
  data.efr |= bit(6);                                // invalidation of everything
  data.efr |= uint64_t{2} << 10;                     // host tables of six levels
  if (unit.pasidBits != 0) data.efr |= uint64_t{unit.pasidBits - 1} << 32;
  data.efr |= bit(49, unit.tracksDirty) | bit(52, unit.tracksDirty);
  return info(uapi::IOMMU_HW_INFO_TYPE_AMD, data);
}

HwInfo describeTegra241Cmdqv() {
  uapi::iommu_hw_info_tegra241_cmdqv data = {};
  data.version = 1;
  data.log2vcmdqs = kCommandQueuesLog2;
  data.log2vsids = kStreamIdsLog2;
  return info(uapi::IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV, data);
}

}  // namespace vfio::soft::iommu
