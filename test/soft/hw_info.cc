// GET_HW_INFO of every kind of unit and of every release that changed it.
#include <array>

#include "iommufd_harness.h"

namespace vfio::soft::check {
namespace {

using iommu::makeUnit;
using iommu::UnitDescription;
namespace models = iommu::models;

// One device behind a unit of this description. It is bound to an iommufd.
struct Bound {
  Bound(KernelVersion kernel, const UnitDescription& model)
      : host(std::make_shared<mm::Memory>(), {.kernel = kernel}), unit(makeUnit(model)), fd(host) {
    result = iommufd::bind(fd.file, endpoint, device);
  }
  struct Answer {
    int result;
    uapi::iommu_hw_info info;
    std::array<unsigned char, 64> data;
  };
  Answer ask(uint32_t length = 64, uint32_t flags = 0, uint32_t type = 0) {
    Answer answer = {};
    answer.data.fill(0xaa);
    answer.info.size = sizeof(answer.info);
    answer.info.flags = flags;
    answer.info.dev_id = device->id();
    answer.info.data_len = length;
    answer.info.data_uptr = reinterpret_cast<uint64_t>(answer.data.data());
    answer.info.in_data_type = type;
    answer.result = fd.call(uapi::IOMMU_GET_HW_INFO, answer.info);
    return answer;
  }
  template <class Data>
  Data registers() {
    const Answer answer = ask();
    Data data = {};
    if (answer.result == 0 && answer.info.data_len == sizeof(data)) {
      std::memcpy(&data, answer.data.data(), sizeof(data));
    }
    return data;
  }

  Host host;
  iommu::Unit unit;
  iommu::Group group = {.id = 0, .members = {}};
  iommu::Endpoint endpoint{host, "0000:00:10.0", 0x80, unit, group};
  Fd fd;
  std::unique_ptr<iommufd::BoundDevice> device;
  int result = 0;
};

// The answers of Linux 6.12 in the guest for its edu behind QEMU's VT-d, for every length of the buffer.
void vtd612() {
  constexpr unsigned char kData[] = {0x01, 0,    0,    0,    0,    0,    0,    0, 0x86, 0x06, 0x2f, 0x22,
                                     0x8c, 0x00, 0xd2, 0x00, 0x4e, 0x0f, 0xf0, 0, 0,    0,    0,    0};
  Bound bound({6, 12}, {.model = &models::vtd()});
  for (const uint32_t length : {0U, 4U, 8U, 20U, 23U, 24U, 28U, 64U}) {
    const auto answer = bound.ask(length);
    bool same = answer.result == 0 && answer.info.data_len == 24 &&
                answer.info.out_data_type == uapi::IOMMU_HW_INFO_TYPE_INTEL_VTD &&
                answer.info.out_max_pasid_log2 == 0 && answer.info.out_capabilities == 0;
    for (uint32_t at = 0; at < answer.data.size(); ++at) {
      const unsigned char expected = at >= length ? 0xaa : at < sizeof(kData) ? kData[at] : 0;
      same = same && answer.data[at] == expected;
    }
    claim("VT-d of 6.12 into " + std::to_string(length) + " bytes is the guest's (59)", same);
  }
  claim("a flag is EOPNOTSUPP", -EOPNOTSUPP, bound.ask(64, uapi::IOMMU_HW_INFO_FLAG_INPUT_TYPE, 1).result);
  claim("what comes in as a type is nothing without the flag", 0, bound.ask(64, 0, 77).result);
  uapi::iommu_hw_info info = {};
  info.size = sizeof(info);
  info.dev_id = bound.device->id();
  info.data_len = 4;
  info.data_uptr = 8;
  claim("a bad buffer is EFAULT", -EFAULT, bound.fd.call(uapi::IOMMU_GET_HW_INFO, info));
  info.data_len = 0;
  claim("... unless it has no length (59)", 0, bound.fd.call(uapi::IOMMU_GET_HW_INFO, info));
  info.__reserved[1] = 1;
  claim("reserved bytes are EOPNOTSUPP", -EOPNOTSUPP, bound.fd.call(uapi::IOMMU_GET_HW_INFO, info));
  info.__reserved[1] = 0;
  info.dev_id = 99;
  claim("an unknown device is ENOENT", -ENOENT, bound.fd.call(uapi::IOMMU_GET_HW_INFO, info));
}

void vtdScalable() {
  Bound bound(kNewestKernel, {.model = &models::vtd(),
                              .pasidBits = 20,
                              .pageRequests = iommu::PageRequestKind::pri,
                              .nesting = {{models::vtd().format()}},
                              .dirtyTracking = true});
  const auto data = bound.registers<uapi::iommu_hw_info_vtd>();
  const auto ecap = [&](unsigned at) { return (data.ecap_reg >> at & 1) != 0; };
  claim("D5: scalable mode, first-stage and nested tables", ecap(43) && ecap(47) && ecap(26));
  claim("... PASIDs of 20 bits, page requests, dirty bits",
        ecap(40) && (data.ecap_reg >> 35 & 31) == 19 && ecap(29) && ecap(45));
}

void smmuv3() {
  Bound old({6, 12}, {.model = &models::smmuv3()});
  claim("SMMUv3 tells nothing before 6.13", 0, static_cast<int64_t>(old.ask().info.data_len));
  claim("... and that has no type", 0, static_cast<int64_t>(old.ask().info.out_data_type));
  Bound bound({6, 13}, {.model = &models::smmuv3()});
  const auto data = bound.registers<uapi::iommu_hw_info_arm_smmuv3>();
  claim("D5: SMMUv3 of 6.13 has both stages and tables of AArch64", (data.idr[0] & 0xf) == 0xb);
  claim("... and dirty bits, and no stalls", (data.idr[0] >> 6 & 3) == 2 && (data.idr[0] >> 24 & 3) == 1);
  claim("... PASIDs of 20 bits, forced write-back, the 4 KiB granule, 48 bits",
        (data.idr[1] >> 6 & 31) == 20 && (data.idr[3] >> 8 & 1) == 1 && data.idr[5] == (1 << 4 | 5));
  claim("its type", uapi::IOMMU_HW_INFO_TYPE_ARM_SMMUV3, bound.ask().info.out_data_type);
  claim("dirty tracking is a capability", uapi::IOMMU_HW_CAP_DIRTY_TRACKING,
        static_cast<int64_t>(bound.ask().info.out_capabilities));
  Bound plain(kNewestKernel, {.model = &models::smmuv3(),
                              .apertures = {{{0, (uint64_t{1} << 40) - 1}}},
                              .pageRequests = iommu::PageRequestKind::stall,
                              .nesting = std::vector<const iommu::GuestFormat*>{},
                              .dirtyTracking = false});
  const auto less = plain.registers<uapi::iommu_hw_info_arm_smmuv3>();
  claim("without nesting it has one stage", (less.idr[0] & 3) == 2 && (less.idr[3] >> 8 & 1) == 0);
  claim("without dirty bits it doesn't say so", (less.idr[0] >> 6 & 3) == 0);
  claim("it stalls if it was made to", (less.idr[0] >> 24 & 3) == 0);
  claim("40 bits", (less.idr[5] & 7) == 2);
}

void amd() {
  Bound old({6, 12}, {.model = &models::amd()});
  const auto answer = old.ask(32);
  claim("AMD of 6.12 tells nothing, as in the guest", 0, static_cast<int64_t>(answer.info.data_len));
  claim("... but success, and a buffer of zeroes",
        answer.result == 0 && answer.data[0] == 0 && answer.data[31] == 0 && answer.data[32] == 0xaa);
  Bound bound({7, 0}, {.model = &models::amd(), .pasidBits = 16, .dirtyTracking = true});
  const auto data = bound.registers<uapi::iommu_hw_info_amd>();
  claim("AMD of 7.0 has its features", uapi::IOMMU_HW_INFO_TYPE_AMD, bound.ask().info.out_data_type);
  claim("... guest translation with 16-bit PASIDs, dirty bits",
        (data.efr >> 4 & 1) == 1 && (data.efr >> 32 & 31) == 15 && (data.efr >> 52 & 1) == 1);
}

void wantedTypes() {
  constexpr uint32_t kFlag = uapi::IOMMU_HW_INFO_FLAG_INPUT_TYPE;
  constexpr uint32_t kQueues = uapi::IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV;
  Bound bound({6, 17}, {.model = &models::smmuv3(), .commandQueues = true});
  claim("6.17: by its own type", 40, static_cast<int64_t>(bound.ask(64, kFlag, 2).info.data_len));
  claim("... by the default one", 2, static_cast<int64_t>(bound.ask(64, kFlag, 0).info.out_data_type));
  const auto queues = bound.ask(64, kFlag, kQueues);
  claim("... by its command queues'", kQueues, queues.info.out_data_type);
  claim("... which are two a virtual IOMMU", queues.info.data_len == 8 && queues.data[5] == 1);
  claim("... by another: EOPNOTSUPP", -EOPNOTSUPP, bound.ask(64, kFlag, 1).result);
  claim("another flag: EOPNOTSUPP", -EOPNOTSUPP, bound.ask(64, 2).result);
  Bound none({6, 17}, {.model = &models::smmuv3()});
  claim("no command queues: EOPNOTSUPP", -EOPNOTSUPP, none.ask(64, kFlag, kQueues).result);
  Bound ppc(kNewestKernel, {.model = &models::ppc()});
  claim("a unit whose driver tells nothing: type 0, whatever was wanted", 0,
        static_cast<int64_t>(ppc.ask(64, kFlag, 1).info.out_data_type));
}

void capabilities() {
  for (const KernelVersion kernel : {KernelVersion{6, 11}, {6, 12}, {7, 0}, {7, 1}}) {
    Bound bound(kernel, {.model = &models::vtd(), .pasidBits = 20});
    bound.endpoint.pasidBits = 16;
    bound.endpoint.pasidsExecute = bound.endpoint.pasidsPrivileged = true;
    const auto info = bound.ask().info;
    const std::string name = std::to_string(kernel.major) + "." + std::to_string(kernel.minor);
    const bool pasids = kernel >= KernelVersion{6, 12};
    claim(name + ": bits of PASIDs, the smaller of device's and unit's", pasids ? 16 : 0,
          info.out_max_pasid_log2);
    uint64_t expected = 0;
    if (pasids) expected = uapi::IOMMU_HW_CAP_PCI_PASID_EXEC | uapi::IOMMU_HW_CAP_PCI_PASID_PRIV;
    if (kernel >= KernelVersion{7, 1}) expected |= uapi::IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED;
    claim(name + ": capabilities", static_cast<int64_t>(expected),
          static_cast<int64_t>(info.out_capabilities));
  }
}

}  // namespace
}  // namespace vfio::soft::check

int main() {
  using namespace vfio::soft::check;
  vtd612();
  vtdScalable();
  smmuv3();
  amd();
  wantedTypes();
  capabilities();
  return failures == 0 ? 0 : 1;
}
