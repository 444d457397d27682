#include "context.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "../../uapi/iommufd.h"
#include "../core/services.h"
#include "../mm/memory.h"
#include "command.h"
#include "iommufd.h"
#include "virtual_interface.h"

namespace vfio::soft::iommufd {
namespace {

int destroy(Command& command) { return command.context.remove(command.as<uapi::iommu_destroy>().id); }

// The release from which on a struct has this size.
struct Size {
  uint32_t bytes;
  KernelVersion since;
};

struct Entry {
  uint32_t request;
  uint32_t minimum;
  Size sizes[3];  // newest first; the last one gives the release that added the command
  Handler handle;
};

// A command whose struct has not changed since the command was added.
template <class Struct>
constexpr Entry plain(uint32_t request, KernelVersion since, Handler handle) {
  return {request, sizeof(Struct), {{sizeof(Struct), since}}, handle};
}

constexpr KernelVersion kAlways = {6, 2};

// The commands in the order of their numbers, which is that of their releases. Numbers behind the last one
// that a kernel has are unknown to it.
constexpr uint32_t kFirst = 0x80;
constexpr Entry kCommands[] = {
    plain<uapi::iommu_destroy>(uapi::IOMMU_DESTROY, kAlways, destroy),
    plain<uapi::iommu_ioas_alloc>(uapi::IOMMU_IOAS_ALLOC, kAlways, ioasAlloc),
    plain<uapi::iommu_ioas_allow_iovas>(uapi::IOMMU_IOAS_ALLOW_IOVAS, kAlways, ioasAllowIovas),
    plain<uapi::iommu_ioas_copy>(uapi::IOMMU_IOAS_COPY, kAlways, ioasCopy),
    plain<uapi::iommu_ioas_iova_ranges>(uapi::IOMMU_IOAS_IOVA_RANGES, kAlways, ioasIovaRanges),
    plain<uapi::iommu_ioas_map>(uapi::IOMMU_IOAS_MAP, kAlways, ioasMap),
    plain<uapi::iommu_ioas_unmap>(uapi::IOMMU_IOAS_UNMAP, kAlways, ioasUnmap),
    plain<uapi::iommu_option>(uapi::IOMMU_OPTION, kAlways, option),
    plain<uapi::iommu_vfio_ioas>(uapi::IOMMU_VFIO_IOAS, kAlways, vfioIoas),
    {uapi::IOMMU_HWPT_ALLOC,
     uapi::iommu_hwpt_alloc_min,
     {{sizeof(uapi::iommu_hwpt_alloc), {6, 11}}, {40, {6, 7}}, {24, {6, 6}}},
     hwptAlloc},
    {uapi::IOMMU_GET_HW_INFO,
     uapi::iommu_hw_info_min,
     {{sizeof(uapi::iommu_hw_info), {6, 7}}, {32, {6, 6}}},
     getHwInfo},
    plain<uapi::iommu_hwpt_set_dirty_tracking>(uapi::IOMMU_HWPT_SET_DIRTY_TRACKING, {6, 7},
                                               hwptSetDirtyTracking),
    plain<uapi::iommu_hwpt_get_dirty_bitmap>(uapi::IOMMU_HWPT_GET_DIRTY_BITMAP, {6, 7}, hwptGetDirtyBitmap),
    plain<uapi::iommu_hwpt_invalidate>(uapi::IOMMU_HWPT_INVALIDATE, {6, 8}, hwptInvalidate),
    plain<uapi::iommu_fault_alloc>(uapi::IOMMU_FAULT_QUEUE_ALLOC, {6, 11}, faultQueueAlloc),
    plain<uapi::iommu_ioas_map_file>(uapi::IOMMU_IOAS_MAP_FILE, {6, 13}, ioasMapFile),
    {uapi::IOMMU_VIOMMU_ALLOC,
     uapi::iommu_viommu_alloc_min,
     {{sizeof(uapi::iommu_viommu_alloc), {6, 17}}, {24, {6, 13}}},
     viommuAlloc},
    plain<uapi::iommu_vdevice_alloc>(uapi::IOMMU_VDEVICE_ALLOC, {6, 13}, vdeviceAlloc),
    plain<uapi::iommu_ioas_change_process>(uapi::IOMMU_IOAS_CHANGE_PROCESS, {6, 13}, ioasChangeProcess),
    plain<uapi::iommu_veventq_alloc>(uapi::IOMMU_VEVENTQ_ALLOC, {6, 15}, veventqAlloc),
    plain<uapi::iommu_hw_queue_alloc>(uapi::IOMMU_HW_QUEUE_ALLOC, {6, 17}, hwQueueAlloc),
    plain<uapi::iommu_ioas_noiommu_get_pa>(uapi::IOMMU_IOAS_NOIOMMU_GET_PA, {7, 3}, ioasNoiommuGetPa),
};

// A kernel built with its tests has a command far behind the others; the numbers between are unused.
constexpr Entry kTest = {kTestRequest, kTestMinimum, {{kTestSize, kAlways}}, [](Command& command) {
                           return command.context.hooks->command(command);
                         }};
constexpr Entry kHole = {};

constexpr size_t kLargest = std::max(
    kTest.sizes[0].bytes,
    std::max_element(std::begin(kCommands), std::end(kCommands),
                     [](const Entry& a, const Entry& b) { return a.sizes[0].bytes < b.sizes[0].bytes; })
        ->sizes[0]
        .bytes);

// The size of the command's struct in this kernel; 0: the kernel has no such command.
uint32_t sizeIn(const Entry& entry, KernelVersion kernel) {
  for (const Size& size : entry.sizes) {
    if (size.bytes != 0 && kernel >= size.since) return size.bytes;
  }
  return 0;
}

// This kernel's table entry for a number; null: the table ends before it.
const Entry* findCommand(uint32_t nr, KernelVersion kernel, bool withTests) {
  const uint32_t at = nr - kFirst;
  if (nr < kFirst) return nullptr;
  if (at < std::size(kCommands) && sizeIn(kCommands[at], kernel) != 0) return &kCommands[at];
  if (!withTests || nr > (kTestRequest & 0xff)) return nullptr;
  return nr == (kTestRequest & 0xff) ? &kTest : &kHole;
}

// Copies the struct as this kernel knows it. A shorter one is extended with zeroes. A longer one must be
// zero behind the part that the kernel knows.
int copyStruct(void* to, size_t size, UserAddress user, uint32_t userSize) {
  const size_t common = std::min<size_t>(size, userSize);
  if (userSize > size) {
    const int zero = mm::Memory::allZero(user + size, userSize - size);
    if (zero < 0) return zero;
    if (zero == 0) return -E2BIG;
  }
  return mm::Memory::copyIn(to, user, common);
}

}  // namespace

int Command::respond(size_t length) const {
  return mm::Memory::copyOut(user, bytes, std::min<size_t>({length, userSize, size}));
}

Context::~Context() { objects.removeAll(); }

int Context::ioctl(unsigned long request, UserAddress argument) {
  const auto number = static_cast<uint32_t>(request);
  const Entry* const entry = findCommand(number & 0xff, host.options().kernel, hooks != nullptr);
  if (entry == nullptr) return vfioRequest(*this, number, argument);

  uint32_t userSize = 0;
  if (mm::Memory::copyIn(&userSize, argument, sizeof(userSize)) != 0) return -EFAULT;
  if (entry->request != number) return -ENOTTY;
  if (userSize < entry->minimum) return -EINVAL;
  const uint32_t size = sizeIn(*entry, host.options().kernel);
  alignas(8) unsigned char bytes[kLargest] = {};
  if (const int error = copyStruct(bytes, size, argument, userSize); error != 0) return error;
  Command command = {*this, argument, userSize, size, bytes};
  return entry->handle(command);
}

int64_t Context::mmap(void* hint, size_t length, int protection, int flags, uint64_t offset) {
  if (!host.since(6, 17)) return -ENODEV;
  const int type = flags & MAP_TYPE;
  if (type != MAP_SHARED && type != MAP_SHARED_VALIDATE) return -EINVAL;
  if ((protection & PROT_EXEC) != 0) return -EPERM;
  const auto found = mappable.find(offset);
  if (found == mappable.end() || length != VirtualInterface::kLength) return -ENXIO;
  return found->second->map(shared_from_this(), hint, flags);
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

std::shared_ptr<File> openIommufd(Services& host, const TestHooks* hooks) {
  return std::make_shared<Context>(host, mm::Payer::user, hooks);
}

}  // namespace vfio::soft::iommufd
