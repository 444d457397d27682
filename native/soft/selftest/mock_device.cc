#include "mock_device.h"

#include "../iommufd/context.h"
#include "mock_unit.h"

namespace vfio::soft::selftest {

MockDevice::MockDevice(iommufd::Context& context, uint32_t flags)
    : Object(kKind),
      context_(context),
      group_{.id = -1, .members = {}},
      endpoint_(context.host, "iommufd_mock", 0, mockUnit(flags), group_) {
  endpoint_.pageRequests = true;
}

MockDevice::~MockDevice() {
  if (device_ != nullptr) iommufd::Device::unbind(*device_);
}

int MockDevice::bind() { return iommufd::Device::bind(context_, endpoint_, device_); }

int MockDevice::attach(uint32_t& ptId) {
  const bool again = device_->attached();
  return device_->change(again ? iommufd::Device::Change::replace : iommufd::Device::Change::attach, ptId);
}

}  // namespace vfio::soft::selftest
