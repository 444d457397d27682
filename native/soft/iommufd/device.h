// The device object: a physical device that VFIO has bound to the file, and the state that iommufd keeps of
// its group.
//
// Life: a Device is made by `bind` and removed by its driver's `unbind` (the BoundDevice that VFIO gets
// calls it), never by DESTROY: the driver counts as a user. While it is bound its group belongs to the file.
// A DeviceGroup lives as long as one of its devices is bound. An Attach is made when the first device of a
// group is attached for a PASID (or without one), and destroyed when the last one is detached; replacing the
// page table keeps it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "../iommu/endpoint.h"
#include "object.h"

namespace vfio::soft::iommufd {

class Context;
class Device;
class Hwpt;
class Ioas;
class Vdevice;

// PASID 0 means no PASID, in the kernel and in this folder.
inline constexpr uint32_t kNoPasid = 0;

// The devices of one group are translated by one page table, for one PASID or without any. It passes their
// page requests to the fault queue of that table.
class Attach final : public iommu::PageRequestHandler {
 public:
  void take(iommu::Endpoint& from, std::vector<iommu::PageRequest> group) override;
  void forget(const iommu::Endpoint& from) override;

  Hwpt* hwpt = nullptr;
  std::vector<Device*> devices;
  Device* reporter = nullptr;                // the device that attached: page requests carry its id
  std::vector<iommu::Endpoint*> requesters;  // their page requests are on for this
};

struct DeviceGroup {
  explicit DeviceGroup(iommu::Group& itsGroup) : group(itsGroup) {}
  iommu::Group& group;
  std::map<uint32_t, Attach> attached;  // by PASID
};

class Device final : public Object {
 public:
  static constexpr ObjectKind kKind = ObjectKind::device;
  // Takes over one claim on the group.
  Device(Context& itsContext, iommu::Endpoint& itsEndpoint, std::shared_ptr<DeviceGroup> itsGroup);
  ~Device() override;

  // Takes the group for the context and makes the object. The caller is a user of it until `unbind`: 0,
  // -EPERM (ownership, unsafe interrupts), -EBUSY (no id left).
  [[nodiscard]] static int bind(Context& context, iommu::Endpoint& endpoint, Device*& out);
  static void unbind(Device& device);

  // Attaches a device that isn't attached for that PASID (else -EBUSY), or replaces the page table of one
  // that is (else -EINVAL): 0, with the page table in use in `ptId`; or -errno, and nothing has changed.
  enum class Change : uint8_t { attach, replace };
  [[nodiscard]] int change(Change how, uint32_t& ptId, uint32_t pasid = kNoPasid);
  void detach(uint32_t pasid = kNoPasid);  // nothing attached: no-op
  [[nodiscard]] bool attached(uint32_t pasid = kNoPasid) const;

  // The steps of `change`. `replaceWith` gives the table that it left in `left` (null: none); the device is
  // still a user of that table.
  [[nodiscard]] int attachTo(Hwpt& hwpt, uint32_t pasid);
  [[nodiscard]] int replaceWith(Hwpt& hwpt, uint32_t pasid, Hwpt*& left);
  Hwpt& detachFrom(uint32_t pasid);

  Context& context;
  iommu::Endpoint& endpoint;
  Vdevice* vdevice = nullptr;  // the vdevice that it is behind a virtual IOMMU (from 6.17 on)

 private:
  [[nodiscard]] int join(Change how, Hwpt& hwpt, uint32_t pasid, Hwpt*& left);
  [[nodiscard]] int joinAuto(Change how, Ioas& ioas, uint32_t pasid, uint32_t& ptId, Hwpt*& left);
  [[nodiscard]] int reserveFor(Ioas& ioas) const;
  [[nodiscard]] int checkCompatible(const Hwpt& hwpt, uint32_t pasid) const;
  [[nodiscard]] int checkRequests(const Hwpt& hwpt) const;
  [[nodiscard]] int checkPasid(uint32_t pasid, bool replaces) const;
  [[nodiscard]] int checkHardware(Hwpt& hwpt, uint32_t pasid, bool replaces) const;
  [[nodiscard]] std::vector<iommu::Endpoint*> usersOf(uint32_t pasid) const;
  void translateGroupBy(const Hwpt* hwpt, uint32_t pasid, Attach& by) const;
  void put(Hwpt& hwpt);

  const std::shared_ptr<DeviceGroup> group_;
};

}  // namespace vfio::soft::iommufd
