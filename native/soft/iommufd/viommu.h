// A virtual IOMMU: the part of a unit that one guest has, on a nest parent that maps the guest's memory.
// Devices join it as vdevices, with the guest's names for them; its events go to queues; a guest's tables are
// made on it.
//
// Life: made by VIOMMU_ALLOC, stays until DESTROY, for which nothing may be left on it. It is a user of its
// nest parent; vdevices, event queues, hardware queues, page tables and mappings are users of it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "../iommu/nested.h"
#include "../iommu/smmuv3_nested.h"
#include "hwpt.h"
#include "object.h"

namespace vfio::soft::iommufd {

class Context;
class Device;
class HwQueue;
class Vdevice;
class VeventQueue;
class VirtualInterface;

class Viommu final : public Object, public iommu::SmmuGuest {
 public:
  static constexpr ObjectKind kKind = ObjectKind::viommu;
  Viommu(Context& itsContext, PagingHwpt& itsParent, const iommu::Unit& itsUnit, uint32_t itsType);
  ~Viommu() override;

  // A guest's table on it, not yet published: 0, or -errno and nothing is left.
  [[nodiscard]] int makeNested(const Device& device, uint32_t flags, const iommu::UserData& data,
                               NestedHwpt*& out);
  // Drops what is cached: 0 or -errno; `array.handled` is told also then.
  [[nodiscard]] int invalidate(iommu::UserArray& array) const;
  // To the queue of this type, if there is one: 0, or -EOPNOTSUPP.
  int report(uint32_t eventType, const void* data, size_t size);

  // --- SmmuGuest
  [[nodiscard]] std::optional<uint32_t> streamId(const iommu::Endpoint& endpoint) const override;
  void take(const iommu::SmmuEvent& event) override;

  Context& context;
  PagingHwpt& parent;
  const iommu::Unit& unit;
  const uint32_t type;
  std::map<uint64_t, Vdevice*> vdevices;        // by the guest's name
  std::vector<VeventQueue*> queues;             // one of a type
  std::unique_ptr<VirtualInterface> interface;  // with command queues: the page of their registers
};

}  // namespace vfio::soft::iommufd
