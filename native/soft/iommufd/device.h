// The device object: a physical device that VFIO has bound to the file, and what iommufd keeps of its group.
//
// Life: a Device is made by `bind` and removed by its driver's `unbind` (the BoundDevice given out is one),
// never by DESTROY: the driver counts as a user. While it is bound its group belongs to the file. A
// DeviceGroup lives as long as one of its devices is bound.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../iommu/endpoint.h"
#include "object.h"

namespace vfio::soft::iommufd {

class Context;
class Device;
class Ioas;
class PagingHwpt;

// The devices of one group are translated by one page table.
struct DeviceGroup {
  explicit DeviceGroup(iommu::Group& itsGroup) : group(itsGroup) {}
  iommu::Group& group;
  PagingHwpt* hwpt = nullptr;
  std::vector<Device*> attached;
};

class Device final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::device;
  // Takes over one claim on the group.
  Device(Context& itsContext, iommu::Endpoint& itsEndpoint, std::shared_ptr<DeviceGroup> itsGroup);
  ~Device() override;

  // Takes the group for the context and makes the object, of which the caller is a user until `unbind`: 0,
  // -EPERM (ownership, unsafe interrupts), -EBUSY (no id left).
  [[nodiscard]] static int bind(Context& context, iommu::Endpoint& endpoint, Device*& out);
  static void unbind(Device& device);

  // Attaches, or when it is attached replaces: 0 and the page table in use, or -errno and nothing changed.
  [[nodiscard]] int change(uint32_t& ptId);
  void detach();
  [[nodiscard]] bool attached() const;

  // The steps of that. `attachTo` is for a device that isn't attached, `replaceWith` for one that is: 0 and
  // the table that it left (null: none), of which it still is a user.
  [[nodiscard]] int attachTo(PagingHwpt& hwpt);
  [[nodiscard]] int replaceWith(PagingHwpt& hwpt, PagingHwpt*& left);
  PagingHwpt& detachFrom();

  Context& context;
  iommu::Endpoint& endpoint;

 private:
  [[nodiscard]] int join(PagingHwpt& hwpt, PagingHwpt*& left);
  [[nodiscard]] int joinAuto(Ioas& ioas, uint32_t& ptId, PagingHwpt*& left);
  [[nodiscard]] int reserveFor(Ioas& ioas) const;
  [[nodiscard]] int translateGroupBy(const PagingHwpt* hwpt) const;
  void put(PagingHwpt& hwpt);

  const std::shared_ptr<DeviceGroup> group_;
};

}  // namespace vfio::soft::iommufd
