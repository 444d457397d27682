// Intel's VT-d: QEMU's model of it, as Linux 6.12 finds it in the guest. GET_HW_INFO gives the unit's
// registers. They are derived from the unit's abilities, so that the two always agree.
#include <bit>

#include "../../../uapi/iommufd_data.h"
#include "../../core/services.h"
#include "catalogue.h"
#include "values.h"
#include "vtd_nested.h"

namespace vfio::soft::iommu::models {
namespace {

uint64_t capabilities(const Unit& unit) {
  const auto width = static_cast<uint64_t>(std::bit_width(unit.aperture.last));
  uint64_t value = 6;                             // 2^16 domain ids
  value |= bit(7);                                // caching mode
  value |= bit(9);                                // 3-level tables
  value |= bit(10, width >= 48);                  // 4-level tables
  value |= (width - 1) << 16;                     // address width
  value |= uint64_t{0x220 / 16} << 24;            // where the fault registers are
  value |= (unit.pageSizes >> 21 & 1) << 34;      // 2 MiB pages
  value |= (unit.pageSizes >> 30 & 1) << 35;      // 1 GiB pages
  value |= bit(39);                               // invalidation by page
  value |= uint64_t{18} << 48;                    // of at most 2^18 pages
  value |= uint64_t{3} << 54;                     // drains writes and reads
  value |= bit(56, unit.nesting != nullptr);      // 1 GiB pages in first-stage tables
  value |= bit(60, firstStage(unit).fiveLevels);  // 5-level first-stage tables
  return value;
}

uint64_t extendedCapabilities(const Unit& unit) {
  const bool nests = unit.nesting != nullptr;
  // Legacy mode lacks these features, so a unit that has any of them has scalable mode.
  const bool scalable = nests || unit.tracksDirty || unit.pasidBits != 0;
  uint64_t value = bit(1);                   // queued invalidation
  value |= bit(2);                           // device TLBs
  value |= bit(3, unit.isolatesInterrupts);  // interrupt remapping
  value |= bit(6);                           // pass-through
  value |= bit(7, unit.enforcesCoherency);   // snoop control
  value |= uint64_t{0xf} << 8;               // where the IOTLB registers are
  value |= uint64_t{0xf} << 20;              // largest handle mask
  value |= bit(26, nests);                   // nested translation
  value |= bit(29, unit.pageRequests == PageRequestKind::pri);
  value |= bit(31, firstStage(unit).supervisorRequests);
  value |= bit(34, firstStage(unit).extendedAccessed);
  if (unit.pasidBits != 0) value |= bit(40) | uint64_t{unit.pasidBits - 1} << 35;
  value |= bit(43, scalable);
  value |= bit(45, unit.tracksDirty);  // dirty bits in second-stage tables
  value |= bit(46, scalable);          // second-stage tables
  value |= bit(47, nests);             // first-stage tables
  value |= bit(48, scalable);          // walks snoop the processor's caches
  return value;
}

class Vtd final : public Model {
 public:
  Vtd()
      : Model("vtd", {.unitName = "dmar",
                      .apertures = {k48Bits},
                      .reserved = {kX86Messages},
                      .pageSizes = 4 * kKiB | 2 * kMiB | kGiB,
                      .isolatesInterrupts = true}) {}

  [[nodiscard]] const GuestFormat* format() const override { return &vtdFirstStage(); }
  [[nodiscard]] bool sharesTables() const override { return true; }

  [[nodiscard]] LeafRules leaves(const Services& host) const override {
    // Until 6.19 the driver marked every entry as present with the bit that means readable. The other rule
    // follows from an erratum of the hardware: guests' accesses can write through a parent's read-only
    // entry.
    return {.writableIsReadable = !host.since(6, 19), .parentsAreWritable = true};
  }

  [[nodiscard]] std::optional<HwInfo> describe(const Services&, const Unit& unit, uint32_t) const override {
    uapi::iommu_hw_info_vtd data = {};
    // Linux sets this on every unit, since some units have the erratum.
    data.flags = uapi::IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17;
    data.cap_reg = capabilities(unit);
    data.ecap_reg = extendedCapabilities(unit);
    return hwInfo(uapi::IOMMU_HW_INFO_TYPE_INTEL_VTD, data);
  }

  // The values are those that Linux shows in the guest.
  [[nodiscard]] std::vector<Attribute> attributes() const override {
    return {{"intel-iommu/version", "1:0\n"},
            {"intel-iommu/address", "fed90000\n"},
            {"intel-iommu/cap", "d2008c222f0686\n"},
            {"intel-iommu/ecap", "f00f4e\n"},
            {"intel-iommu/domains_supported", "65536\n"}};
  }
};

}  // namespace

const Model& vtd() {
  static const Vtd kModel;
  return kModel;
}

}  // namespace vfio::soft::iommu::models
