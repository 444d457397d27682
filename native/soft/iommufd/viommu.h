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

  // A guest's table on it, not yet published: 0, or -errno and nothing is left.
  [[nodiscard]] int makeNested(const Device& device, uint32_t flags, const iommu::UserData& data,
                               NestedHwpt*& out);
  // Runs the guest's commands to forget what is cached: 0 or -errno; `array.handled` is told also then.
  [[nodiscard]] int runCommands(iommu::UserArray& array) const;
  // Runs one from a queue of the guest's own. False: it is none that a guest may have.
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
  std::vector<VeventQueue*> queues;             // one of a type
  std::unique_ptr<VirtualInterface> interface;  // with command queues: the page of their registers
};

}  // namespace vfio::soft::iommufd
