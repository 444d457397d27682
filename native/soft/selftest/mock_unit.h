// The kernel's mock IOMMU. Its pages are half of the processor's and, for some devices, there are large ones
// of 512 times that; its aperture is 2 GiB less 16 MiB. It has dirty tracking, page requests, and nested
// tables that translate nothing but have a cache, whose content a test can check.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "../iommu/endpoint.h"
#include "../iommu/nested.h"
#include "test_command.h"

namespace vfio::soft::selftest {

inline constexpr uint64_t kMockPage = 2048;

// The mock IOMMU in front of a mock device with these flags (kDeviceNoDirty, kDeviceHugeIova).
[[nodiscard]] iommu::Unit& mockUnit(uint32_t flags);
[[nodiscard]] bool isMock(const iommu::Unit& unit);

class MockTable final : public iommu::NestedTable {
 public:
  MockTable(std::shared_ptr<iommu::Domain> parent, uint32_t word);

  [[nodiscard]] Reach reach(uint64_t iova, uint64_t limit, uint32_t access) override;
  [[nodiscard]] int suits(const iommu::Unit& unit) const override { return isMock(unit) ? 0 : -EINVAL; }
  [[nodiscard]] int runCommands(iommu::UserArray& array) override;

  [[nodiscard]] const std::array<uint32_t, kIotlbWords>& iotlb() const { return iotlb_; }

 private:
  std::array<uint32_t, kIotlbWords> iotlb_;
};

}  // namespace vfio::soft::selftest
