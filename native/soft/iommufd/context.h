// One open /dev/iommu: its objects, its options, and the entry point for its requests.
//
// Life: made by an open, destroyed with the last reference. Descriptors hold references, and bound devices
// do, which keep it alive after the descriptors are closed. It also represents the user as the owner of
// groups.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "../core/file.h"
#include "device.h"
#include "ioas.h"
#include "object.h"
#include "pages.h"
#include "test_hooks.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommufd {

class VirtualInterface;

class Context final : public File, public std::enable_shared_from_this<Context> {
 public:
  Context(Services& itsHost, mm::Payer whoPays, const TestHooks* itsHooks)
      : host(itsHost), hooks(itsHooks), payer(whoPays) {}
  ~Context() override;

  [[nodiscard]] FileKind kind() const override { return FileKind::iommufd; }
  [[nodiscard]] int ioctl(unsigned long request, UserAddress argument) override;

  // Maps only the offsets that VIOMMU_ALLOC has given out.
  [[nodiscard]] int64_t mmap(void* hint, size_t length, int protection, int flags, uint64_t offset) override;

  // Removes an object. If it is the compat IOAS, the file no longer refers to it.
  [[nodiscard]] int remove(uint32_t id);

  // A group's state in this file, for as long as one of its devices is bound here.
  [[nodiscard]] std::shared_ptr<DeviceGroup> group(iommu::Group& group);

  Services& host;
  const TestHooks* const hooks;  // null: a kernel without its tests
  ObjectTable objects;
  mm::Payer payer;           // is charged for pages of callers without CAP_IPC_LOCK
  Ioas* vfioIoas = nullptr;  // the VFIO container requests work on it; this pointer is no user of it
  bool noIommu = false;      // the VFIO container requests are those of groups without IOMMU, for good
  std::map<uint64_t, VirtualInterface*> mappable;  // by offset

 private:
  std::map<const iommu::Group*, std::weak_ptr<DeviceGroup>> groups_;
};

}  // namespace vfio::soft::iommufd
