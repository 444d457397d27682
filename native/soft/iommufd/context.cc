#include "context.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "../../uapi/iommufd.h"
#include "../host.h"
#include "../mm/memory.h"
#include "command.h"
#include "iommufd.h"

namespace vfio::soft::iommufd {
namespace {

int destroy(Command& command) { return command.context.remove(command.as<uapi::iommu_destroy>().id); }

struct Entry {
  uint32_t request;
  uint32_t size;
  uint32_t minimum;
  Handler handle;
};

// The commands in the order of their numbers. Numbers behind the last one are unknown, as in a kernel that
// hasn't got them: dirty tracking (0x8b) and what came after it.
constexpr uint32_t kFirst = 0x80;
constexpr Entry kCommands[] = {
    {uapi::IOMMU_DESTROY, sizeof(uapi::iommu_destroy), sizeof(uapi::iommu_destroy), destroy},
    {uapi::IOMMU_IOAS_ALLOC, sizeof(uapi::iommu_ioas_alloc), sizeof(uapi::iommu_ioas_alloc), ioasAlloc},
    {uapi::IOMMU_IOAS_ALLOW_IOVAS, sizeof(uapi::iommu_ioas_allow_iovas), sizeof(uapi::iommu_ioas_allow_iovas),
     ioasAllowIovas},
    {uapi::IOMMU_IOAS_COPY, sizeof(uapi::iommu_ioas_copy), sizeof(uapi::iommu_ioas_copy), ioasCopy},
    {uapi::IOMMU_IOAS_IOVA_RANGES, sizeof(uapi::iommu_ioas_iova_ranges), sizeof(uapi::iommu_ioas_iova_ranges),
     ioasIovaRanges},
    {uapi::IOMMU_IOAS_MAP, sizeof(uapi::iommu_ioas_map), sizeof(uapi::iommu_ioas_map), ioasMap},
    {uapi::IOMMU_IOAS_UNMAP, sizeof(uapi::iommu_ioas_unmap), sizeof(uapi::iommu_ioas_unmap), ioasUnmap},
    {uapi::IOMMU_OPTION, sizeof(uapi::iommu_option), sizeof(uapi::iommu_option), option},
    {uapi::IOMMU_VFIO_IOAS, sizeof(uapi::iommu_vfio_ioas), sizeof(uapi::iommu_vfio_ioas), vfioIoas},
    {uapi::IOMMU_HWPT_ALLOC, sizeof(uapi::iommu_hwpt_alloc), uapi::iommu_hwpt_alloc_min, hwptAlloc},
    {uapi::IOMMU_GET_HW_INFO, sizeof(uapi::iommu_hw_info), uapi::iommu_hw_info_min, getHwInfo},
};

constexpr size_t kLargest =
    std::max_element(std::begin(kCommands), std::end(kCommands), [](const Entry& a, const Entry& b) {
      return a.size < b.size;
    })->size;

// The struct as this kernel knows it: a shorter one is continued with zeroes, a longer one must be zero where
// it goes on.
int copyStruct(void* to, size_t size, UserAddress user, uint32_t userSize) {
  const size_t common = std::min<size_t>(size, userSize);
  if (userSize > size) {
    const int zero = mm::Memory::allZero(user + size, userSize - size);
    if (zero < 0) return zero;
    if (zero == 0) return -E2BIG;
  }
  std::memset(to, 0, size);
  return mm::Memory::copyIn(to, user, common);
}

}  // namespace

int Command::respond(size_t size) const {
  return mm::Memory::copyOut(user, bytes, std::min<size_t>(size, userSize));
}

Context::~Context() { objects.removeAll(); }

int Context::ioctl(unsigned long request, UserAddress argument) {
  const auto number = static_cast<uint32_t>(request);
  const uint32_t nr = number & 0xff;
  if (nr < kFirst || nr - kFirst >= std::size(kCommands)) return vfioRequest(*this, number, argument);

  uint32_t userSize = 0;
  if (mm::Memory::copyIn(&userSize, argument, sizeof(userSize)) != 0) return -EFAULT;
  const Entry& entry = kCommands[nr - kFirst];
  if (entry.request != number) return -ENOTTY;
  if (userSize < entry.minimum) return -EINVAL;
  alignas(8) unsigned char bytes[kLargest];
  if (const int error = copyStruct(bytes, entry.size, argument, userSize); error != 0) return error;
  Command command = {*this, argument, userSize, bytes};
  return entry.handle(command);
}

int Context::remove(uint32_t id) {
  const Object* const object = objects.find(id);
  const bool wasVfio = object != nullptr && object == vfioIoas;
  const int error = objects.remove(id);
  if (error == 0 && wasVfio) vfioIoas = nullptr;
  return error;
}

std::shared_ptr<DeviceGroup> Context::group(iommu::Group& group) {
  std::weak_ptr<DeviceGroup>& slot = groups_[&group];
  std::shared_ptr<DeviceGroup> state = slot.lock();
  if (state == nullptr) {
    state = std::make_shared<DeviceGroup>(group);
    slot = state;
  }
  return state;
}

std::shared_ptr<File> openIommufd(Host& host) { return std::make_shared<Context>(host, AccountMode::user); }

}  // namespace vfio::soft::iommufd
