// GET_HW_INFO: describes the unit that a device is behind, as the drivers of the kernel's release do.
#include <algorithm>
#include <cerrno>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "../core/services.h"
#include "../iommu/model.h"
#include "../mm/memory.h"
#include "command.h"

namespace vfio::soft::iommufd {
namespace {

// Whether the driver of this unit tells anything in this release; if so, it knows `wanted` or doesn't:
// 0 or -EOPNOTSUPP.
int describe(const Services& host, const iommu::Unit& unit, uint32_t wanted, iommu::HwInfo& out) {
  const std::optional<iommu::HwInfo> told = unit.model.describe(host, unit, wanted);
  out = told.value_or(iommu::HwInfo{uapi::IOMMU_HW_INFO_TYPE_NONE, {}});
  if (!told) return 0;  // no driver is there to ask, so none refuses
  return wanted == uapi::IOMMU_HW_INFO_TYPE_DEFAULT || wanted == out.type ? 0 : -EOPNOTSUPP;
}

}  // namespace

int getHwInfo(Command& command) {
  auto& arguments = command.as<uapi::iommu_hw_info>();
  const Services& host = command.context.host;
  const uint32_t known = host.since(6, 17) ? uapi::IOMMU_HW_INFO_FLAG_INPUT_TYPE : 0;
  if ((arguments.flags & ~known) != 0) return -EOPNOTSUPP;
  if (std::ranges::any_of(arguments.__reserved, [](uint8_t byte) { return byte != 0; })) return -EOPNOTSUPP;
  // Before PASIDs were reported, the byte for their width was reserved too.
  const bool pasids = host.since(6, 12);
  if (!pasids && arguments.out_max_pasid_log2 != 0) return -EOPNOTSUPP;
  const Device* const device = command.context.objects.find<Device>(arguments.dev_id);
  if (device == nullptr) return -ENOENT;

  const iommu::Endpoint& endpoint = device->endpoint;
  const uint32_t wanted = arguments.flags != 0 ? arguments.in_data_type : uapi::IOMMU_HW_INFO_TYPE_DEFAULT;
  iommu::HwInfo info;
  if (const int error = describe(host, endpoint.unit, wanted, info); error != 0) return error;
  const auto size = static_cast<uint32_t>(info.data.size());
  const uint32_t copied = std::min(arguments.data_len, size);
  if (mm::Memory::copyOut(arguments.data_uptr, info.data.data(), copied) != 0) return -EFAULT;
  if (mm::Memory::clear(arguments.data_uptr + copied, arguments.data_len - copied) != 0) return -EFAULT;

  arguments.out_data_type = info.type;
  arguments.data_len = size;
  arguments.out_capabilities = endpoint.unit.tracksDirty ? uint64_t{uapi::IOMMU_HW_CAP_DIRTY_TRACKING} : 0;
  // No device model has a TLB of its own.
  if (host.since(7, 1)) arguments.out_capabilities |= uapi::IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED;
  arguments.out_max_pasid_log2 = 0;
  if (pasids && endpoint.usablePasidBits() != 0) {
    arguments.out_max_pasid_log2 = static_cast<uint8_t>(endpoint.usablePasidBits());
    if (endpoint.pasidsExecute) arguments.out_capabilities |= uapi::IOMMU_HW_CAP_PCI_PASID_EXEC;
    if (endpoint.pasidsPrivileged) arguments.out_capabilities |= uapi::IOMMU_HW_CAP_PCI_PASID_PRIV;
  }
  return command.respond(sizeof(arguments));
}

}  // namespace vfio::soft::iommufd
