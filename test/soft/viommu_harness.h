// Shared code of the checks of virtual IOMMUs: an edu behind an SMMUv3, a nest parent, and short forms of the
// requests.
#pragma once

#include "machine_harness.h"

namespace vfio::soft::check {

inline iommu::Unit smmu(bool commandQueues = false,
                        iommu::PageRequestKind requests = iommu::PageRequestKind::none) {
  return iommu::makeUnit(
      {.model = &iommu::models::smmuv3(), .pageRequests = requests, .commandQueues = commandQueues});
}

constexpr uint32_t kArm = uapi::IOMMU_VIOMMU_TYPE_ARM_SMMUV3;
constexpr uint32_t kTegra = uapi::IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV;
constexpr uint64_t kStream = 0x1234;  // the guest's stream id of the edu

// The machine, with an address space and a nest parent that is allocated from it.
class SmmuMachine : public EduMachine {
 public:
  explicit SmmuMachine(KernelVersion kernel = kNewestKernel, iommu::Unit itsUnit = smmu())
      : EduMachine(kernel, std::move(itsUnit)), id(device->id()), ioas(fd.ioas()) {
    (void)fd.hwpt(id, ioas, parent, uapi::IOMMU_HWPT_ALLOC_NEST_PARENT);
  }
  int viommu(uint32_t& out, uint32_t type = kArm, uint32_t pt = 0) {
    uapi::iommu_viommu_alloc alloc = {};
    alloc.size = sizeof(alloc);
    alloc.type = type;
    alloc.dev_id = id;
    alloc.hwpt_id = pt != 0 ? pt : parent;
    uapi::iommu_viommu_tegra241_cmdqv told = {};
    if (type == kTegra) {
      alloc.data_len = sizeof(told);
      alloc.data_uptr = reinterpret_cast<uint64_t>(&told);
    }
    const int result = fd.call(uapi::IOMMU_VIOMMU_ALLOC, alloc);
    out = alloc.out_viommu_id;
    interface = told;
    return result;
  }
  int vdevice(uint32_t viommu, uint64_t name, uint32_t& out, uint32_t device = 0) {
    uapi::iommu_vdevice_alloc alloc = {sizeof(alloc), viommu, device != 0 ? device : id, 0, name};
    const int result = fd.call(uapi::IOMMU_VDEVICE_ALLOC, alloc);
    out = alloc.out_vdevice_id;
    return result;
  }
  int events(uint32_t viommu, uint32_t type, uint32_t depth, uint32_t& out, int& file) {
    uapi::iommu_veventq_alloc alloc = {sizeof(alloc), 0, viommu, type, depth, 0, 0, 0};
    const int result = fd.call(uapi::IOMMU_VEVENTQ_ALLOC, alloc);
    out = alloc.out_veventq_id;
    file = static_cast<int>(alloc.out_veventq_fd);
    return result;
  }
  int nested(uint32_t pt, uint64_t ste0, uint64_t ste1, uint32_t& out, uint32_t flags = 0) {
    uapi::iommu_hwpt_arm_smmuv3 data = {{ste0, ste1}};
    uapi::iommu_hwpt_alloc alloc = {};
    alloc.size = sizeof(alloc);
    alloc.flags = flags;
    alloc.dev_id = id;
    alloc.pt_id = pt;
    alloc.data_type = uapi::IOMMU_HWPT_DATA_ARM_SMMUV3;
    alloc.data_len = sizeof(data);
    alloc.data_uptr = reinterpret_cast<uint64_t>(&data);
    const int result = fd.call(uapi::IOMMU_HWPT_ALLOC, alloc);
    out = alloc.out_hwpt_id;
    return result;
  }
  int queue(uint32_t viommu, uint32_t index, uint64_t iova, uint64_t length, uint32_t& out) {
    uapi::iommu_hw_queue_alloc alloc = {sizeof(alloc), 0, viommu, uapi::IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV,
                                        index,         0, iova,   length};
    const int result = fd.call(uapi::IOMMU_HW_QUEUE_ALLOC, alloc);
    out = alloc.out_hw_queue_id;
    return result;
  }

  const uint32_t id;
  const uint32_t ioas;
  uint32_t parent = 0;
  uapi::iommu_viommu_tegra241_cmdqv interface = {};
};

inline short polled(int file) {
  pollfd state = {file, POLLIN | POLLOUT, 0};
  return poll(&state, 1, 0) >= 0 ? state.revents : static_cast<short>(-1);
}

}  // namespace vfio::soft::check
