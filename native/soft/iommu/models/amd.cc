// AMD's IOMMU: QEMU's model of it, as Linux 6.12 finds it in the guest. Its driver has virtual IOMMUs from
// 7.0 on; how it uses guests' tables is not modelled.
#include "../../../uapi/iommufd.h"
#include "../../../uapi/iommufd_data.h"
#include "../../core/services.h"
#include "catalogue.h"
#include "values.h"

namespace vfio::soft::iommu::models {
namespace {

class AmdGuestTables final : public GuestFormat {
 public:
  AmdGuestTables() : GuestFormat("amd-guest") {}
  // The driver takes whatever type of virtual IOMMU it is given.
  [[nodiscard]] bool hasGuests(const Services& host) const override { return host.since(7, 0); }
};

class Amd final : public Model {
 public:
  Amd()
      : Model("amd", {.unitName = "ivhd",
                      .apertures = {kEverything},
                      .reserved = {kX86Messages, {{0xfd00000000, 0xffffffffff}, ReservedKind::reserved}},
                      .pageSizes = ((uint64_t{1} << 52) - 4 * kKiB) & ~(uint64_t{2} << 38),
                      .enforcesCoherency = true,
                      .isolatesInterrupts = true}) {}

  [[nodiscard]] const GuestFormat* format() const override {
    static const AmdGuestTables kFormat;
    return &kFormat;
  }
  [[nodiscard]] bool sharesTables() const override { return true; }

  [[nodiscard]] int allocates(const Unit& unit, uint32_t flags) const override {
    if ((flags & uapi::IOMMU_HWPT_ALLOC_PASID) != 0 && unit.pasidBits == 0) return -EOPNOTSUPP;
    return Model::allocates(unit, flags);
  }
  [[nodiscard]] bool attachesPasids() const override { return false; }

  [[nodiscard]] std::optional<HwInfo> describe(const Services& host, const Unit& unit,
                                               uint32_t) const override {
    if (!host.since(7, 0)) return std::nullopt;
    uapi::iommu_hw_info_amd data = {};
    data.efr = bit(1, unit.pageRequests == PageRequestKind::pri);
    data.efr |= bit(4, unit.nesting != nullptr || unit.pasidBits != 0);  // guest translation
    data.efr |= bit(6);                                                  // invalidation of everything
    data.efr |= uint64_t{2} << 10;                                       // host tables of six levels
    if (unit.pasidBits != 0) data.efr |= uint64_t{unit.pasidBits - 1} << 32;
    data.efr |= bit(49, unit.tracksDirty) | bit(52, unit.tracksDirty);
    return hwInfo(uapi::IOMMU_HW_INFO_TYPE_AMD, data);
  }
};

}  // namespace

const Model& amd() {
  static const Amd kModel;
  return kModel;
}

}  // namespace vfio::soft::iommu::models
