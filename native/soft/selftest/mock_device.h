// The kernel's mock device: alone in its group, behind a mock IOMMU whose pages are half of the processor's.
// It is bound and attached like a real device. It does nothing by itself; the test-only command acts for it.
//
// Life: the command makes it in a context. DESTROY of its id, or the end of the context, removes it, which
// detaches and unbinds it. Its binding is an ordinary Device object, which only this one may remove.
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
  // Attaches it, or replaces its page table: 0 and the page table in use, or -errno.
  [[nodiscard]] int attach(uint32_t& ptId);

  [[nodiscard]] iommufd::Device& device() { return *device_; }

 private:
  iommufd::Context& context_;
  iommu::Group group_;
  iommu::Endpoint endpoint_;
  iommufd::Device* device_ = nullptr;
};

}  // namespace vfio::soft::selftest
