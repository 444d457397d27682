// A model of an IOMMU: what all units of one kind have in common. This class describes a plain unit; a model
// overrides what it does in another way. models/ has a file for each.
//
// One model describes both the kernel's driver of such units and the hardware, since a program sees both
// together.
//
// Caching. translate() and invalidate() are the two ends of an IOTLB. A unit may keep a translation that
// translate() has found, but not the fact that there was none. It must forget the translation when
// invalidate() says so. No model here keeps anything: translate() walks the tables each time, and
// invalidate() does nothing. All the same, whoever changes a table or an attachment calls invalidate()
// (translation.h), after the change and before the memory behind it is unpinned. A model with an IOTLB
// overrides both, and keeps its entries with the unit.
//
// Life: a model has no state, and outlives all units of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "translation.h"
#include "unit.h"

namespace vfio::soft {
class Services;
}

namespace vfio::soft::iommu {

struct Attachment;

// What GET_HW_INFO says of a unit: a type, and the data of that type.
struct HwInfo {
  uint32_t type;
  std::vector<unsigned char> data;
};

// What is special about the leaf entries of the tables that a unit's driver fills.
struct LeafRules {
  bool noAccess = false;            // there are entries that neither read nor write
  bool writableIsReadable = false;  // devices can read what was mapped for writing only
  bool parentsAreWritable = false;  // the parents of guests' tables take no read-only mappings
};

// The translations of one endpoint that a unit has to forget: those of IOVAs in `range`. A larger page that
// the range touches is forgotten as a whole.
struct Invalidation {
  const Endpoint& endpoint;       // and with it the unit
  std::optional<uint32_t> pasid;  // for transactions with this PASID; nothing: for those without one
  bool guestPasids = false;       // also for those with any PASID that a guest's table translates
  Range range = kEverything;
};

class Model {
 public:
  // The values of a unit where the machine's description gives no others.
  struct Defaults {
    std::string_view unitName;  // "dmar": a unit's name is this and its index
    std::vector<Range> apertures{};
    std::vector<ReservedRegion> reserved{};
    uint64_t pageSizes = 4096;
    bool nests = false;
    unsigned pasidBits = 0;
    bool dirtyTracking = false;
    bool enforcesCoherency = false;
    bool isolatesInterrupts = false;
  };

  Model(std::string_view itsName, Defaults itsDefaults) : name(itsName), defaults(std::move(itsDefaults)) {}
  virtual ~Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const std::string_view name;  // "vtd"
  const Defaults defaults;

  // --- guests' tables
  // The one format that the driver knows, also where the hardware lacks it. Null: the
  // driver knows none, or the one that the unit reads.
  [[nodiscard]] virtual const GuestFormat* format() const { return nullptr; }
  // Can a unit be described as reading this one?
  [[nodiscard]] virtual bool accepts(const GuestFormat& wanted) const { return &wanted == format(); }
  // The format that the driver of this unit knows; null: none.
  [[nodiscard]] const GuestFormat* formatOf(const Unit& unit) const {
    return format() != nullptr ? format() : unit.nesting;
  }
  [[nodiscard]] virtual bool canHaveCommandQueues() const { return false; }

  // --- page tables
  // 0, or -EOPNOTSUPP when there can be no table with these flags (IOMMU_HWPT_ALLOC_*).
  [[nodiscard]] virtual int allocates(const Unit& unit, uint32_t flags) const;
  // Does the driver look at the flags of an allocation at all?
  [[nodiscard]] virtual bool takesFlags() const { return true; }
  [[nodiscard]] virtual LeafRules leaves(const Services& /*host*/) const { return {}; }
  // The page sizes that it can walk, in tables that may have been made for others.
  [[nodiscard]] virtual uint64_t walkable(const Unit& unit) const { return unit.pageSizes; }
  // Can a device be attached with a PASID?
  [[nodiscard]] virtual bool attachesPasids() const { return true; }
  // Can it walk the page table of a process (shared virtual addressing)?
  [[nodiscard]] virtual bool sharesTables() const { return false; }
  // Did the driver support the nesting type of containers?
  [[nodiscard]] virtual bool nestsInContainers() const { return false; }

  // --- what programs are told of it
  // The driver's answer when information of the type `wanted` is asked for.
  // Nothing: no driver gives any.
  [[nodiscard]] virtual std::optional<HwInfo> describe(const Services& /*host*/, const Unit& /*unit*/,
                                                       uint32_t /*wanted*/) const {
    return std::nullopt;
  }
  // Files in the unit's folder of sysfs: their paths there, and their text.
  struct Attribute {
    std::string_view path;
    std::string_view text;
  };
  [[nodiscard]] virtual std::vector<Attribute> attributes() const { return {}; }

  // --- transactions
  // Where a transaction of `from` leads; `by` is the attachment that translates it.
  [[nodiscard]] virtual Translation::Reach translate(const Endpoint& from, const Attachment& by,
                                                     std::optional<uint32_t> pasid, uint64_t iova,
                                                     uint64_t limit, uint32_t access) const;
  // Forgets the cached translations that `what` describes.
  virtual void invalidate(const Invalidation& /*what*/) const {}
};

}  // namespace vfio::soft::iommu
