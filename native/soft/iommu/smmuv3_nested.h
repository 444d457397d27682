// Guests' tables of SMMUv3: a stream table entry (STE) that leads to the context descriptors and the
// first-stage tables that the guest wrote, all at guest-physical addresses, which the nest parent translates.
//
// Such a table belongs to a virtual IOMMU: what names a device to its guest, and takes the guest's events.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "nested.h"

namespace vfio::soft::iommu {

// An entry of the event queue, as hardware writes it.
using SmmuEvent = std::array<uint64_t, 4>;

class SmmuGuest {
 public:
  // How the guest calls this device. Nothing: it doesn't know it.
  [[nodiscard]] virtual std::optional<uint32_t> streamId(const Endpoint& endpoint) const = 0;
  virtual void take(const SmmuEvent& event) = 0;

 protected:
  ~SmmuGuest() = default;
};

// Which devices have to be known to the guest before they can be attached to a table of its: no release has
// wanted that from the first to 6.14, then all, and from 6.19 on those that use a first stage.
enum class SmmuKnown { nobody, all, translated };

// `guest` outlives the table. 0, -EINVAL (data of another type or size), -EFAULT, -EIO (an STE with something
// in it that a guest can't have).
[[nodiscard]] int makeSmmuv3Nested(const Unit& unit, const std::shared_ptr<Domain>& parent, SmmuGuest& guest,
                                   SmmuKnown known, const UserData& data, std::shared_ptr<NestedTable>& out);

}  // namespace vfio::soft::iommu
