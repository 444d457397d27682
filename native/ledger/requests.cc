#include "requests.h"

#include "../uapi/iommufd.h"
#include "../uapi/vfio.h"

namespace vfio::ledger {

int unmapIoas(const OpenFile& file, uint32_t ioas, uint64_t start, uint64_t length, uint64_t& bytes) {
  uapi::iommu_ioas_unmap command{};
  command.size = sizeof command;
  command.ioas_id = ioas;
  command.iova = start;
  command.length = length;
  const int result = file.ioctl(uapi::IOMMU_IOAS_UNMAP, &command);
  bytes = result < 0 ? 0 : command.length;
  return result;
}

int unmapContainer(const OpenFile& file, uint64_t start, uint64_t length, uint64_t& bytes) {
  uapi::vfio_iommu_type1_dma_unmap command{};
  command.argsz = sizeof command;
  command.iova = start;
  command.size = length;
  if (start == 0 && length == UINT64_MAX) {
    command.flags = uapi::VFIO_DMA_UNMAP_FLAG_ALL;
    command.size = 0;
  }
  const int result = file.ioctl(uapi::VFIO_IOMMU_UNMAP_DMA, &command);
  bytes = result < 0 ? 0 : command.size;
  return result;
}

int destroyObject(const OpenFile& file, uint32_t id) {
  uapi::iommu_destroy command{};
  command.size = sizeof command;
  command.id = id;
  return file.ioctl(uapi::IOMMU_DESTROY, &command);
}

int compatIoas(const OpenFile& file, uint32_t& id) {
  uapi::iommu_vfio_ioas command{};
  command.size = sizeof command;
  command.op = uapi::IOMMU_VFIO_IOAS_GET;
  const int result = file.ioctl(uapi::IOMMU_VFIO_IOAS, &command);
  id = command.ioas_id;
  return result;
}

bool hugePages(const OpenFile& file, uint32_t ioas) {
  uapi::iommu_option command{};
  command.size = sizeof command;
  command.option_id = uapi::IOMMU_OPTION_HUGE_PAGES;
  command.op = uapi::IOMMU_OPTION_OP_GET;
  command.object_id = ioas;
  return file.ioctl(uapi::IOMMU_OPTION, &command) < 0 || command.val64 != 0;
}

int containerIommu(const OpenFile& file) {
  uapi::vfio_iommu_type1_info command{};
  command.argsz = sizeof command;
  return file.ioctl(uapi::VFIO_IOMMU_GET_INFO, &command);
}

}  // namespace vfio::ledger
