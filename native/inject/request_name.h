// The name of a request on a kind of file, as messages have it. The names are those of native/uapi/names.h.
#pragma once

#include <string_view>

#include "../backend.h"
#include "../uapi/names.h"

namespace vfio::inject {

// nullptr: that kind of file has no such request.
constexpr const char* requestName(FileKind kind, uint32_t request) {
  switch (kind) {
    case FileKind::iommufd:
      return uapi::iommufdRequestName(request);
    case FileKind::container:
      return uapi::vfioContainerRequestName(request);
    case FileKind::group:
      return uapi::vfioGroupRequestName(request);
    case FileKind::device:
      return uapi::vfioDeviceRequestName(request);
    default:
      return nullptr;
  }
}

// Does this request only give back what another one has taken?
constexpr bool cleansUp(FileKind kind, uint32_t request) {
  switch (kind) {
    case FileKind::iommufd:
      return request == uapi::IOMMU_DESTROY || request == uapi::IOMMU_IOAS_UNMAP ||
             request == uapi::VFIO_IOMMU_UNMAP_DMA;
    case FileKind::container:
      return request == uapi::VFIO_IOMMU_UNMAP_DMA;
    case FileKind::group:
      return request == uapi::VFIO_GROUP_UNSET_CONTAINER;
    case FileKind::device:
      return request == uapi::VFIO_DEVICE_DETACH_IOMMUFD_PT;
    default:
      return false;
  }
}

// Does any kind of file have a request of this name? All requests are _IO(';', number), with the number in
// the low byte.
constexpr bool isRequest(std::string_view name) {
  constexpr uint32_t kType = uint32_t{';'} << 8;
  for (const FileKind kind : {FileKind::iommufd, FileKind::group, FileKind::device}) {
    for (uint32_t number = 0; number < 256; ++number) {
      const char* const found = requestName(kind, kType | number);
      if (found != nullptr && name == found) return true;
    }
  }
  return false;
}
static_assert(isRequest("IOMMU_IOAS_MAP") && isRequest("VFIO_SET_IOMMU") && !isRequest("IOMMU_IOAS"));

}  // namespace vfio::inject
