// The kernel's mock device: alone in its group, behind a mock unit with pages of half the processor's, bound
// and attached as a real one would be. It does nothing by itself; the test-only command speaks for it.
//
// Life: made by the command in a context, removed by DESTROY of its id or with the context, which detaches
// and unbinds it. What it is bound as is an ordinary Device object, which nobody else may remove.
#pragma once

#include <cstdint>
#include <memory>

#include "../iommu/endpoint.h"
#include "../iommufd/device.h"
#include "../iommufd/object.h"

namespace vfio::soft::selftest {

class MockDevice final : public iommufd::Object {
 public:
  static constexpr iommufd::ObjectKind kKind = iommufd::ObjectKind::selftest;
  // `flags` are kDeviceNoDirty and kDeviceHugeIova.
  MockDevice(iommufd::Context& context, uint32_t flags);
  ~MockDevice() override;

  // 0 or -errno.
  [[nodiscard]] int bind();
  // Attaches, or replaces: 0 and the page table in use, or -errno.
  [[nodiscard]] int attach(uint32_t& ptId);

  [[nodiscard]] iommufd::Device& device() { return *device_; }

 private:
  iommufd::Context& context_;
  iommu::Group group_;
  iommu::Endpoint endpoint_;
  iommufd::Device* device_ = nullptr;
};

}  // namespace vfio::soft::selftest
