// GET_HW_INFO: what a unit is. The units are VT-d, with registers as QEMU's model has them, derived from what
// the unit can do so that they never say anything else.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "../../uapi/iommufd.h"
#include "../../uapi/iommufd_data.h"
#include "../iommu/endpoint.h"
#include "../mm/memory.h"
#include "command.h"

namespace vfio::soft::iommufd {
namespace {

// The capability register.
uint64_t vtdCapabilities(const iommu::Unit& unit) {
  const auto width = static_cast<uint64_t>(std::bit_width(unit.aperture.last));
  uint64_t value = 6;                          // 2^16 domain ids
  value |= uint64_t{1} << 7;                   // caching mode
  value |= uint64_t{2} << 8;                   // 3-level tables
  if (width >= 48) value |= uint64_t{4} << 8;  // 4-level tables
  value |= (width - 1) << 16;                  // address width
  value |= uint64_t{0x220 / 16} << 24;         // where the fault registers are
  value |= (unit.pageSizes >> 21 & 1) << 34;   // 2 MiB pages
  value |= (unit.pageSizes >> 30 & 1) << 35;   // 1 GiB pages
  value |= uint64_t{1} << 39;                  // invalidation by page
  value |= uint64_t{18} << 48;                 // of at most 2^18 pages
  value |= uint64_t{3} << 54;                  // drains writes and reads
  return value;
}

// The extended capability register.
uint64_t vtdExtendedCapabilities(const iommu::Unit& unit) {
  uint64_t value = uint64_t{1} << 1;                       // queued invalidation
  value |= uint64_t{1} << 2;                               // device TLBs
  if (unit.isolatesInterrupts) value |= uint64_t{1} << 3;  // interrupt remapping
  value |= uint64_t{1} << 4;                               // x2APIC
  value |= uint64_t{1} << 6;                               // pass-through
  if (unit.enforcesCoherency) value |= uint64_t{1} << 7;   // snoop control
  value |= uint64_t{0xf} << 8;                             // where the IOTLB registers are
  value |= uint64_t{0xf} << 20;                            // largest handle mask
  return value;
}

iommu::HwInfo describeVtd(const iommu::Unit& unit) {
  uapi::iommu_hw_info_vtd registers = {};
  registers.cap_reg = vtdCapabilities(unit);
  registers.ecap_reg = vtdExtendedCapabilities(unit);
  iommu::HwInfo info = {uapi::IOMMU_HW_INFO_TYPE_INTEL_VTD, std::vector<unsigned char>(sizeof(registers))};
  std::memcpy(info.data.data(), &registers, sizeof(registers));
  return info;
}

}  // namespace

int getHwInfo(Command& command) {
  auto& arguments = command.as<uapi::iommu_hw_info>();
  if (arguments.flags != 0) return -EOPNOTSUPP;
  if (std::ranges::any_of(arguments.__reserved, [](uint8_t byte) { return byte != 0; })) return -EOPNOTSUPP;
  const Device* const device = command.context.objects.find<Device>(arguments.dev_id);
  if (device == nullptr) return -ENOENT;

  const iommu::Unit& unit = device->endpoint.unit;
  const iommu::HwInfo info = unit.describe != nullptr ? unit.describe(unit) : describeVtd(unit);
  const auto size = static_cast<uint32_t>(info.data.size());
  const uint32_t copied = std::min(arguments.data_len, size);
  if (mm::Memory::copyOut(arguments.data_uptr, info.data.data(), copied) != 0) return -EFAULT;
  if (mm::Memory::clear(arguments.data_uptr + copied, arguments.data_len - copied) != 0) return -EFAULT;

  arguments.out_data_type = info.type;
  arguments.data_len = size;
  arguments.out_capabilities = unit.tracksDirty ? uint64_t{uapi::IOMMU_HW_CAP_DIRTY_TRACKING} : 0;
  arguments.out_max_pasid_log2 = 0;
  return command.respond(sizeof(arguments));
}

}  // namespace vfio::soft::iommufd
