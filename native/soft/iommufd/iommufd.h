// The iommufd as other parts of the host see it: the file behind /dev/iommu, and the device objects that
// VFIO makes in it. The inner parts (object table, address spaces, page tables) are private to this folder.
#pragma once

#include <cstdint>
#include <memory>

#include "../core/file.h"

namespace vfio::soft {
class Services;
namespace iommu {
class Endpoint;
}
}  // namespace vfio::soft

namespace vfio::soft::iommufd {

struct TestHooks;

// A physical device bound to an iommufd. Made by `bind`. Its destruction detaches it and gives back its id
// and the group's DMA ownership. It keeps the iommufd's context alive after /dev/iommu is closed.
class BoundDevice {
 public:
  virtual ~BoundDevice() = default;
  [[nodiscard]] virtual uint32_t id() const = 0;
  // `ptId` names an IOAS or a page table; on success it is the page table in use. With a PASID, the page
  // table translates the transactions with that PASID; 0 means none. `attach` is for a device that isn't
  // attached (else -EBUSY), `replace` for one that is (else -EINVAL).
  [[nodiscard]] virtual int attach(uint32_t& ptId, uint32_t pasid = 0) = 0;
  [[nodiscard]] virtual int replace(uint32_t& ptId, uint32_t pasid = 0) = 0;
  virtual void detach(uint32_t pasid = 0) = 0;  // nothing attached: no-op
};

// Opens /dev/iommu. `hooks`: those of a kernel with its tests, or null.
[[nodiscard]] std::shared_ptr<File> openIommufd(Services& host, const TestHooks* hooks);

[[nodiscard]] bool isIommufd(const File& file);

// The address space that the container requests on an iommufd work on. A group that uses the iommufd as its
// container makes sure that there is one: 0, -EINVAL (renounced) or -EBUSY (no id left). Later, compatIoas()
// gives its id to whoever attaches to it: 0, or -ENODEV when it has been destroyed since. `file` is an
// iommufd.
[[nodiscard]] int makeCompatIoas(File& file);
// A group without IOMMU makes sure that there never will be one: 0, or -EINVAL when there is one already.
[[nodiscard]] int renounceCompatIoas(File& file);
[[nodiscard]] int compatIoas(const File& file, uint32_t& id);

// VFIO_DEVICE_BIND_IOMMUFD. A mediated device is bound as an access of its driver. Returns 0, -EBADFD
// (`file` is not an iommufd), -EPERM (ownership, unsafe interrupts), -EBUSY ...
[[nodiscard]] int bind(const std::shared_ptr<File>& file, iommu::Endpoint& endpoint,
                       std::unique_ptr<BoundDevice>& out);

}  // namespace vfio::soft::iommufd
