// Arm's SMMUv3: a large one, with all the features that Linux uses, and its message window where Linux
// places it. With Unit::commandQueues it also has the command queues of Tegra241 (CMDQV).
#include <bit>
#include <iterator>

#include "../../../uapi/iommufd_data.h"
#include "../../core/services.h"
#include "../command_queues.h"
#include "catalogue.h"
#include "smmuv3_nested.h"
#include "values.h"

namespace vfio::soft::iommu::models {
namespace {

// The code of an address width in IDR5: that of the widest width that is no wider than the unit's.
uint32_t outputAddressSize(const Unit& unit) {
  constexpr int kWidths[] = {32, 36, 40, 42, 44, 48, 52};
  const int width = std::bit_width(unit.aperture.last);
  uint32_t size = 0;
  while (size + 1 < std::size(kWidths) && kWidths[size + 1] <= width) ++size;
  return size;
}

HwInfo describeUnit(const Unit& unit) {
  const bool nests = unit.nesting != nullptr;
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
  idr0 |= bit(26);            // the device is always told of a terminated transaction
  idr0 |= uint64_t{1} << 27;  // stream tables in two levels
  data.idr[0] = static_cast<uint32_t>(idr0);
  data.idr[1] = 16 | unit.pasidBits << 6 | 19U << 16 | kMostCommandsLog2 << 21;
  // Hierarchical attributes can be disabled, stage 2 can force write-back, invalidation takes ranges.
  data.idr[3] = static_cast<uint32_t>(bit(2) | bit(8, nests) | bit(10));
  data.idr[5] = outputAddressSize(unit) | 1U << 4;  // 4 KiB granule
  data.aidr = 2;                                    // SMMUv3.2
  return hwInfo(uapi::IOMMU_HW_INFO_TYPE_ARM_SMMUV3, data);
}

HwInfo describeCommandQueues() {
  uapi::iommu_hw_info_tegra241_cmdqv data = {};
  data.version = 1;
  data.log2vcmdqs = kCommandQueuesLog2;
  data.log2vsids = kStreamIdsLog2;
  return hwInfo(uapi::IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV, data);
}

class Smmuv3 final : public Model {
 public:
  Smmuv3()
      : Model("smmuv3", {.unitName = "smmu3.",
                         .apertures = {k48Bits},
                         .reserved = {{{0x08000000, 0x080fffff}, ReservedKind::softwareMsi}},
                         .pageSizes = 4 * kKiB | 2 * kMiB | kGiB,
                         .nests = true,
                         .pasidBits = 20,
                         .dirtyTracking = true,
                         .enforcesCoherency = true,
                         .isolatesInterrupts = true}) {}

  [[nodiscard]] const GuestFormat* format() const override { return &smmuv3Tables(); }
  [[nodiscard]] bool canHaveCommandQueues() const override { return true; }
  [[nodiscard]] bool sharesTables() const override { return true; }
  // This was the only driver that supported it.
  [[nodiscard]] bool nestsInContainers() const override { return true; }

  [[nodiscard]] std::optional<HwInfo> describe(const Services& host, const Unit& unit,
                                               uint32_t wanted) const override {
    if (!host.since(6, 13)) return std::nullopt;
    const bool queues = wanted == uapi::IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV && unit.commandQueues;
    return queues ? describeCommandQueues() : describeUnit(unit);
  }
};

}  // namespace

const Model& smmuv3() {
  static const Smmuv3 kModel;
  return kModel;
}

}  // namespace vfio::soft::iommu::models
