#include "mock_device.h"

#include <array>
#include <cstring>
#include <string_view>

#include "../iommufd/context.h"
#include "test_command.h"

namespace vfio::soft::selftest {
namespace {

constexpr std::string_view kUnitName = "iommufd_mock";

constexpr uint64_t kPage = 2048;
constexpr uint64_t kHugePage = 512 * kPage;

iommu::HwInfo describe(const iommu::Unit&) {
  const HwInfo registers = {.flags = 0, .testRegister = kHwInfoRegister};
  iommu::HwInfo info = {kHwInfoType, std::vector<unsigned char>(sizeof(registers))};
  std::memcpy(info.data.data(), &registers, sizeof(registers));
  return info;
}

iommu::Unit makeUnit(uint32_t flags) {
  return {.name = std::string(kUnitName),
          .aperture = {uint64_t{1} << 24, (uint64_t{1} << 31) - 1},
          .pageSizes = kPage | ((flags & kDeviceHugeIova) != 0 ? kHugePage : 0),
          .reserved = {},
          .enforcesCoherency = false,
          .isolatesInterrupts = true,
          .tracksDirty = (flags & kDeviceNoDirty) == 0,
          .nests = true,
          .allowsNoAccess = true,
          .walksToo = kHugePage,
          .describe = describe};
}

// What the mock devices are behind, by their flags. Units never change, and page tables outlive devices.
iommu::Unit& unitOf(uint32_t flags) {
  static std::array<iommu::Unit, 4> units = {makeUnit(0), makeUnit(1), makeUnit(2), makeUnit(3)};
  return units[flags];
}

}  // namespace

MockDevice::MockDevice(iommufd::Context& context, uint32_t flags)
    : Object(kKind),
      context_(context),
      group_{.id = -1, .members = {}},
      endpoint_(context.host, "iommufd_mock", 0, unitOf(flags), group_) {}

MockDevice::~MockDevice() {
  if (device_ == nullptr) return;
  device_->detach();
  iommufd::Device::unbind(*device_);
}

int MockDevice::bind() { return iommufd::Device::bind(context_, endpoint_, device_); }

int MockDevice::attach(uint32_t& ptId) { return device_->change(ptId); }

bool isMock(const iommu::Endpoint& endpoint) { return endpoint.unit.name == kUnitName; }

}  // namespace vfio::soft::selftest
