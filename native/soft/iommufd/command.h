// A request on /dev/iommu on its way through its handler: the caller's struct, zero-extended to the size
// that this "kernel" knows, and the place for the reply.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../uapi/iommufd.h"
#include "../core/file.h"
#include "context.h"

namespace vfio::soft::iommufd {

struct Command {
  Context& context;
  UserAddress user;   // the caller's struct
  uint32_t userSize;  // what the caller says its size is
  uint32_t size;      // of the struct in the kernel that the host answers as; bytes behind it read as zero
  void* bytes;

  template <class Struct>
  [[nodiscard]] Struct& as() const {
    return *static_cast<Struct*>(bytes);
  }
  // Writes the struct back, only as much of it as both the caller and the kernel know: 0 or -EFAULT.
  [[nodiscard]] int respond(size_t length) const;
};

using Handler = int (*)(Command& command);

// ioas_commands.cc
int ioasAlloc(Command& command);
int ioasIovaRanges(Command& command);
int ioasAllowIovas(Command& command);
int ioasMap(Command& command);
int ioasCopy(Command& command);
int ioasUnmap(Command& command);
// options.cc
int option(Command& command);
int vfioIoas(Command& command);
// hwpt.cc, hw_info.cc
int hwptAlloc(Command& command);
int hwptInvalidate(Command& command);
int getHwInfo(Command& command);
// dirty.cc, fault_queue.cc
int hwptSetDirtyTracking(Command& command);
int hwptGetDirtyBitmap(Command& command);
int faultQueueAlloc(Command& command);
// ioas_file.cc
int ioasMapFile(Command& command);
int ioasChangeProcess(Command& command);
int ioasNoiommuGetPa(Command& command);
// viommu.cc, vdevice.cc, vevent_queue.cc, hw_queue.cc
int viommuAlloc(Command& command);
int vdeviceAlloc(Command& command);
int veventqAlloc(Command& command);
int hwQueueAlloc(Command& command);

// The kernel's test-only command (TestHooks::command): its struct has this size, and must be given at least
// up to its last field.
inline constexpr uint32_t kTestRequest = 0x3ba0;
inline constexpr uint32_t kTestSize = 72;
inline constexpr uint32_t kTestMinimum = 68;

// ioas_commands.cc: maps memory of the program, as MAP and the container's request do, or pages of either
// kind (whose reference it takes over). With `fixed`, `iova` is the place; else the place is chosen and
// written to `iova`.
[[nodiscard]] int mapUser(Context& context, IoPagetable& table, uint64_t user, uint64_t length,
                          uint32_t access, bool fixed, uint64_t& iova);
[[nodiscard]] int mapPages(IoPagetable& table, Pages& pages, uint64_t user, uint64_t length, uint32_t access,
                           bool fixed, uint64_t& iova);
// Who is charged for the memory that the calling thread maps.
[[nodiscard]] mm::Payer payerOf(const Context& context);
// The rights and flags of the map commands.
inline constexpr uint32_t kAccessFlags = uapi::IOMMU_IOAS_MAP_WRITEABLE | uapi::IOMMU_IOAS_MAP_READABLE;
inline constexpr uint32_t kMapFlags = uapi::IOMMU_IOAS_MAP_FIXED_IOVA | kAccessFlags;
[[nodiscard]] constexpr uint32_t accessOf(uint32_t flags) {
  return ((flags & uapi::IOMMU_IOAS_MAP_WRITEABLE) != 0 ? iommu::kWrite : 0U) |
         ((flags & uapi::IOMMU_IOAS_MAP_READABLE) != 0 ? iommu::kRead : 0U);
}

// vfio_compat.cc: the requests of a VFIO container, for request numbers that are not iommufd's.
[[nodiscard]] int vfioRequest(Context& context, uint32_t request, UserAddress argument);

}  // namespace vfio::soft::iommufd
