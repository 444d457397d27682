// Units: the pieces of translation hardware of a machine, each of one model (model.h). A unit has the
// model's abilities unless the description of the machine says otherwise.
//
// One domain has one range of IOVAs (Unit::aperture). Hardware with several windows, as PPC has, gets the
// range from the first window's start to the last one's end, and the hole between them is reserved.
//
// Life: a unit is made with its machine and destroyed with it. Its model outlives it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "page_request.h"
#include "request_queue.h"

namespace vfio::soft::iommu {

class GuestFormat;
class Model;

struct Range {
  uint64_t start;
  uint64_t last;  // inclusive
};
inline constexpr Range kEverything = {0, UINT64_MAX};

enum class ReservedKind { direct, directRelaxable, reserved, msi, softwareMsi };

struct ReservedRegion {
  Range range;
  ReservedKind kind;
};

struct Unit {
  const Model& model;
  std::string name;  // "dmar0"
  Range aperture;
  uint64_t pageSizes;                    // bitmap of page sizes in bytes
  std::vector<ReservedRegion> reserved;  // IOVAs that no endpoint behind it may map
  bool enforcesCoherency = false;
  bool isolatesInterrupts = false;
  bool tracksDirty = false;
  unsigned pasidBits = 0;
  PageRequestKind pageRequests = PageRequestKind::none;
  const GuestFormat* nesting = nullptr;  // the guests' tables that it reads; null: it has one stage only
  bool commandQueues = false;            // has queues of commands that a guest can fill by itself
  RequestQueue requestQueue{};           // the page requests of the endpoints behind it
};

// The unit to be made, in the words of `IommuModel` (docs/topology.md). A value that is left out is the
// model's.
struct UnitDescription {
  const Model* model;
  unsigned index = 0;  // among the machine's units: a part of its name
  std::optional<std::vector<Range>> apertures;
  std::optional<std::vector<ReservedRegion>> reserved;
  std::optional<uint64_t> pageSizes;  // in bytes, as a bitmap
  std::optional<unsigned> pasidBits;  // 0-20
  std::optional<PageRequestKind> pageRequests;
  std::optional<std::vector<const GuestFormat*>> nesting;
  std::optional<bool> dirtyTracking;
  bool commandQueues = false;
  std::optional<bool> enforcesCoherency;
  std::optional<bool> isolatesInterrupts;
};

// Throws std::invalid_argument, with what was expected for which field, if there can be no such unit.
[[nodiscard]] Unit makeUnit(const UnitDescription& description);

// The unit of devices without an IOMMU: nothing is ever attached to them.
[[nodiscard]] Unit makeNoUnit();

}  // namespace vfio::soft::iommu
