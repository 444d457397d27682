// Making units: what kinds of translation hardware there are, and what each can do unless a machine's
// description says otherwise. A unit is made with its machine and lives as long.
//
// One domain has one range of IOVAs (Unit::aperture). Hardware with several windows, as PPC has, gets the
// range from the first window's start to the last one's end, and the hole between them is reserved.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "endpoint.h"

namespace vfio::soft::iommu {

// What is to be made, in the words of `IommuModel` (docs/topology.md). What is left out is the kind's.
struct UnitModel {
  UnitKind kind = UnitKind::vtd;
  unsigned index = 0;  // among the machine's units: a part of its name, "dmar0"
  std::optional<std::vector<Range>> apertures;
  std::optional<std::vector<ReservedRegion>> reserved;
  std::optional<uint64_t> pageSizes;  // in bytes, as a bitmap
  std::optional<unsigned> pasidBits;  // 0-20
  std::optional<PageRequestKind> pageRequests;
  std::optional<std::vector<NestingFormat>> nesting;
  std::optional<bool> dirtyTracking;
  bool commandQueues = false;  // SMMUv3 only: Tegra241's virtual command queues
  std::optional<bool> enforcesCoherency;
  std::optional<bool> isolatesInterrupts;
};

// Throws std::invalid_argument, with what was expected for which field, if there can be no such unit.
[[nodiscard]] Unit makeUnit(const UnitModel& model);

// What stands in front of devices without an IOMMU: nothing is ever attached to them.
[[nodiscard]] Unit makeNoUnit();

// As they are written: "vtd", "arm-smmuv3", "pri" (and "" for none). Nothing: there is none of that name.
[[nodiscard]] std::optional<UnitKind> unitKind(std::string_view name);
[[nodiscard]] std::optional<NestingFormat> nestingFormat(std::string_view name);
[[nodiscard]] std::optional<PageRequestKind> pageRequestKind(std::string_view name);

}  // namespace vfio::soft::iommu
