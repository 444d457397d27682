#include "mock_unit.h"

#include <cerrno>
#include <cstring>

#include "../iommu/guest_format.h"
#include "../iommu/model.h"

namespace vfio::soft::selftest {
namespace {

constexpr uint64_t kHugePage = 512 * kMockPage;

class MockFormat final : public iommu::GuestFormat {
 public:
  MockFormat() : GuestFormat("mock") {}
  [[nodiscard]] bool nestsOnDomains() const override { return true; }
  [[nodiscard]] int makeTable(const iommu::Unit&, const std::shared_ptr<iommu::Domain>& parent,
                              const iommu::UserData& data,
                              std::shared_ptr<iommu::NestedTable>& out) const override {
    if (data.type != kHwptDataType) return -EOPNOTSUPP;
    HwptData config = {};
    if (const int error = data.copy(kHwptDataType, &config, sizeof(config)); error != 0) return error;
    out = std::make_shared<MockTable>(parent, config.iotlb);
    return 0;
  }
};

const MockFormat& mockFormat() {
  static const MockFormat kFormat;
  return kFormat;
}

class MockModel final : public iommu::Model {
 public:
  MockModel() : Model("mock", {}) {}
  [[nodiscard]] const iommu::GuestFormat* format() const override { return &mockFormat(); }
  [[nodiscard]] iommu::LeafRules leaves(const Services&) const override { return {.noAccess = true}; }
  [[nodiscard]] uint64_t walkable(const iommu::Unit& unit) const override {
    return unit.pageSizes | kHugePage;
  }
  [[nodiscard]] std::optional<iommu::HwInfo> describe(const Services&, const iommu::Unit&,
                                                      uint32_t) const override {
    const HwInfo registers = {.flags = 0, .testRegister = kHwInfoRegister};
    iommu::HwInfo info = {kHwInfoType, std::vector<unsigned char>(sizeof(registers))};
    std::memcpy(info.data.data(), &registers, sizeof(registers));
    return info;
  }
};

const MockModel& mockModel() {
  static const MockModel kModel;
  return kModel;
}

iommu::Unit makeUnit(uint32_t flags) {
  return {.model = mockModel(),
          .name = "iommufd_mock",
          .aperture = {uint64_t{1} << 24, (uint64_t{1} << 31) - 1},
          .pageSizes = kMockPage | ((flags & kDeviceHugeIova) != 0 ? kHugePage : 0),
          .reserved = {},
          .isolatesInterrupts = true,
          .tracksDirty = (flags & kDeviceNoDirty) == 0,
          .pageRequests = iommu::PageRequestKind::pri,
          .nesting = &mockFormat()};
}

}  // namespace

// Units never change, and page tables outlive devices: so one unit of each kind is made, and never destroyed.
iommu::Unit& mockUnit(uint32_t flags) {
  static std::array<iommu::Unit, 4> units = {makeUnit(0), makeUnit(1), makeUnit(2), makeUnit(3)};
  return units[flags];
}

bool isMock(const iommu::Unit& unit) { return &unit.model == &mockModel(); }

MockTable::MockTable(std::shared_ptr<iommu::Domain> itsParent, uint32_t word)
    : NestedTable(std::move(itsParent)) {
  iotlb_.fill(word);
}

iommu::Translation::Reach MockTable::reach(uint64_t, uint64_t, uint32_t) {
  return {.reason = "a mock table translates nothing"};
}

int MockTable::runCommands(iommu::UserArray& array) {
  if (array.type != kInvalidateDataType) return -EINVAL;
  for (uint32_t at = 0; at < array.entries; ++at) {
    InvalidateEntry entry = {};
    if (const int error = array.copy(kInvalidateDataType, at, &entry, sizeof(entry)); error != 0) {
      return error;
    }
    if ((entry.flags & ~kInvalidateAll) != 0) return -EOPNOTSUPP;
    if (entry.iotlbId >= kIotlbWords) return -EINVAL;
    if ((entry.flags & kInvalidateAll) != 0) {
      iotlb_.fill(0);
    } else {
      iotlb_[entry.iotlbId] = 0;
    }
    ++array.handled;
  }
  return 0;
}

}  // namespace vfio::soft::selftest
