// A virtual IOMMU: the part of a unit that one guest uses, on a nest parent that maps the guest's memory.
// Devices join it as vdevices, with the guest's names for them; its events are put into queues; a guest's
// tables are made on it.
//
// Life: made by VIOMMU_ALLOC, stays until DESTROY, which fails while it has other users. It is a user of its
// nest parent; vdevices, event queues, hardware queues, page tables and mappings are users of it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "../iommu/guest_format.h"
#include "../iommu/nested.h"
#include "hwpt.h"
#include "object.h"

namespace vfio::soft::iommufd {

class Context;
class Device;
class HwQueue;
class Vdevice;
class VeventQueue;
class VirtualInterface;

class Viommu final : public Object, public iommu::Guest {
 public:
  static constexpr ObjectKind kKind = ObjectKind::viommu;
  Viommu(Context& itsContext, PagingHwpt& itsParent, const iommu::Unit& itsUnit,
         const iommu::GuestFormat& itsFormat, uint32_t itsType);
  ~Viommu() override;

  // A guest's table on it, not yet published: 0, or -errno and no trace is left.
  [[nodiscard]] int makeNested(const Device& device, uint32_t flags, const iommu::UserData& data,
                               NestedHwpt*& out);
  // Runs the guest's commands that invalidate caches: 0 or -errno; `array.handled` is set in both cases.
  [[nodiscard]] int runCommands(iommu::UserArray& array) const;
  // Runs a command from a queue of the guest's own. False: a guest may not issue it.
  [[nodiscard]] bool runQueued(const iommu::GuestCommand& command) const;

  // --- iommu::Guest
  [[nodiscard]] std::optional<uint64_t> nameOf(const iommu::Endpoint& endpoint) const override;
  [[nodiscard]] bool knows(uint64_t name) const override { return vdevices.contains(name); }
  int report(uint32_t eventType, const void* data, size_t size) override;

  Context& context;
  PagingHwpt& parent;
  const iommu::Unit& unit;
  const iommu::GuestFormat& format;  // of the tables on it
  const uint32_t type;
  std::map<uint64_t, Vdevice*> vdevices;        // by the guest's name
  std::vector<VeventQueue*> queues;             // at most one of each type
  std::unique_ptr<VirtualInterface> interface;  // only with command queues: their registers
};

}  // namespace vfio::soft::iommufd
